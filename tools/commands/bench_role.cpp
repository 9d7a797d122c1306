// `hflex bench role`: changes of role under full load.
#include "tools/bench/own_cluster.hpp"
#include "tools/bench/role.hpp"
#include "tools/cli/progress.hpp"
#include "tools/cli/table.hpp"
#include "tools/commands/bench_output.hpp"
#include "tools/commands/serve.hpp"
#include "tools/runtime/process.hpp"
#include <algorithm>
#include <csignal>
#include <map>

namespace hflex::commands {
namespace {

struct role_flags {
  bench::role_options options;
  head_options head;
  bool running{false}; ///< --head was given: a cluster is there
  std::string model;
  std::string policy{"hyperflexis"};
  output format{output::text};
};

/// Values at a rank of a sample, by the nearest one.
struct spread {
  explicit spread(std::vector<double> sample) : sorted(std::move(sample)) { std::sort(sorted.begin(), sorted.end()); }
  double at(double share) const {
    if (sorted.empty()) return 0;
    return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1) + 0.5)];
  }
  std::vector<double> sorted;
};

nlohmann::ordered_json to_json(const spread& s) {
  return {{"p50", s.at(0.5)}, {"p90", s.at(0.9)}, {"p99", s.at(0.99)}, {"longest", s.at(1)}};
}

struct flip_times {
  std::vector<double> drain, beyond;
};

/// By transition, "prefill -> decode"; all of them first, under "all".
std::vector<std::pair<std::string, flip_times>> by_transition(const bench::role_report& r) {
  std::map<std::string, flip_times> of;
  flip_times all;
  for (const auto& f : r.flips)
    for (auto* to : {&all, &of[fmt::format("{} -> {}", to_string(f.from), to_string(f.to))]}) {
      to->drain.push_back(f.drain_ms);
      to->beyond.push_back(f.beyond_ms());
    }
  std::vector<std::pair<std::string, flip_times>> rows{{"all", std::move(all)}};
  for (auto& row : of) rows.push_back(std::move(row));
  return rows;
}

nlohmann::ordered_json report_json(const bench::role_report& r) {
  nlohmann::ordered_json j{{"bench", "role"}, {"flips", r.flips.size()}, {"concurrency", r.concurrency},
      {"requests", r.requests}, {"finished", r.finished}, {"failed", r.failed}, {"tokens", r.tokens},
      {"wall_s", r.wall_s}, {"tokens_per_s", static_cast<double>(r.tokens) / r.wall_s}, {"migrations", r.migrations},
      {"handed_back", r.handed_back}, {"weight_loads", r.loads}, {"reasons", r.reasons}};
  auto transitions = nlohmann::ordered_json::array();
  for (auto& [name, times] : by_transition(r))
    transitions.push_back({{"transition", name}, {"flips", times.beyond.size()},
        {"beyond_drain_ms", to_json(spread{times.beyond})}, {"drain_ms", to_json(spread{times.drain})}});
  j["transitions"] = transitions;
  auto each = nlohmann::ordered_json::array();
  for (const auto& f : r.flips)
    each.push_back({{"instance", to_string(f.instance)}, {"from", to_string(f.from)}, {"to", to_string(f.to)},
        {"drain_ms", f.drain_ms}, {"beyond_drain_ms", f.beyond_ms()}});
  j["each"] = each;
  return j;
}

void show(const bench::role_report& r) {
  const auto right = cli::align::right;
  const auto ms = [](double v) { return fmt::format("{:.1f}", v); };
  cli::table table({{"TRANSITION"}, {"FLIPS", right}, {"BEYOND P50", right}, {"P90", right}, {"P99", right},
      {"LONGEST", right}, {"DRAIN P50", right}, {"P99", right}});
  for (auto& [name, times] : by_transition(r)) {
    const spread beyond{times.beyond}, drain{times.drain};
    table.add({name, std::to_string(times.beyond.size()), ms(beyond.at(0.5)), ms(beyond.at(0.9)), ms(beyond.at(0.99)),
        ms(beyond.at(1)), ms(drain.at(0.5)), ms(drain.at(0.99))});
  }
  std::fputs(table.render(cli::detect_terminal(1)).c_str(), stdout);
  std::printf(
      "milliseconds; BEYOND: all of a flip but the drain, from the order to being admitted in the new role\n"
      "%llu requests, %u at a time: %llu finished, %llu failed; %.0f tokens/s\n"
      "%llu residents moved on with their KV, %llu requests were handed back before they had begun; weights were "
      "loaded %llu times\n",
      static_cast<unsigned long long>(r.requests), r.concurrency, static_cast<unsigned long long>(r.finished),
      static_cast<unsigned long long>(r.failed), static_cast<double>(r.tokens) / r.wall_s,
      static_cast<unsigned long long>(r.migrations), static_cast<unsigned long long>(r.handed_back),
      static_cast<unsigned long long>(r.loads));
  for (const auto& reason : r.reasons) std::printf("failed: %s\n", reason.c_str());
}

