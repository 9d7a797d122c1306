// `hflex simulate`: the cluster in virtual time, under one policy or several.
#include "actors/scaler/policy.hpp"
#include "actors/scheduler/policy.hpp"
#include "config/loader.hpp"
#include "tools/cli/exit_code.hpp"
#include "tools/cli/json_line.hpp"
#include "tools/cli/progress.hpp"
#include "tools/commands/commands.hpp"
#include "tools/sim/cluster_file.hpp"
#include "tools/sim/result_plots.hpp"
#include "tools/sim/result_text.hpp"
#include "tools/sim/study.hpp"
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

namespace hflex::commands {

namespace {

enum class simulate_format : unsigned char { table, json, csv };

struct simulate_flags {
  std::string cluster;
  std::string slo;
  std::vector<std::string> modes{"collocated"};
  std::string fleet;
  std::vector<std::string> knobs;
  std::vector<std::string> scalings{"fixed"};
  std::vector<std::string> scaling_knobs;
  std::optional<std::uint32_t> min_instances, max_instances;
  std::vector<std::string> policies{"hyperflexis"};
  double duration_s{0};
  bool no_prefix_cache{false};
  std::string plot;
  std::string requests_file;
  std::string decisions_file;
  simulate_format format{simulate_format::table};
  sim::study_options study;
};

time_point wall_now() {
  return time_point{std::chrono::duration_cast<duration>(std::chrono::steady_clock::now().time_since_epoch())};
}

/// "prefill:3,decode:5"
result<std::vector<sim::fleet_group>> parse_fleet(const std::string& text) {
  std::vector<sim::fleet_group> groups;
  for (std::string_view rest = text; !rest.empty();) {
    const auto part = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), part.size() + 1));
    const auto colon = part.find(':');
    const auto role = parse_instance_role(part.substr(0, colon));
    std::uint32_t count = 0;
    const auto digits = colon == std::string_view::npos ? std::string_view{} : part.substr(colon + 1);
    const auto [end, fault] = std::from_chars(digits.data(), digits.data() + digits.size(), count);
    if (!role || fault != std::errc{} || end != digits.data() + digits.size() || count == 0 || count > 10'000)
      return fail(errc::reject,
          "--fleet: expected ROLE:COUNT,... with prefill, decode or mixed, e.g. \"prefill:3,decode:5\", got \"{}\"",
          part);
    groups.push_back({*role, count});
  }
  return groups;
}

/// "qoserve.alpha=8"
result<void> parse_knobs(
    std::string_view flag, const std::vector<std::string>& words, std::map<std::string, double>& to) {
  for (const auto& word : words) {
    const auto equals = word.find('=');
    double value = 0;
    const char* first = word.data() + (equals == std::string::npos ? word.size() : equals + 1);
    const auto [end, fault] = std::from_chars(first, word.data() + word.size(), value);
    if (equals == std::string::npos || fault != std::errc{} || end != word.data() + word.size())
      return fail(errc::reject, "{}: expected POLICY.NAME=NUMBER, got \"{}\"", flag, word);
    to[word.substr(0, equals)] = value;
  }
  return {};
}

result<void> complete(simulate_flags& f) {
  auto& study = f.study;
  auto hardware = sim::load_cluster(f.cluster);
  if (!hardware) return pass(config::to_error(hardware.error()));
  study.hardware = std::move(*hardware);
  auto &least = study.hardware.min_instances, &most = study.hardware.max_instances;
  least = f.min_instances.value_or(least);
  most = f.max_instances.value_or(most);
  if (least > most)
    return fail(errc::reject, "--min, --max: expected at most as many as --max, got {} and {} instances", least, most);
  auto classes = sim::read_classes(f.slo);
  if (!classes) return pass(classes.error());
  study.requests.classes = std::move(*classes);
  if (f.duration_s > 0) study.requests.length = from_s(f.duration_s);
  study.run.seed = study.requests.seed;
  study.run.prefix_cache = !f.no_prefix_cache;
  study.run.keep_decisions = !f.decisions_file.empty();
  study.modes.clear();
  for (const auto& mode : f.modes) study.modes.push_back(mode == "disaggregated");
  auto fleet = parse_fleet(f.fleet);
  if (!fleet) return pass(fleet.error());
  study.run.fleet = std::move(*fleet);
  if (auto ok = parse_knobs("--knob", f.knobs, study.run.scheduler.knobs); !ok) return ok;
  if (auto ok = parse_knobs("--scaling-knob", f.scaling_knobs, study.run.scaling_knobs); !ok) return ok;
  study.policies.clear();
  for (const auto& name : f.policies) {
    if (name == "all")
      for (const auto& entry : scheduler::policies()) study.policies.emplace_back(entry.name);
    else if (auto known = scheduler::find_policy(name); known)
      study.policies.push_back(name);
    else
      return pass(known.error());
  }
  study.scalings.clear();
  for (const auto& name : f.scalings) {
    if (name == "all")
      for (const auto& entry : scaler::policies()) study.scalings.emplace_back(entry.name);
    else if (auto known = scaler::find_policy(name); known)
      study.scalings.push_back(name);
    else
      return pass(known.error());
  }
  return {};
}

