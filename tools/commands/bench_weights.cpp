// `hflex bench weights`: how long a new instance takes to serve, by where its weights come from.
#include "tools/bench/engine.hpp"
#include "tools/bench/weights.hpp"
#include "tools/cli/exit_code.hpp"
#include "tools/cli/json_line.hpp"
#include "tools/cli/table.hpp"
#include "tools/cli/units.hpp"
#include "tools/commands/serve.hpp"
#include <cstdio>
#include <memory>

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

/// Milliseconds until all newcomers of a path had their weights, as a multiple of one's.
double ratio_to_one(const bench::weights_report& r, const bench::start_point& p) {
  for (const auto& one : r.starts)
    if (one.path == p.path && one.newcomers == 1) return p.all_weights_ms / one.all_weights_ms;
  return 0;
}

nlohmann::ordered_json parts_json(const bench::start_parts& s) {
  nlohmann::ordered_json j;
  j["weights_path"] = s.path;
  j["messages_ms"] = s.messages;
  j["plan_ms"] = s.plan;
  j["weights_ms"] = s.weights;
  j["allocate_ms"] = s.allocate;
  j["warm_up_ms"] = s.warm_up;
  j["spawn_ms"] = s.spawn;
  j["ready_ms"] = s.ready;
  j["first_token_ms"] = s.first_token;
  return j;
}

nlohmann::ordered_json to_json(const bench::weights_report& r) {
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
    starts.push_back({{"path", p.path}, {"newcomers", p.newcomers}, {"all_weights_ms", p.all_weights_ms},
        {"times_one", ratio_to_one(r, p)}, {"all_ready_ms", p.all_ready_ms}, {"first_token_ms", p.first_token_ms},
        {"starts", each}});
  }
  all["starts"] = starts;
  return all;
}

void show(const bench::weights_report& r) {
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
      {"ALLOCATE", right}, {"WARM-UP", right}, {"SPAWN", right}, {"ALL WEIGHTS", right}, {"X ONE", right},
      {"ALL READY", right}, {"FIRST TOKEN", right}});
  for (const auto& p : r.starts) {
    const auto& s = p.starts.back();
    starts.add({p.path, std::to_string(p.newcomers), ms(s.messages), ms(s.plan), ms(s.weights), ms(s.allocate),
        ms(s.warm_up), ms(s.spawn), ms(p.all_weights_ms), fmt::format("{:.2f}", ratio_to_one(r, p)), ms(p.all_ready_ms),
        ms(p.first_token_ms)});
  }
  std::fputs(starts.render(cli::detect_terminal(1)).c_str(), stdout);
}

int run_weights(weights_flags& f) {
  f.options.tokenizer_from = default_model();
  if (f.options.model.empty() && f.options.tokenizer_from.empty())
    return usage_error("the demo model, whose tokenizer a made checkpoint gets, is not installed: give --model");
  set_up_log(config::log_level::error);
  auto terminal = cli::detect_terminal(2);
  auto report = bench::measure_weights(f.options, [&](const std::string& what) {
    if (terminal.is_terminal) std::fprintf(stderr, "\r\x1b[K%s", what.c_str());
  });
  if (terminal.is_terminal) std::fputs("\r\x1b[K", stderr);
  if (!report) return commands::report(report.error());
  if (f.format == output::json)
    std::fputs(cli::json_line(to_json(*report)).c_str(), stdout);
  else
    show(*report);
  return cli::exit_done;
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
  app.add_option("--threads", f->options.threads, "Compute threads of an agent, 0 = all cores")->capture_default_str();
  app.add_option("--link-mib-s", f->options.link_mib_s, "Bounded links between hosts that are measured, too")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--repeats", f->options.repeats, "Of each point; the fastest counts")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  app.add_option("-o,--output", f->format, "text or json")
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, output>{{"text", output::text}, {"json", output::json}}))
      ->option_text("text|json");
  add_examples(app, "  hflex bench weights\n  hflex bench weights --shape llama-3.2-1b --newcomers 1,4 -o json\n"
                    "  hflex bench weights --model DIR --newcomers 1,2,4,8 --link-mib-s 256");
  return [f] { return run_weights(*f); };
}

} // namespace hflex::commands
