// `hflex bench scheduler`: how fast the scheduler decides, by size of the fleet and of its queue.
#include "actors/scheduler/policy.hpp"
#include "tools/bench/scheduler.hpp"
#include "tools/cli/table.hpp"
#include "tools/cli/units.hpp"
#include "tools/commands/bench_output.hpp"
#include <cstdio>

namespace hflex::commands {
namespace {

struct flags {
  bench::scheduler_options options;
  std::vector<std::string> modes{"collocated", "disaggregated"};
  double seconds{1.5};
  output format{output::text};
};

const char* mode_of(const bench::scheduler_point& p) { return p.disaggregated ? "disaggregated" : "collocated"; }

nlohmann::ordered_json scheduler_json(const bench::scheduler_report& r) {
  nlohmann::ordered_json all;
  all["bench"] = "scheduler";
  all["policy"] = r.policy;
  all["clock_ns_subtracted"] = r.clock_ns;
  auto points = nlohmann::ordered_json::array();
  for (const auto& p : r.points) {
    nlohmann::ordered_json j;
    j["mode"] = mode_of(p);
    j["instances"] = p.instances;
    j["queued"] = p.queued;
    j["mean_queued"] = p.mean_queued;
    j["events"] = p.events;
    j["decisions"] = p.decisions;
    j["events_per_s"] = p.events_per_s;
    j["decisions_per_s"] = p.decisions_per_s;
    j["virtual_s"] = p.virtual_s;
    j["warm_up_virtual_s"] = p.warm_up_virtual_s;
    for (const auto& l : p.latencies) {
      auto& to = j["latency"][std::string(to_string(l.event))];
      to["samples"] = l.samples;
      to["p50_ns"] = l.p50_ns;
      to["p90_ns"] = l.p90_ns;
      to["p99_ns"] = l.p99_ns;
      to["longest_ns"] = l.longest_ns;
    }
    points.push_back(j);
  }
  all["points"] = points;
  return all;
}

std::string short_time(double ns) {
  if (ns < 1e3) return fmt::format("{:.0f} ns", ns);
  return ns < 1e6 ? fmt::format("{:.3g} us", ns * 1e-3) : fmt::format("{:.3g} ms", ns * 1e-6);
}

void show_scheduler(const bench::scheduler_report& r) {
  const auto right = cli::align::right;
  std::vector<cli::column> columns{{"MODE"}, {"INSTANCES", right}, {"QUEUED", right}, {"EVENTS/S", right},
      {"DECISIONS/S", right}, {"EVENT"}, {"SAMPLES", right}, {"P50", right}, {"P90", right}, {"P99", right}};
  cli::table table(columns);
  for (const auto& p : r.points) {
    bool first = true;
    for (const auto& l : p.latencies) {
      const bool head = std::exchange(first, false);
      table.add({head ? mode_of(p) : "", head ? std::to_string(p.instances) : "", head ? std::to_string(p.queued) : "",
          head ? fmt::format("{:.0f}", p.events_per_s) : "", head ? fmt::format("{:.0f}", p.decisions_per_s) : "",
          std::string(to_string(l.event)), std::to_string(l.samples), short_time(l.p50_ns), short_time(l.p90_ns),
          short_time(l.p99_ns)});
    }
  }
  std::printf("%s, one thread; a sample is one event's wall time in the core, less %.0f ns for reading the clock\n",
      r.policy.c_str(), r.clock_ns);
  std::fputs(table.render(cli::detect_terminal(1)).c_str(), stdout);
}

int run_scheduler(flags& f) {
  f.options.per_point = from_s(f.seconds);
  f.options.disaggregated.clear();
  for (const auto& mode : f.modes) f.options.disaggregated.push_back(mode == "disaggregated");
  if (auto known = scheduler::find_policy(f.options.policy); !known) return usage_error(known.error().message);
  live_line line;
  auto report = bench::measure_scheduler(f.options, [&](const bench::scheduler_point& p) {
    line.show(
        fmt::format("{}, {} instances, {} queued: {:.0f} events/s", mode_of(p), p.instances, p.queued, p.events_per_s));
  });
  line.clear();
  return finish_bench(report, f.format, scheduler_json, show_scheduler);
}

} // namespace

runner add_bench_scheduler(CLI::App& app) {
  auto f = std::make_shared<flags>();
  app.add_option("--instances", f->options.instances, "Sizes of the fleet")
      ->delimiter(',')
      ->check(CLI::Range(2, 100'000))
      ->capture_default_str();
  app.add_option("--queued", f->options.queued, "Requests that wait: kept at that length; 0: arrivals at half load")
      ->delimiter(',')
      ->check(CLI::Range(0, 10'000'000))
      ->capture_default_str();
  app.add_option("--policy", f->options.policy, "Scheduling policy")->capture_default_str();
  app.add_option("--mode", f->modes, "collocated, disaggregated or both")
      ->delimiter(',')
      ->check(CLI::IsMember({"collocated", "disaggregated"}))
      ->capture_default_str();
  app.add_option("--seconds", f->seconds, "Time to measure each point for")
      ->check(number_in(0.01, 3600.0))
      ->capture_default_str();
  app.add_option("--seed", f->options.seed, "Of arrivals, lengths and the noise of step times")
      ->capture_default_str()
      ->check(whole_number());
  add_output_option(app, f->format);
  add_examples(app, "  hflex bench scheduler\n  hflex bench scheduler --instances 256,1000 --queued 0,100000 -o json\n"
                    "  hflex bench scheduler --policy polyserve --instances 8 --queued 100 --mode collocated");
  return [f] { return run_scheduler(*f); };
}

} // namespace hflex::commands