result<void> write_plots(
    const std::vector<sim::run_result>& runs, const std::string& folder, const std::string& title) {
  std::error_code fault;
  std::filesystem::create_directories(folder, fault);
  if (fault) return fail(errc::reject, "--plot {}: {}", folder, fault.message());
  for (const auto& file : sim::result_plots(runs, title)) {
    std::ofstream out(std::filesystem::path(folder) / file.name, std::ios::binary);
    out << file.svg;
    if (!out.flush()) return fail(errc::fatal, "{}/{}: cannot be written", folder, file.name);
  }
  return {};
}

/// One line a request of every run: to see who missed what.
result<void> write_requests(const std::vector<sim::run_result>& runs, const std::string& file) {
  const auto ms = [](const std::optional<duration>& d) { return d ? fmt::format("{:.3f}", to_ms(*d)) : ""; };
  std::ofstream out(file, std::ios::binary);
  out << "policy,mode,rate_scale,number,class,arrival_s,prompt_tokens,output_tokens,ttft_ms,tpot_ms,e2e_ms,attained\n";
  for (const auto& r : runs)
    for (std::size_t i = 0; i < r.records.size(); ++i) {
      const auto& q = r.records[i];
      const bool ok = q.result == outcome::finished && attained(q.timing, q.slo);
      out << fmt::format("{},{},{},{},{},{:.6f},{},{},{},{},{},{}\n", r.policy, r.mode, r.rate_scale, i, q.slo_class,
          to_s(q.timing.arrival.time_since_epoch()), q.prompt_tokens, q.timing.output_tokens, ms(ttft(q.timing)),
          ms(tpot(q.timing)), ms(e2e(q.timing)), ok ? 1 : 0);
    }
  if (!out.flush()) return fail(errc::fatal, "{}: cannot be written", file);
  return {};
}

/// What was decided, as `hflex explain` says it of a live cluster.
result<void> write_decisions(const std::vector<sim::run_result>& runs, const std::string& file) {
  std::ofstream out(file, std::ios::binary);
  out << sim::decisions_csv(runs);
  if (!out.flush()) return fail(errc::fatal, "{}: cannot be written", file);
  return {};
}

int run_simulate(simulate_flags& f) {
  if (auto ok = complete(f); !ok) return report(ok.error());
  const auto terminal = cli::detect_terminal(2);
  cli::progress bar("simulating", terminal, wall_now());
  std::atomic<bool> began_runs{false};
  f.study.on_progress = [&](std::uint64_t done, std::uint64_t total, std::string_view what) {
    began_runs = true;
    std::fputs(bar.update(done, total, what, wall_now()).c_str(), stderr);
    return true;
  };
  const auto began = wall_now();
  auto runs = sim::study(f.study);
  if (!runs) {
    if (began_runs) std::fputs(bar.finish("failed", wall_now()).c_str(), stderr);
    return report(runs.error());
  }
  std::uint64_t requests = 0;
  double simulated = 0;
  for (const auto& r : *runs) {
    requests += r.report.overall.requests;
    simulated += to_s(r.simulated);
  }
  const double wall = to_s(wall_now() - began);
  std::fputs(
      bar.finish(fmt::format("{} requests in {} run{}, {:.0f} a second, {:.0f} times real time", requests, runs->size(),
                     runs->size() == 1 ? "" : "s", static_cast<double>(requests) / wall, simulated / wall),
             wall_now())
          .c_str(),
      stderr);
  switch (f.format) {
  case simulate_format::table:
    std::fputs(
        sim::result_table(*runs, cli::detect_terminal(1), f.study.hardware.price_per_device_hour).c_str(), stdout);
    break;
  case simulate_format::json:
    std::fputs(cli::json_line(sim::result_json(*runs)).c_str(), stdout);
    break;
  case simulate_format::csv:
    std::fputs(sim::result_csv(*runs).c_str(), stdout);
    break;
  }
  if (!f.requests_file.empty())
    if (auto ok = write_requests(*runs, f.requests_file); !ok) return report(ok.error());
  if (!f.decisions_file.empty())
    if (auto ok = write_decisions(*runs, f.decisions_file); !ok) return report(ok.error());
  if (f.plot.empty()) return cli::exit_done;
  if (auto ok = write_plots(*runs, f.plot, f.study.hardware.name); !ok) return report(ok.error());
  std::fprintf(stderr, "plots: %s\n", f.plot.c_str());
  return cli::exit_done;
}

} // namespace

