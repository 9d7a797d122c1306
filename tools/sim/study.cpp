#include "tools/sim/study.hpp"
#include "tools/sim/upper_bound.hpp"
#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <thread>

namespace hflex::sim {

namespace {

/// One run to do.
struct point {
  std::string policy;
  std::string scaling;
  bool disaggregated{};
  double rate_scale{1};
  std::optional<double> load;
};

/// What is done over all runs: each tells how far it is, whichever thread it is on.
class tally {
public:
  tally(const study_options& o, std::uint64_t total) : options_(o), total_(total) {}
  bool tell(std::uint64_t more, std::string_view what) {
    const std::lock_guard lock(mutex_);
    done_ += more;
    if (options_.on_progress && !options_.on_progress(done_, total_, what)) stopped_ = true;
    return !stopped_;
  }

private:
  const study_options& options_;
  std::mutex mutex_;
  std::uint64_t done_{};
  std::uint64_t total_;
  bool stopped_{false};
};

result<std::vector<point>> points_of(const study_options& o, const workload& as_recorded) {
  std::vector<point> points;
  for (bool disaggregated : o.modes) {
    auto run = o.run;
    run.disaggregated = disaggregated;
    std::vector<std::pair<double, std::optional<double>>> rates;
    for (double scale : o.rate_scales) rates.emplace_back(scale, std::nullopt);
    if (!o.loads.empty()) {
      const double own = static_cast<double>(as_recorded.requests.size()) / to_s(as_recorded.length());
      const auto most = saturation(o.hardware, as_recorded, run);
      if (!most) return pass(most.error());
      rates.clear();
      for (double load : o.loads) rates.emplace_back(load * *most / own, load);
    }
    for (const auto& [scale, load] : rates)
      for (const auto& policy : o.policies)
        for (const auto& scaling : o.scalings) points.push_back({policy, scaling, disaggregated, scale, load});
  }
  return points;
}

result<run_result> run_point(const study_options& o, const point& p, const workload& load, tally& done) {
  auto run_with = o.run;
  run_with.scheduler.policy = p.policy;
  run_with.disaggregated = p.disaggregated;
  run_with.scaling = p.scaling;
  std::uint64_t told = 0;
  run_with.on_progress = [&](const progress& now) {
    const auto more = now.requests_ended - told;
    told = now.requests_ended;
    return done.tell(more, p.policy);
  };
  auto r = run(o.hardware, load, run_with);
  if (!r) return r;
  if (!done.tell(load.requests.size() - std::min<std::uint64_t>(told, load.requests.size()), p.policy))
    return fail(errc::fatal, "stopped"); // runs too short to have been asked before
  r->rate_scale = p.rate_scale;
  r->load = p.load;
  return r;
}

/// Once for each mode and rate. A fleet that scales is taken for one that always stands, as large as it may become.
void add_bounds(const study_options& o, const std::map<double, workload>& loads, std::vector<run_result>& runs) {
  std::map<std::pair<std::vector<fleet_group>, double>, attainment_bound> known;
  for (auto& r : runs) {
    auto fleet = o.run.fleet;
    if (fleet.empty()) fleet = r.mode == "disaggregated" ? o.hardware.disaggregated : o.hardware.collocated;
    if (r.scaling != "fixed") {
      std::uint32_t count = 0;
      for (const auto& group : fleet) count += group.count;
      fleet = {{instance_role::mixed, std::max(o.hardware.max_instances, count)}};
    }
    auto [at, fresh] = known.try_emplace({fleet, r.rate_scale});
    if (fresh) at->second = upper_bound(o.hardware, loads.at(r.rate_scale), fleet, o.run.prefix_cache, o.run.noisy);
    r.bound = at->second;
  }
}

} // namespace

result<double> saturation(const cluster& hardware, const workload& load, const run_options& options) {
  auto at_once = load;
  for (auto& r : at_once.requests) r.arrival = duration{0};
  auto run_with = options;
  run_with.scheduler.policy = "least_loaded";
  run_with.scaling = "fixed";
  run_with.on_progress = nullptr;
  run_with.keep_decisions = false;
  auto r = run(hardware, at_once, run_with);
  if (!r) return pass(r.error());
  std::vector<duration> ends;
  for (const auto& record : r->records)
    if (record.timing.last_token) ends.push_back(*record.timing.last_token - record.timing.arrival);
  if (ends.size() < 10)
    return fail(errc::reject, "workload {}: expected 10 requests or more to measure saturation with, got {}", load.name,
        ends.size());
  const auto most = ends.size() * 9 / 10;
  std::nth_element(ends.begin(), ends.begin() + static_cast<std::ptrdiff_t>(most), ends.end());
  return static_cast<double>(most) / to_s(ends[most]);
}

result<std::vector<run_result>> study(const study_options& o) {
  auto requests = o.requests;
  requests.rate_scale = 1;
  auto as_recorded = build_workload(o.sources, requests);
  if (!as_recorded) return pass(as_recorded.error());
  if (as_recorded->requests.empty() || as_recorded->length() <= duration{0})
    return fail(errc::reject, "{}: expected requests that arrive over some time", o.sources);
  const auto points = points_of(o, *as_recorded);
  if (!points) return pass(points.error());

  std::map<double, workload> loads; // by rate: made once, read by all threads
  std::uint64_t total = 0;
  for (const auto& p : *points) {
    auto [at, fresh] = loads.try_emplace(p.rate_scale);
    if (fresh) {
      requests.rate_scale = p.rate_scale;
      auto made = build_workload(o.sources, requests);
      if (!made) return pass(made.error());
      at->second = std::move(*made);
    }
    total += at->second.requests.size();
  }

  tally done(o, total);
  std::vector<result<run_result>> results(points->size(), fail(errc::fatal, "not run"));
  std::atomic<std::size_t> next{0};
  std::atomic<bool> failed{false};
  const auto work = [&] {
    for (std::size_t i = next++; i < points->size() && !failed; i = next++) {
      results[i] = run_point(o, (*points)[i], loads.at((*points)[i].rate_scale), done);
      if (!results[i]) failed = true;
    }
  };
  {
    std::vector<std::jthread> others;
    for (std::uint32_t t = 1; t < std::min<std::size_t>(std::max(o.threads, 1U), points->size()); ++t)
      others.emplace_back(work);
    work();
  }
  std::vector<run_result> all;
  for (auto& r : results)
    if (r)
      all.push_back(std::move(*r));
    else if (r.error().message != "not run")
      return pass(r.error());
  if (o.bound) add_bounds(o, loads, all);
  return all;
}

} // namespace hflex::sim
