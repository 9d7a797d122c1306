#include "tools/sim/result_text.hpp"
#include "tools/cli/table.hpp"
#include "tools/cli/units.hpp"
#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace hflex::sim {

namespace {

using cli::align;
using cli::cell;
using cli::column;
using nlohmann::ordered_json;

// ---- table ----

std::string shown_ms(const distribution& d, double distribution::*which) {
  return d.count == 0 ? "-" : cli::human_duration(from_ms(d.*which));
}

std::string shown_share(const std::optional<double>& share) { return share ? cli::human_percent(*share) : "-"; }

/// How runs are told apart: by policy, and by mode, scaling and load where they differ.
std::vector<std::string> labels(std::span<const run_result> runs) {
  const auto differ = [&](auto of) {
    return std::any_of(runs.begin(), runs.end(), [&](const run_result& r) { return of(r) != of(runs.front()); });
  };
  const bool modes = differ([](const run_result& r) -> const std::string& { return r.mode; });
  const bool scalings = differ([](const run_result& r) -> const std::string& { return r.scaling; });
  const bool rates = differ([](const run_result& r) { return r.rate_scale; });
  const auto rate = [](const run_result& r) {
    return r.load ? fmt::format(" @ {:.2f}", *r.load) : fmt::format(" x {:.4g}", r.rate_scale);
  };
  std::vector<std::string> out;
  for (const run_result& r : runs)
    out.push_back(
        r.policy + (modes ? " / " + r.mode : "") + (scalings ? " / " + r.scaling : "") + (rates ? rate(r) : ""));
  return out;
}

std::vector<column> with_figures(std::vector<column> first) {
  for (const char* name :
      {"requests", "attained", "strict", "goodput/s", "TTFT p50", "p99", "TPOT p50", "p99", "E2E mean", "p99"})
    first.push_back({name, align::right});
  return first;
}

std::vector<cell> with_figures(std::vector<cell> row, const slo_summary& s) {
  for (std::string text : {fmt::format("{}", s.requests), shown_share(s.attainment), shown_share(s.strict_attainment),
           fmt::format("{:.2f}", s.goodput_per_s), shown_ms(s.ttft, &distribution::p50_ms),
           shown_ms(s.ttft, &distribution::p99_ms), shown_ms(s.tpot, &distribution::p50_ms),
           shown_ms(s.tpot, &distribution::p99_ms), shown_ms(s.e2e, &distribution::mean_ms),
           shown_ms(s.e2e, &distribution::p99_ms)})
    row.emplace_back(std::move(text));
  return row;
}

/// Whether the same bound holds for both: the same workload and fleet.
bool same_bound(const run_result& a, const run_result& b) {
  return b.bound && a.bound->attainment == b.bound->attainment && a.mode == b.mode && a.rate_scale == b.rate_scale;
}

/// After the runs side by side that have a bound in common, that bound.
std::string overall_table(
    std::span<const run_result> runs, const std::vector<std::string>& names, const cli::terminal& on) {
  const auto columns = with_figures({{"policy", align::left, true}});
  cli::table all(columns);
  for (std::size_t i = 0; i < runs.size(); ++i) {
    all.add(with_figures({cell{names[i], cli::style::bold}}, runs[i].report.overall));
    if (!runs[i].bound || (i + 1 < runs.size() && same_bound(runs[i], runs[i + 1]))) continue;
    std::vector<cell> row{"any policy" + names[i].substr(runs[i].policy.size()),
        fmt::format("{}", runs[i].report.overall.requests), "<= " + cli::human_percent(runs[i].bound->attainment)};
    row.resize(columns.size(), "-");
    all.add(std::move(row));
  }
  return all.render(on);
}

/// What the runs cost and did.
std::string effort_table(
    std::span<const run_result> runs, const std::vector<std::string>& names, const cli::terminal& on, double price) {
  std::vector<column> columns{{"policy", align::left, true}};
  for (const char* name : {"instance-h", "peak", "shed", "failed", "unfinished", "steps", "preempted", "migrated",
           "flips", "out", "in", "start"})
    columns.push_back({name, align::right});
  if (price > 0) columns.insert(columns.begin() + 2, {"cost", align::right});
  cli::table effort(columns);
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const run_result& r = runs[i];
    const slo_summary& s = r.report.overall;
    std::vector<cell> row{cell{names[i], cli::style::bold}, fmt::format("{:.2f}", r.cost_instance_s / 3600)};
    if (price > 0) row.emplace_back(fmt::format("{:.2f}", r.cost_device_s / 3600 * price));
    for (std::uint64_t n : {std::uint64_t{r.peak_instances}, s.shed, s.failed + s.cancelled, s.unfinished, r.steps,
             r.preemptions, r.migrations, r.role_flips, r.scale_outs, r.scale_ins})
      row.emplace_back(fmt::format("{}", n));
    row.emplace_back(
        r.scale_outs == 0 ? "-" : cli::human_duration(from_s(r.starts_s / static_cast<double>(r.scale_outs))));
    effort.add(std::move(row));
  }
  return effort.render(on);
}