runner add_simulate(CLI::App& app) {
  auto f = std::make_shared<simulate_flags>();
  f->study.threads = std::max(1U, std::thread::hardware_concurrency());
  app.add_option("--trace", f->study.sources,
         "What clients ask: FILE[@CLASS][,from=S,duration=S...],... or "
         "synthetic:poisson,rate=8,duration=300,prompt=...,output=...")
      ->required();
  app.add_option("--cluster", f->cluster, "Hardware: a file like those in config/sim")
      ->required()
      ->envname("HFLEX_CLUSTER");
  app.add_option("--policy", f->policies, "Scheduling policies to compare, or all")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--mode", f->modes, "collocated, disaggregated or both")
      ->delimiter(',')
      ->check(CLI::IsMember({"collocated", "disaggregated"}))
      ->capture_default_str();
  app.add_option("--fleet", f->fleet, "Instances instead of the cluster's, e.g. prefill:3,decode:5");
  app.add_option("--scaling", f->scalings, "Scaling policies to compare, or all")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option(
         "--min", f->min_instances, "The scaling policies keep at least so many instead of what the cluster says")
      ->check(CLI::Range(0, 100'000));
  app.add_option("--max", f->max_instances, "Likewise at most so many")->check(CLI::Range(1, 100'000));
  app.add_option("--slo", f->slo, "SLO classes: a file like config/slo_classes.yaml; built-in ones without");
  app.add_option("--mix", f->study.requests.mix, "Shares of classes, e.g. interactive:0.3,standard:0.5,batch:0.2");
  app.add_option("--slo-class", f->study.requests.default_class, "Class of requests that nothing else says one for");
  auto* scales = app.add_option("--rate-scale", f->study.rate_scales, "Arrivals so many times as fast as recorded")
                     ->delimiter(',')
                     ->check(number_in(1e-6, 1e6))
                     ->capture_default_str();
  app.add_option(
         "--load", f->study.loads, "Arrivals as shares of what the fleet can serve at most, which is measured first")
      ->delimiter(',')
      ->check(number_in(1e-3, 1e3))
      ->excludes(scales);
  app.add_option("--duration-s", f->duration_s, "Leave out what arrives later")->check(number_in(0.001, 1e9));
  app.add_option("--seed", f->study.requests.seed, "Of made-up requests, class draws and the noise of step times")
      ->capture_default_str()
      ->check(whole_number());
  app.add_option("--knob", f->knobs, "A policy's own setting, POLICY.NAME=NUMBER; may be repeated");
  app.add_option("--scaling-knob", f->scaling_knobs, "The same of a scaling policy; may be repeated");
  app.add_flag("--no-prefix-cache", f->no_prefix_cache, "Compute every prompt from its beginning");
  app.add_flag("--bound", f->study.bound, "Say what no policy could exceed, even one that knows the future");
  app.add_option("--jobs", f->study.threads, "Runs at a time")->check(CLI::Range(1, 1024))->capture_default_str();
  app.add_option("--plot", f->plot, "Write charts (SVG) into this folder");
  app.add_option("--requests", f->requests_file, "Write one CSV line a request of every run into this file");
  app.add_option("--decisions", f->decisions_file,
      "Write what was decided about every request and the fleet into this file (CSV), in the words of hflex explain");
  app.add_option("-o,--output", f->format, "table, json or csv")
      ->transform(one_of(std::map<std::string, simulate_format>{
          {"table", simulate_format::table}, {"json", simulate_format::json}, {"csv", simulate_format::csv}}))
      ->option_text("table|json|csv");
  add_examples(app,
      "  hflex simulate --cluster config/sim/h100x8-8b.yaml --policy all --mix interactive:0.3,standard:0.5,batch:0.2 "
      "\\\n"
      "    --trace synthetic:poisson,rate=150,duration=60,prompt=p50:1000/p99:4000,output=p50:130/p99:600\n"
      "  hflex simulate --cluster config/sim/h100x8-8b.yaml --policy hyperflexis,round_robin --load 0.5,0.8,1,1.2 \\\n"
      "    --trace conv.csv.gz --slo-class standard --plot charts -o csv\n"
      "  hflex simulate --cluster config/sim/h100x8-8b.yaml --scaling hyperflexis --slo-class standard \\\n"
      "    --trace synthetic:poisson,rate=20,duration=20,prompt=200,output=50 --decisions decisions.csv");
  return [f] { return run_simulate(*f); };
}

} // namespace hflex::commands
