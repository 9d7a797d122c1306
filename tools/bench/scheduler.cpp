#include "tools/bench/scheduler.hpp"
#include "tools/bench/scheduler_fleet.hpp"
#include <algorithm>
#include <array>

namespace hflex::bench {

namespace {

using clock = std::chrono::steady_clock;

constexpr double arrivals_per_instance_s = 10; // about half of what an instance serves within the targets
constexpr duration warm_up = std::chrono::seconds{5};
constexpr int warm_up_at_most = 10; // times per_point, of wall time

double clock_cost_ns() {
  std::array<std::chrono::nanoseconds, 10'001> apart;
  for (auto& d : apart) {
    const auto begin = clock::now();
    d = clock::now() - begin;
  }
  std::nth_element(apart.begin(), apart.begin() + apart.size() / 2, apart.end());
  return static_cast<double>(apart[apart.size() / 2].count());
}

using told = scheduler_fleet::told;

/// The samples of one point.
class recorder {
public:
  explicit recorder(double clock_ns) : clock_ns_(clock_ns) {}

  void add(const told& t) {
    if (t.what == told::kind::other) return;
    const auto ns = std::max(0.0, static_cast<double>(t.took.count()) - clock_ns_);
    ++events_;
    decisions_ += t.dispatched + t.shed;
    waited_ += static_cast<double>(t.waited);
    total_ns_ += ns;
    if (const auto e = event_of(t)) keep(*e, ns);
    if (t.dispatched > 0) keep(scheduler_event::placement, ns);
  }

  void fill(scheduler_point& p) {
    p.events = events_;
    p.decisions = decisions_;
    p.mean_queued = waited_ / static_cast<double>(std::max<std::uint64_t>(events_, 1));
    p.events_per_s = static_cast<double>(events_) / std::max(total_ns_ * 1e-9, 1e-9);
    p.decisions_per_s = static_cast<double>(decisions_) / std::max(total_ns_ * 1e-9, 1e-9);
    for (std::size_t e = 0; e < scheduler_events; ++e) {
      auto& all = samples_[e];
      if (all.empty()) continue;
      std::sort(all.begin(), all.end());
      const auto at = [&](double q) {
        return double{all[static_cast<std::size_t>(q * static_cast<double>(all.size() - 1))]};
      };
      p.latencies.push_back({static_cast<scheduler_event>(e), all.size(), at(0.5), at(0.9), at(0.99), at(1)});
    }
  }

private:
  // An arrival that finds nobody waiting and waits itself is neither kind: it counts as an event only.
  static std::optional<scheduler_event> event_of(const told& t) {
    switch (t.what) {
    case told::kind::arrival:
      if (t.waited > 0) return scheduler_event::arrival;
      return t.dispatched > 0 ? std::optional{scheduler_event::admission} : std::nullopt;
    case told::kind::step_report:
      return scheduler_event::step_report;
    case told::kind::first_token:
      return scheduler_event::first_token;
    case told::kind::end:
      return scheduler_event::end;
    case told::kind::tick:
      return scheduler_event::replan;
    case told::kind::other:
      break;
    }
    return std::nullopt;
  }

  void keep(scheduler_event e, double ns) { samples_[static_cast<std::size_t>(e)].push_back(static_cast<float>(ns)); }

  double clock_ns_;
  std::array<std::vector<float>, scheduler_events> samples_;
  std::uint64_t events_{};
  std::uint64_t decisions_{};
  double waited_{};
  double total_ns_{};
};

/// Until so much virtual time or so much wall time has passed; the virtual time that has.
duration run(scheduler_fleet& fleet, duration most_virtual, duration most_wall) {
  const auto start = fleet.now();
  const auto wall = clock::now();
  while (fleet.now() - start < most_virtual && clock::now() - wall < most_wall) fleet.step();
  return fleet.now() - start;
}

result<void> measure_fleet(const scheduler_options& o, std::uint32_t instances, bool disaggregated,
    scheduler_report& report, const std::function<void(const scheduler_point&)>& on_point) {
  scheduler::options s;
  s.policy = o.policy;
  s.max_queued = *std::max_element(o.queued.begin(), o.queued.end()) + 10'000;
  auto core = scheduler::core::make(s);
  if (!core) return pass(core.error());
  scheduler_fleet fleet(std::move(*core), instances, disaggregated, o.seed);
  fleet.set_rate(arrivals_per_instance_s * instances);
  auto warmed = run(fleet, warm_up, warm_up_at_most * o.per_point);
  auto lengths = o.queued;
  std::sort(lengths.begin(), lengths.end()); // the fleet goes on from one to the next
  for (auto queued : lengths) {
    if (queued > 0) {
      fleet.set_rate(0);
      fleet.keep_queued(queued);
      warmed = run(fleet, warm_up, 2 * o.per_point);
    }
    scheduler_point p;
    p.disaggregated = disaggregated;
    p.instances = instances;
    p.queued = queued;
    p.warm_up_virtual_s = to_s(warmed);
    recorder samples(report.clock_ns);
    fleet.on_told = [&samples](const told& t) { samples.add(t); };
    p.virtual_s = to_s(run(fleet, duration::max(), o.per_point));
    fleet.on_told = nullptr;
    samples.fill(p);
    report.points.push_back(p);
    if (on_point) on_point(p);
  }
  return {};
}

} // namespace

std::string_view to_string(scheduler_event e) {
  constexpr std::array<std::string_view, scheduler_events> names{
      "admission", "arrival", "step_report", "first_token", "end", "replan", "placement"};
  return names[static_cast<std::size_t>(e)];
}

result<scheduler_report> measure_scheduler(
    const scheduler_options& options, const std::function<void(const scheduler_point&)>& on_point) {
  scheduler_report report;
  report.policy = options.policy;
  report.clock_ns = clock_cost_ns();
  for (bool disaggregated : options.disaggregated)
    for (auto instances : options.instances)
      if (auto ok = measure_fleet(options, instances, disaggregated, report, on_point); !ok) return pass(ok.error());
  return report;
}

} // namespace hflex::bench
