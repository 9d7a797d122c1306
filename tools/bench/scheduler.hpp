// How fast the scheduler decides: how long its core takes over each event of a fleet in virtual time. Called by
// `hflex bench scheduler`. Drives the very core that serves; its instances and clients are synthetic
// (scheduler_fleet.hpp). One thread.
//
// A sample is the wall time of one call core.on(event), effects included, less the cost of reading the clock twice.
// Nothing is averaged before the quantiles are taken. Between two samples the fleet's own bookkeeping runs, so the
// core finds the caches as used by somebody else, as it does in a head.
#pragma once
#include "actors/common/result.hpp"
#include "actors/common/time.hpp"
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::bench {

struct scheduler_options {
  std::string policy{"hyperflexis"};
  std::vector<std::uint32_t> instances{8, 64, 256, 1000};
  std::vector<std::uint32_t> queued{0, 100, 10'000, 100'000};
  std::vector<bool> disaggregated{false, true};
  duration per_point{std::chrono::milliseconds{1500}}; ///< wall time that each point is measured
  std::uint64_t seed{1};
};

/// What a sample is a sample of.
enum class scheduler_event : std::uint8_t {
  admission,   ///< an arrival that was dispatched at once while nothing queued
  arrival,     ///< an arrival while others wait
  step_report, ///< a step report, whatever it leads to
  first_token, ///< a prefill that finished
  end,         ///< a request that ended
  replan,      ///< a tick that the core asked for
  placement,   ///< any of these events that dispatched somebody (counted there too)
};
inline constexpr std::size_t scheduler_events = 7;
std::string_view to_string(scheduler_event e);

struct scheduler_latency {
  scheduler_event event{};
  std::uint64_t samples{};
  double p50_ns{};
  double p90_ns{};
  double p99_ns{};
  double longest_ns{};
};

/// One fleet at one length of the queue.
struct scheduler_point {
  bool disaggregated{false};
  std::uint32_t instances{};
  std::uint32_t queued{};
  double mean_queued{}; ///< over the events
  std::uint64_t events{};
  std::uint64_t decisions{};                ///< dispatches and sheds
  double events_per_s{};                    ///< on this thread, by the core's own time
  double decisions_per_s{};                 ///< likewise
  double virtual_s{};                       ///< simulated while it was measured
  double warm_up_virtual_s{};               ///< and before: five seconds, unless that took too long
  std::vector<scheduler_latency> latencies; ///< of the events that happened
};

struct scheduler_report {
  std::string policy;
  double clock_ns{}; ///< two readings of the clock in a row, median: subtracted from every sample
  std::vector<scheduler_point> points;
};

/// Blocks for as long as it takes. `on_point` sees each point as it is done. errc::reject: unknown policy.
result<scheduler_report> measure_scheduler(
    const scheduler_options& options, const std::function<void(const scheduler_point&)>& on_point);

} // namespace hflex::bench
