#include "tools/sim/result_plots.hpp"
#include "tools/sim/svg_plot.hpp"
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

namespace hflex::sim {

namespace {

double load_of(const run_result& r) { return r.load.value_or(r.rate_scale); }

std::string name_of(const run_result& r, bool scalings) { return scalings ? r.policy + " / " + r.scaling : r.policy; }

/// One line per policy over the load.
template <class Value>
line_chart over_load(std::span<const run_result* const> runs, std::string title, std::string y, Value value) {
  std::set<std::string> scalings;
  for (const auto* r : runs) scalings.insert(r->scaling);
  line_chart chart;
  chart.title = std::move(title);
  chart.x.title = runs.front()->load ? "load (share of saturation)" : "rate (multiple of the trace's)";
  chart.y.title = std::move(y);
  for (const auto* r : runs) {
    const auto name = name_of(*r, scalings.size() > 1);
    auto series = std::find_if(chart.series.begin(), chart.series.end(), [&](const auto& s) { return s.name == name; });
    if (series == chart.series.end()) series = chart.series.insert(series, {name, {}});
    series->points.push_back({load_of(*r), value(*r)});
  }
  for (auto& s : chart.series)
    std::sort(s.points.begin(), s.points.end(), [](const auto& a, const auto& b) { return a.x < b.x; });
  return chart;
}

/// The distribution of a latency over all requests; one that never came stays below 1.
template <class Latency>
line_chart distribution_of(std::span<const run_result* const> runs, std::string title, std::string x, Latency latency) {
  line_chart chart;
  chart.title = std::move(title);
  chart.x = {std::move(x), axis_scale::log, {}, {}};
  chart.y = {"share of requests", axis_scale::linear, 0.0, 1.0};
  chart.shape = line_shape::steps;
  for (const auto* r : runs) {
    std::vector<double> values;
    for (const auto& record : r->records) {
      const auto value = record.result == outcome::finished ? latency(record.timing) : std::optional<duration>{};
      values.push_back(value && *value > duration{0} ? to_ms(*value) : std::numeric_limits<double>::quiet_NaN());
    }
    chart.series.push_back({r->policy, cdf_points(std::move(values), 400)});
  }
  return chart;
}

std::optional<plot_file> fleet_of(const run_result& r, const std::string& title, const std::string& suffix) {
  area_chart chart;
  chart.title = title + ": fleet under " + r.policy + " / " + r.scaling;
  chart.x.title = "time (s)";
  chart.y.title = "instances";
  std::map<instance_role, std::vector<double>> layers;
  for (const auto& s : r.fleet)
    for (const auto& [role, count] : s.instances) layers[role];
  bool changed = false;
  for (const auto& s : r.fleet) {
    changed = changed || s.instances != r.fleet.front().instances;
    chart.at.push_back(to_s(s.at));
    for (auto& [role, values] : layers) {
      const auto found = s.instances.find(role);
      values.push_back(found == s.instances.end() ? 0 : found->second);
    }
  }
  if (!changed) return std::nullopt;
  for (auto& [role, values] : layers) chart.layers.push_back({std::string(to_string(role)), std::move(values)});
  return plot_file{"fleet-" + r.policy + "-" + r.scaling + suffix + ".svg", render(chart)};
}

} // namespace

std::vector<plot_file> result_plots(std::span<const run_result> runs, const std::string& title) {
  std::vector<plot_file> files;
  std::set<std::string> modes;
  for (const auto& r : runs) modes.insert(r.mode);
  for (const auto& mode : modes) {
    std::vector<const run_result*> of_mode;
    std::set<double> loads;
    for (const auto& r : runs)
      if (r.mode == mode) {
        of_mode.push_back(&r);
        loads.insert(load_of(r));
      }
    const auto suffix = modes.size() > 1 ? "-" + mode : std::string();
    const auto named = [&](const std::string& what) { return title + ", " + mode + ": " + what; };
    if (loads.size() > 1) {
      auto attained = over_load(of_mode, named("SLO attainment"), "requests that attain their SLO (share)",
          [](const run_result& r) { return r.report.overall.attainment; });
      attained.y.max = 1.0;
      attained.marks.push_back({"90 %", 0.9, true});
      files.push_back({"attainment" + suffix + ".svg", render(attained)});
      files.push_back({"goodput" + suffix + ".svg",
          render(over_load(of_mode, named("goodput"), "requests that attain their SLO (1/s)",
              [](const run_result& r) { return r.report.overall.goodput_per_s; }))});
      auto e2e = over_load(of_mode, named("mean end-to-end latency"), "arrival to last token (ms)",
          [](const run_result& r) { return r.report.overall.e2e.mean_ms; });
      e2e.y.scale = axis_scale::log;
      files.push_back({"e2e" + suffix + ".svg", render(e2e)});
    }
    std::vector<const run_result*> at_top;
    for (const auto* r : of_mode)
      if (load_of(*r) == *loads.rbegin()) at_top.push_back(r);
    files.push_back({"ttft-cdf" + suffix + ".svg", render(distribution_of(at_top, named("time to first token"),
                                                       "TTFT (ms)", [](const request_timing& t) { return ttft(t); }))});
    files.push_back({"tpot-cdf" + suffix + ".svg", render(distribution_of(at_top, named("time per output token"),
                                                       "TPOT (ms)", [](const request_timing& t) { return tpot(t); }))});
    for (const auto* r : at_top)
      if (auto fleet = fleet_of(*r, named("fleet"), suffix)) files.push_back(std::move(*fleet));
  }
  return files;
}

} // namespace hflex::sim
