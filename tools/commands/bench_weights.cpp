// `hflex bench weights`: how long a new instance takes to serve, by where its weights come from.
#include "tools/bench/engine.hpp"
#include "tools/bench/weights.hpp"
#include "tools/cli/table.hpp"
#include "tools/cli/units.hpp"
#include "tools/commands/bench_output.hpp"
#include "tools/commands/serve.hpp"
#include "tools/runtime/process.hpp"
#include <csignal>
#include <cstdio>
#include <memory>
#include <stdexcept>

namespace hflex::commands {
namespace {

struct weights_flags {
  bench::weights_options options;
  output format{output::text};
};

double ms_of(const bench::weights_report& r, const std::string& way) {
  for (const auto& p : r.loads)
    if (p.way == way) return p.ms;
  return 0;
}

/// Milliseconds until all newcomers of a path had their weights, as a multiple of one's, where one was measured.
std::optional<double> ratio_to_one(const bench::weights_report& r, const bench::start_point& p) {
  for (const auto& one : r.starts)
    if (one.path == p.path && one.newcomers == 1 && one.fault.empty() && p.fault.empty())
      return p.all_weights_ms / one.all_weights_ms;
  return std::nullopt;
}

nlohmann::ordered_json parts_json(const bench::start_parts& s) {
  nlohmann::ordered_json j;
  j["weights_path"] = s.path;
  if (!s.device.empty()) j["device_weights"] = s.device;
  j["messages_ms"] = s.messages;
  j["plan_ms"] = s.plan;
  j["weights_ms"] = s.weights;
  j["allocate_ms"] = s.allocate;
  j["warm_up_ms"] = s.warm_up;
  j["spawn_ms"] = s.spawn;
  j["link_ms"] = s.link;
  j["ready_ms"] = s.ready;
  j["first_token_ms"] = s.first_token;
  return j;
}

nlohmann::ordered_json weights_json(const bench::weights_report& r) {
  nlohmann::ordered_json all;
  all["bench"] = "weights";
  all["model"] = r.model;
  all["checkpoint_bytes"] = r.checkpoint_bytes;
  all["weights_bytes"] = r.region_bytes;
  all["ceilings"] = {{"memcpy_gb_s", r.most.memcpy_gb_s}, {"memcpy_fresh_gb_s", r.most.fresh_gb_s},
      {"tcp_gb_s", r.most.tcp_gb_s}, {"tcp_fresh_gb_s", r.most.tcp_fresh_gb_s}};
  auto loads = nlohmann::ordered_json::array();
  for (const auto& p : r.loads)
    loads.push_back({{"way", p.way}, {"ms", p.ms}, {"gb_s", p.gb_s},
        {"times_faster_than_engine_cold", ms_of(r, "engine's way, disk cold") / p.ms},
        {"times_faster_than_engine_warm", ms_of(r, "engine's way, disk warm") / p.ms}, {"note", p.note}});
  all["loads"] = loads;
  auto starts = nlohmann::ordered_json::array();
  for (const auto& p : r.starts) {
    auto each = nlohmann::ordered_json::array();
    for (const auto& s : p.starts) each.push_back(parts_json(s));
    nlohmann::ordered_json j{{"path", p.path}, {"newcomers", p.newcomers}};
    if (!p.fault.empty()) {
      j["fault"] = p.fault;
    } else {
      j["all_weights_ms"] = p.all_weights_ms;
      if (const auto ratio = ratio_to_one(r, p)) j["times_one"] = *ratio;
      j["all_ready_ms"] = p.all_ready_ms;
      j["first_token_ms"] = p.first_token_ms;
      j["starts"] = each;
    }
    starts.push_back(j);
  }
  all["starts"] = starts;
  auto serving = nlohmann::ordered_json::array();
  for (const auto& p : r.serving) {
    nlohmann::ordered_json j{{"link", p.link}, {"prompt_tokens", p.prompt_tokens}};
    if (!p.fault.empty()) {
      j["fault"] = p.fault;
    } else {
      j["first_token_waiting_ms"] = p.waiting_ms;
      j["first_token_while_loading_ms"] = p.while_loading_ms;
    }
    serving.push_back(j);
  }
  all["serving"] = serving;
  return all;
}

void show_serving(const bench::weights_report& r) {
  const auto right = cli::align::right;
  cli::table t({{"WEIGHTS BY"}, {"PROMPT", right}, {"FIRST TOKEN, WAITING", right}, {"SERVING WHILE LOADING", right},
      {"SAVED", right}});
  for (const auto& p : r.serving)
    if (p.fault.empty())
      t.add({p.link, std::to_string(p.prompt_tokens), fmt::format("{:.1f}", p.waiting_ms),
          fmt::format("{:.1f}", p.while_loading_ms), fmt::format("{:.1f}", p.waiting_ms - p.while_loading_ms)});
  std::fputs(t.render(cli::detect_terminal(1)).c_str(), stdout);
}

void show_weights(const bench::weights_report& r) {
  if (r.loads.empty()) return show_serving(r);
  const auto right = cli::align::right;
  const auto ms = [](double v) { return fmt::format("{:.1f}", v); };
  std::printf("%s, %s packed; this machine: memcpy %.1f GB/s (%.1f into fresh memory), TCP over loopback %.1f GB/s "
              "(%.1f into fresh memory)\n",
      r.model.c_str(), cli::human_bytes(r.region_bytes).c_str(), r.most.memcpy_gb_s, r.most.fresh_gb_s, r.most.tcp_gb_s,
      r.most.tcp_fresh_gb_s);
  cli::table loads(
      {{"WEIGHTS FROM"}, {"MS", right}, {"GB/S", right}, {"X ENGINE COLD", right}, {"X ENGINE WARM", right}, {"NOTE"}});
  for (const auto& p : r.loads)
    loads.add({p.way, ms(p.ms), fmt::format("{:.2f}", p.gb_s),
        fmt::format("{:.1f}", ms_of(r, "engine's way, disk cold") / p.ms),
        fmt::format("{:.1f}", ms_of(r, "engine's way, disk warm") / p.ms), p.note});
  std::fputs(loads.render(cli::detect_terminal(1)).c_str(), stdout);
  cli::table starts({{"START FROM"}, {"NEW", right}, {"MESSAGES", right}, {"PLAN", right}, {"WEIGHTS", right},
      {"ALLOCATE", right}, {"WARM-UP", right}, {"SPAWN", right}, {"LINK", right}, {"ALL WEIGHTS", right},
      {"X ONE", right}, {"ALL READY", right}, {"FIRST TOKEN", right}});
  for (const auto& p : r.starts) {
    if (!p.fault.empty()) continue;
    const auto& s = p.starts.back();
    const auto ratio = ratio_to_one(r, p);
    const auto path = s.device.empty() ? p.path : fmt::format("{}; device: {}", p.path, s.device);
    starts.add({path, std::to_string(p.newcomers), ms(s.messages), ms(s.plan), ms(s.weights), ms(s.allocate),
        ms(s.warm_up), ms(s.spawn), ms(s.link), ms(p.all_weights_ms), ratio ? fmt::format("{:.2f}", *ratio) : "-",
        ms(p.all_ready_ms), ms(p.first_token_ms)});
  }
  std::fputs(starts.render(cli::detect_terminal(1)).c_str(), stdout);
  show_serving(r);
}

int run_weights(weights_flags& f) {
  f.options.tokenizer_from = default_model();
  if (f.options.model.empty() && f.options.tokenizer_from.empty())
    return usage_error("the demo model, whose tokenizer a made checkpoint gets, is not installed: give --model");
  set_up_log(config::log_level::error);
  live_line line;
  runtime::hold_signals();
  auto report = bench::measure_weights(f.options, [&](const std::string& what) {
    const auto signal = runtime::next_signal(duration{0});
    // Between two points: the agents and the made checkpoint go with what holds them.
    if (signal == SIGINT || signal == SIGTERM) throw std::runtime_error("interrupted");
    line.show(what);
  });
  line.clear();
  const int code = finish_bench(report, f.format, weights_json, show_weights);
  bool all = true;
  for (const auto& p : report ? report->starts : std::vector<bench::start_point>{}) {
    if (!p.fault.empty())
      std::fprintf(stderr, "hflex: %u newcomers, %s: %s\n", p.newcomers, p.path.c_str(), p.fault.c_str());
    all = all && p.fault.empty();
  }
  for (const auto& p : report ? report->serving : std::vector<bench::serving_point>{}) {
    if (!p.fault.empty())
      std::fprintf(stderr, "hflex: %s, %u tokens: %s\n", p.link.c_str(), p.prompt_tokens, p.fault.c_str());
    all = all && p.fault.empty();
  }
  return all ? code : cli::exit_failed;
}

} // namespace

runner add_bench_weights(CLI::App& app) {
  auto f = std::make_shared<weights_flags>();
  auto* model = app.add_option("--model", f->options.model, "Checkpoint directory");
  app.add_option("--shape", f->options.shape,
         "Random weights in the shape of a published model, in a temporary folder, when no --model is given")
      ->check(CLI::IsMember(bench::shape_names()))
      ->capture_default_str()
      ->excludes(model);
  app.add_option("--newcomers", f->options.newcomers, "Instances that start at once")
      ->delimiter(',')
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--device", f->options.device, "Device of every agent: cpu, or cuda:I, which all of them share")
      ->check([](const std::string& word) {
        return word == "cpu" || word.rfind("cuda:", 0) == 0 ? std::string{} : "expected cpu or cuda:I, found " + word;
      })
      ->capture_default_str();
  app.add_option("--threads", f->options.threads, "Compute threads of an agent on a CPU, 0 = all cores")
      ->capture_default_str();
  app.add_option("--link-mib-s", f->options.link_mib_s, "Bounded links between hosts that are measured, too")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--repeats", f->options.repeats, "Of each point; the fastest counts")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  app.add_option(
         "--prompt-tokens", f->options.prompt_tokens, "Of the long prompt that serving while loading is shown on")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  app.add_flag("--serving-only", f->options.serving_only,
      "Only the first token of newcomers that serve while they load, against those that wait");
  add_output_option(app, f->format);
  add_examples(app, "  hflex bench weights\n  hflex bench weights --shape llama-3.2-1b --newcomers 1,4 -o json\n"
                    "  hflex bench weights --serving-only --prompt-tokens 1024\n"
                    "  hflex bench weights --device cuda:0 --shape llama-3.2-1b\n"
                    "  hflex bench weights --model DIR --newcomers 1,2,4,8 --link-mib-s 256");
  return [f] { return run_weights(*f); };
}

} // namespace hflex::commands