result<bench::role_report> measure(role_flags& f) {
  std::optional<bench::own_cluster> own;
  if (f.running) {
    auto at = cli::parse_endpoint(f.head.head, 7450);
    if (!at) return fail(errc::reject, "--head: {}", at.error().message);
    f.options.head = *at;
    f.options.instances = 2;
  } else {
    bench::own_cluster_options o;
    o.instances = f.options.instances;
    o.policy = f.policy;
    o.words = {"--model", f.options.model, "--log-level", "error"};
    auto started = bench::start_own_cluster(o);
    if (!started) return pass(started.error());
    own.emplace(std::move(*started));
    f.options.head = own->head;
  }
  cli::progress bar("flips", cli::detect_terminal(2), cli::steady_now());
  f.options.stopped = [] {
    const auto signal = runtime::next_signal(duration{0});
    return signal == SIGINT || signal == SIGTERM;
  };
  std::uint32_t done = 0;
  auto report = bench::measure_roles(f.options, [&](const bench::role_flip& flip) {
    const auto what = fmt::format("{} {} -> {}: {:.1f} ms beyond a drain of {:.0f} ms", to_string(flip.instance),
        to_string(flip.from), to_string(flip.to), flip.beyond_ms(), flip.drain_ms);
    std::fputs(bar.update(++done, f.options.flips, what, cli::steady_now()).c_str(), stderr);
  });
  std::fputs(bar.finish(report ? "done" : "failed", cli::steady_now()).c_str(), stderr);
  return report;
}

int run_role(role_flags& f) {
  runtime::hold_signals();
  f.options.model = f.model.empty() ? default_model() : f.model;
  if (f.options.model.empty()) return usage_error("the demo model is not installed: give --model");
  f.options.answer_timeout = from_s(f.head.timeout_s);
  const auto report = measure(f);
  const int code = finish_bench(report, f.format, report_json, show);
  return report && report->failed > 0 ? cli::exit_failed : code;
}

} // namespace

runner add_bench_role(CLI::App& app) {
  auto f = std::make_shared<role_flags>();
  auto& o = f->options;
  app.add_option("--flips", o.flips, "Changes of role, one after the other")
      ->check(CLI::Range(1U, 100'000U))
      ->capture_default_str();
  app.add_option("--instances", o.instances, "Instances of the bench's own cluster, each in a process of its own")
      ->check(CLI::Range(2U, 64U))
      ->capture_default_str();
  app.add_option("--concurrency", o.concurrency, "Requests under way at a time; 0 = 16 for each instance")
      ->check(CLI::Range(0U, 8192U))
      ->capture_default_str();
  app.add_option("--prompt-tokens", o.prompt_tokens, "Of each request")
      ->check(CLI::Range(1U, 1U << 20U))
      ->capture_default_str();
  app.add_option("--output-tokens", o.output_tokens, "Of each request")
      ->check(CLI::Range(1U, 1U << 20U))
      ->capture_default_str();
  app.add_option("--policy", f->policy, "Scheduling policy of that cluster")->capture_default_str();
  app.add_option("--model", f->model, "Checkpoint directory or GGUF file (default: the demo model)");
  app.add_option("--seed", o.seed, "Of the prompts")->capture_default_str()->check(whole_number());
  auto* head = app.add_option(
      "--head", f->head.head, "Change the roles of this running cluster instead; --model is for its tokenizer");
  app.add_option("--timeout-s", f->head.timeout_s, "Longest wait for an answer of the head, in seconds")
      ->capture_default_str()
      ->check(number_in(0.001, 86400.0));
  add_output_option(app, f->format);
  add_examples(app, "  hflex bench role\n  hflex bench role --flips 20 --instances 4 --output-tokens 128 -o json\n"
                    "  hflex bench role --head 127.0.0.1:7450 --flips 10");
  return [f, head] {
    f->running = head->count() > 0;
    return run_role(*f);
  };
}

} // namespace hflex::commands
