#include "tools/bench/load_result.hpp"
#include "tools/cli/table.hpp"
#include "tools/cli/units.hpp"
#include <algorithm>
#include <fmt/format.h>

namespace hflex::bench {

namespace {

using cli::align;
using nlohmann::ordered_json;

const distribution& figure(const slo_summary& s, std::string_view metric) {
  if (metric == "ttft") return s.ttft;
  if (metric == "tpot") return s.tpot;
  return metric == "itl" ? s.itl : s.e2e;
}

/// Nothing when there is nothing to compare with.
std::optional<double> ratio(double of, double to) { return to > 0 ? std::optional{of / to} : std::nullopt; }

std::string shown(const std::optional<double>& r) { return r ? fmt::format("{:.2f}", *r) : "-"; }

ordered_json value(const std::optional<double>& r) { return r ? ordered_json(*r) : ordered_json(nullptr); }

struct compared {
  const char* key;
  std::optional<double> ratio;
};

/// Mean latencies of one run against those of another.
std::vector<compared> latencies(const slo_summary& of, const slo_summary& to) {
  return {{"ttft_mean", ratio(of.ttft.mean_ms, to.ttft.mean_ms)},
      {"tpot_mean", ratio(of.tpot.mean_ms, to.tpot.mean_ms)}, {"e2e_mean", ratio(of.e2e.mean_ms, to.e2e.mean_ms)}};
}

std::vector<compared> all_ratios(const slo_summary& of, const slo_summary& to) {
  std::vector<compared> out{{"attainment", ratio(of.attainment, to.attainment)},
      {"strict_attainment", ratio(of.strict_attainment.value_or(0), to.strict_attainment.value_or(0))},
      {"goodput", ratio(of.goodput_per_s, to.goodput_per_s)}};
  for (auto c : latencies(of, to)) out.push_back(c);
  return out;
}

std::string table_of(const char* first, const std::vector<std::pair<std::string, std::vector<compared>>>& rows,
    const cli::terminal& on) {
  if (rows.empty()) return {};
  std::vector<cli::column> columns{{first}};
  for (const auto& c : rows.front().second) columns.push_back({c.key, align::right});
  cli::table table(columns);
  for (const auto& [name, all] : rows) {
    std::vector<cli::cell> row{name};
    for (const auto& c : all) row.emplace_back(shown(c.ratio));
    table.add(std::move(row));
  }
  return table.render(on);
}

} // namespace

sim::run_result summed_up(const std::vector<seen_request>& seen, const std::string& policy, const std::string& mode,
    std::uint32_t instances, duration length, duration wall) {
  sim::run_result r;
  r.policy = policy;
  r.mode = mode;
  r.scaling = "fixed";
  for (const auto& one : seen) {
    r.records.push_back(one.record);
    r.refused += one.refused ? 1 : 0;
    r.migrations += one.migrations;
    r.cached_prompt_tokens += one.cached_prompt_tokens;
  }
  r.report = summarize(r.records, std::max(length, duration{1}));
  r.peak_instances = instances;
  r.cost_instance_s = r.cost_device_s = instances * to_s(wall);
  r.simulated = r.wall = wall;
  return r;
}

std::string latency_table(
    std::span<const load_run> runs, const std::vector<std::string>& metrics, const cli::terminal& on) {
  cli::table table({{"metric"}, {"class"}, {"policy", align::left, true}, {"mean", align::right}, {"p50", align::right},
      {"p90", align::right}, {"p99", align::right}});
  const auto add = [&](const std::string& metric, const std::string& name, const std::string& policy,
                       const distribution& d) {
    const auto ms = [&](double v) { return d.count == 0 ? std::string{"-"} : cli::human_duration(from_ms(v)); };
    table.add({metric, name, policy, ms(d.mean_ms), ms(d.p50_ms), ms(d.p90_ms), ms(d.p99_ms)});
  };
  for (const auto& metric : metrics) {
    for (const auto& run : runs) add(metric, "(all)", run.policy, figure(run.result.report.overall, metric));
    if (runs.empty() || runs.front().result.report.classes.size() < 2) continue;
    for (const auto& c : runs.front().result.report.classes)
      for (const auto& run : runs)
        for (const auto& mine : run.result.report.classes)
          if (mine.slo_class == c.slo_class) add(metric, c.slo_class, run.policy, figure(mine, metric));
  }
  return table.render(on);
}

std::string ratio_table(std::span<const load_run> runs, const cli::terminal& on) {
  std::vector<std::pair<std::string, std::vector<compared>>> rows;
  for (std::size_t i = 1; i < runs.size(); ++i)
    rows.emplace_back(fmt::format("{} / {}", runs[i].policy, runs[0].policy),
        all_ratios(runs[i].result.report.overall, runs[0].result.report.overall));
  return table_of("ratio", rows, on);
}

std::string parity_table(std::span<const load_run> runs, const cli::terminal& on) {
  std::vector<std::pair<std::string, std::vector<compared>>> rows;
  for (const auto& run : runs)
    if (run.simulated)
      rows.emplace_back(run.policy, latencies(run.result.report.overall, run.simulated->report.overall));
  return table_of("live / simulated", rows, on);
}

ordered_json ratios_json(std::span<const load_run> runs) {
  auto all = ordered_json::array();
  for (std::size_t i = 1; i < runs.size(); ++i) {
    ordered_json j{{"policy", runs[i].policy}, {"against", runs[0].policy}};
    for (const auto& c : all_ratios(runs[i].result.report.overall, runs[0].result.report.overall))
      j[c.key] = value(c.ratio);
    all.push_back(std::move(j));
  }
  return all;
}

ordered_json parity_json(std::span<const load_run> runs) {
  auto all = ordered_json::array();
  for (const auto& run : runs) {
    if (!run.simulated) continue;
    ordered_json j{{"policy", run.policy}};
    for (const auto& c : latencies(run.result.report.overall, run.simulated->report.overall)) j[c.key] = value(c.ratio);
    all.push_back(std::move(j));
  }
  return all;
}

ordered_json requests_json(const load_run& run) {
  auto all = ordered_json::array();
  const auto ms = [](const std::optional<duration>& d) { return d ? ordered_json(to_ms(*d)) : ordered_json(nullptr); };
  for (const auto& one : run.seen) {
    const auto& r = one.record;
    const bool finished = r.result == outcome::finished;
    ordered_json j;
    j["id"] = one.id ? ordered_json(to_string(one.id)) : ordered_json(nullptr);
    j["slo_class"] = r.slo_class;
    j["outcome"] = r.result ? ordered_json(to_string(*r.result)) : ordered_json("unfinished");
    j["reason"] = one.reason;
    j["sent_s"] = to_s(one.sent);
    j["prompt_tokens"] = one.prompt_tokens;
    j["cached_prompt_tokens"] = one.cached_prompt_tokens;
    j["output_tokens"] = r.timing.output_tokens;
    j["ttft_ms"] = ms(ttft(r.timing));
    j["tpot_ms"] = finished ? ms(tpot(r.timing)) : ordered_json(nullptr);
    j["e2e_ms"] = finished ? ms(e2e(r.timing)) : ordered_json(nullptr);
    j["router_ttft_ms"] = one.router_ttft_ms < 0 ? ordered_json(nullptr) : ordered_json(one.router_ttft_ms);
    j["router_tpot_ms"] = one.router_tpot_ms < 0 ? ordered_json(nullptr) : ordered_json(one.router_tpot_ms);
    j["ttft_target_ms"] = to_ms(r.slo.ttft);
    j["tpot_target_ms"] = to_ms(r.slo.tpot);
    j["attained"] = finished && attained(r.timing, r.slo);
    j["prefill_instance"] = one.prefill ? ordered_json(to_string(one.prefill)) : ordered_json(nullptr);
    j["decode_instance"] = one.decode ? ordered_json(to_string(one.decode)) : ordered_json(nullptr);
    j["migrations"] = one.migrations;
    j["retries"] = one.retries;
    all.push_back(std::move(j));
  }
  return all;
}

} // namespace hflex::bench
