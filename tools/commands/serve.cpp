#include "tools/commands/serve.hpp"
#include "actors/scheduler/policy.hpp"
#include "gpu/model/model_info.hpp"
#include "tools/runtime/process.hpp"
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

extern char** environ; // NOLINT(readability-identifier-naming)

namespace hflex::commands {

void config_flags::add_file(CLI::App& app) {
  app.add_option("-C,--config", file_, "Configuration file (YAML)")->envname("HFLEX_CONFIG");
  app.add_flag(
      "--print-config", print_, "Print the configuration as it would be used, with every key explained, and end");
}

void config_flags::add(CLI::App& app, const std::string& flag, const std::string& key, const std::string& help) {
  app.add_option_function<std::string>(
      flag,
      [this, key, flag](const std::string& text) {
        given_.push_back({key, text, flag});
      },
      help + " (key " + key + ")");
}

bool config_flags::has(const std::string& key) const {
  return std::any_of(given_.begin(), given_.end(), [&](const auto& f) { return f.key == key; });
}

std::string config_flags::given(const std::string& key) const {
  auto found = std::find_if(given_.rbegin(), given_.rend(), [&](const auto& f) { return f.key == key; });
  return found == given_.rend() ? std::string{} : found->text;
}

std::optional<config::loaded_config> config_flags::load() const {
  config::sources from;
  from.file = file_;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    std::string_view text{*entry};
    if (auto split = text.find('='); split != std::string_view::npos)
      from.environment.emplace(text.substr(0, split), text.substr(split + 1));
  }
  for (const char* client : {"HFLEX_HEAD", "HFLEX_TIMEOUT_S", "HFLEX_CONFIG"})
    from.environment.erase(client); // of the command line itself
  from.flags = given_;
  for (const auto& p : scheduler::policies()) from.policies.push_back(p.name);
  auto loaded = config::load_config(from);
  if (!loaded) {
    std::fprintf(stderr, "%s\n", config::to_error(loaded.error()).message.c_str());
    return std::nullopt;
  }
  return std::move(*loaded);
}

void set_up_log(config::log_level level) {
  auto log = spdlog::stderr_color_mt("hflex");
  log->set_pattern("%Y-%m-%d %H:%M:%S.%e %^%l%$ %v");
  log->set_level(static_cast<spdlog::level::level_enum>(
      level == config::log_level::off ? SPDLOG_LEVEL_OFF : static_cast<int>(level)));
  log->flush_on(spdlog::level::info);
  spdlog::set_default_logger(log);
}

wire::system_options system_options_of(const config::cluster_config& config) {
  wire::system_options o;
  o.heartbeat = config.membership.heartbeat_interval;
  // The cluster core says when silence of a node is death. CAF, which knows no suspicion, would cut the connections of
  // a head that was held up itself, and agents those to such a head, with all of their work: that is for a head that is
  // gone without its connections being broken.
  o.peer_timeout = 5 * config.membership.lost_after;
  return o;
}

std::string default_model() {
  namespace fs = std::filesystem;
  for (auto dir = fs::path{runtime::self_path()}.parent_path(); dir.has_relative_path(); dir = dir.parent_path()) {
    auto model = dir / "examples" / "models" / "austen-2.7m";
    if (fs::exists(model / "config.json")) return model.string();
  }
  return {};
}

bool model_loads(const std::string& model) {
  const auto faults = gpu::check_model(model);
  for (const auto& fault : faults) std::fprintf(stderr, "%s\n", fault.c_str());
  if (!faults.empty())
    std::fprintf(stderr, "hflex: %zu fault%s: the model will not load\n", faults.size(), faults.size() == 1 ? "" : "s");
  return faults.empty();
}

} // namespace hflex::commands