std::string class_table(
    std::span<const run_result> runs, const std::vector<std::string>& names, const cli::terminal& on) {
  std::vector<std::string> classes;
  for (const run_result& r : runs)
    for (const slo_summary& s : r.report.classes)
      if (std::find(classes.begin(), classes.end(), s.slo_class) == classes.end()) classes.push_back(s.slo_class);
  cli::table by_class(with_figures({{"class"}, {"policy", align::left, true}}));
  for (const std::string& name : classes)
    for (std::size_t i = 0; i < runs.size(); ++i)
      for (const slo_summary& s : runs[i].report.classes)
        if (s.slo_class == name) by_class.add(with_figures({cell{name, cli::style::bold}, names[i]}, s));
  return classes.empty() ? "" : "\n" + by_class.render(on);
}

// ---- JSON ----

ordered_json to_json(const distribution& d) {
  return {{"mean", d.mean_ms}, {"p50", d.p50_ms}, {"p90", d.p90_ms}, {"p99", d.p99_ms}};
}

ordered_json to_json(const slo_summary& s) {
  ordered_json j;
  j["attainment"] = s.attainment;
  j["strict_attainment"] = s.strict_attainment ? ordered_json(*s.strict_attainment) : ordered_json(nullptr);
  j["goodput_rps"] = s.goodput_per_s;
  j["ttft_ms"] = to_json(s.ttft);
  j["tpot_ms"] = to_json(s.tpot);
  j["itl_ms"] = to_json(s.itl);
  j["e2e_ms"] = to_json(s.e2e);
  return j;
}

ordered_json to_json(const run_result& r) {
  const slo_summary& all = r.report.overall;
  ordered_json j;
  j["policy"] = r.policy;
  j["mode"] = r.mode;
  j["scaling"] = r.scaling;
  j["requests"] = all.requests;
  j["finished"] = all.finished;
  j["shed"] = all.shed;
  j["failed"] = all.failed;
  j["overall"] = to_json(all);
  j["classes"] = ordered_json::object();
  for (const slo_summary& s : r.report.classes) j["classes"][s.slo_class] = to_json(s);
  j["cost_instance_s"] = r.cost_instance_s;
  j["peak_instances"] = r.peak_instances;
  j["role_flips"] = r.role_flips;
  j["migrations"] = r.migrations;
  j["scale_outs"] = r.scale_outs;
  j["scale_ins"] = r.scale_ins;
  j["simulated_s"] = to_s(r.simulated);
  j["wall_s"] = to_s(r.wall);
  j["cost_device_s"] = r.cost_device_s;
  j["cancelled"] = all.cancelled;
  j["unfinished"] = all.unfinished;
  j["steps"] = r.steps;
  j["preemptions"] = r.preemptions;
  j["cached_prompt_tokens"] = r.cached_prompt_tokens;
  j["kv_bytes_moved"] = r.kv_bytes_moved;
  j["rate_scale"] = r.rate_scale;
  j["start_s_mean"] =
      r.scale_outs == 0 ? ordered_json(nullptr) : ordered_json(r.starts_s / static_cast<double>(r.scale_outs));
  j["starts_from"] = {
      {"neighbour", r.starts_from_neighbour}, {"host_cache", r.starts_from_cache}, {"disk", r.starts_from_disk}};
  j["load"] = r.load ? ordered_json(*r.load) : ordered_json(nullptr);
  j["bound"] = r.bound ? ordered_json{{"attainment", r.bound->attainment},
                             {"weighted_attainment", r.bound->weighted_attainment}, {"alone", r.bound->alone}}
                       : ordered_json(nullptr);
  return j;
}

// ---- CSV ----

/// A cell; in quotes where it must be. What a spreadsheet would run as a formula stays text.
std::string csv_cell(std::string text) {
  if (!text.empty() && std::string_view{"=+-@"}.find(text.front()) != std::string_view::npos) text.insert(0, 1, '\'');
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string out = "\"";
  for (char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

constexpr std::size_t run_columns = 14; ///< the last ones of the header

std::string csv_header() {
  std::string out =
      "policy,mode,scaling,rate_scale,load,class,requests,finished,shed,cancelled,failed,unfinished,attained,"
      "attainment,weighted_attainment,strict_attainment,goodput_rps,output_tokens";
  for (const char* figure : {"ttft", "tpot", "itl", "e2e"})
    for (const char* part : {"mean", "p50", "p90", "p99"}) out += fmt::format(",{}_ms_{}", figure, part);
  return out + ",cost_instance_s,cost_device_s,peak_instances,steps,preemptions,migrations,role_flips,scale_outs,"
               "scale_ins,cached_prompt_tokens,kv_bytes_moved,simulated_s,attainment_bound,weighted_attainment_bound\n";
}

std::string csv_line(const run_result& r, const slo_summary& s, bool whole_run) {
  std::string out = fmt::format("{},{},{},{},{},{}", csv_cell(r.policy), csv_cell(r.mode), csv_cell(r.scaling),
      r.rate_scale, r.load ? fmt::format("{}", *r.load) : "", whole_run ? "(all)" : csv_cell(s.slo_class));
  out += fmt::format(",{},{},{},{},{},{},{},{},{},{},{},{}", s.requests, s.finished, s.shed, s.cancelled, s.failed,
      s.unfinished, s.attained, s.attainment, s.weighted_attainment,
      s.strict_attainment ? fmt::format("{}", *s.strict_attainment) : "", s.goodput_per_s, s.output_tokens);
  for (const distribution* d : {&s.ttft, &s.tpot, &s.itl, &s.e2e}) {
    const std::array<double, 4> figures{d->mean_ms, d->p50_ms, d->p90_ms, d->p99_ms};
    out += d->count == 0 ? ",,,," : fmt::format(",{}", fmt::join(figures, ","));
  }
  if (!whole_run) return out + std::string(run_columns, ',') + "\n";
  return out + fmt::format(",{},{},{},{},{},{},{},{},{},{},{},{},{}\n", r.cost_instance_s, r.cost_device_s,
                   r.peak_instances, r.steps, r.preemptions, r.migrations, r.role_flips, r.scale_outs, r.scale_ins,
                   r.cached_prompt_tokens, r.kv_bytes_moved, to_s(r.simulated),
                   r.bound ? fmt::format("{},{}", r.bound->attainment, r.bound->weighted_attainment) : ",");
}

} // namespace

std::string result_table(std::span<const run_result> runs, const cli::terminal& on, double price_per_device_hour) {
  if (runs.empty()) return {};
  const auto names = labels(runs);
  return overall_table(runs, names, on) + "\n" + effort_table(runs, names, on, price_per_device_hour) +
         class_table(runs, names, on);
}

ordered_json result_json(std::span<const run_result> runs) {
  ordered_json out = ordered_json::array();
  for (const run_result& r : runs) out.push_back(to_json(r));
  return out;
}

std::string result_csv(std::span<const run_result> runs) {
  std::string out = csv_header();
  for (const run_result& r : runs) {
    out += csv_line(r, r.report.overall, true);
    for (const slo_summary& s : r.report.classes) out += csv_line(r, s, false);
  }
  return out;
}

std::string decisions_csv(std::span<const run_result> runs) {
  std::string out = "policy,mode,scaling,rate_scale,time_s,request,attempt,what,instances,why\n";
  for (const run_result& r : runs) {
    const auto run =
        fmt::format("{},{},{},{}", csv_cell(r.policy), csv_cell(r.mode), csv_cell(r.scaling), r.rate_scale);
    for (const decision& d : r.decisions)
      out += fmt::format("{},{:.6f},{},{},{},{},{}\n", run, to_s(d.at), d.request ? fmt::format("{}", *d.request) : "",
          d.request ? fmt::format("{}", d.attempt) : "", d.what, csv_cell(d.where), csv_cell(d.why));
  }
  return out;
}

} // namespace hflex::sim
