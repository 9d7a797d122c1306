// A whole cluster in virtual time: the cores of router, scheduler, scaler and instances, unchanged, between simulated
// clients, devices and links (design/scheduling.md). The same inputs give the same result, but for its wall time.
// One thread; several worlds may run side by side.
#pragma once
#include "actors/common/result.hpp"
#include "actors/instance/batcher.hpp"
#include "actors/scheduler/scheduler.hpp"
#include "tools/sim/cluster.hpp"
#include "tools/sim/result.hpp"
#include "tools/sim/workload.hpp"
#include <functional>
#include <map>
#include <string>

namespace hflex::sim {

struct progress {
  std::uint64_t requests_ended{};
  std::uint64_t requests{};
  duration simulated{};
};

struct run_options {
  scheduler::options scheduler; ///< its policy; limits on queues are lifted, as everything is counted
  std::string scaling{"fixed"};
  std::map<std::string, double> scaling_knobs; ///< scaler::options::knobs
  bool disaggregated{false};
  std::vector<fleet_group> fleet; ///< instead of the cluster's own for that mode
  std::uint64_t seed{1};          ///< of the noise of step times
  bool prefix_cache{true};
  /// What clients ask for as the longest answer: per class, the smallest power of two that no answer of the workload
  /// exceeds, times this.
  std::uint32_t max_tokens_factor{1};
  bool exact_answers{false};  ///< clients ask for the very length instead, as load generators do
  bool keep_decisions{false}; ///< fill run_result::decisions
  bool noisy{true};           ///< false: every step takes its expected time
  std::function<void(instance::options&)> tune_instance;                 ///< a last word on each instance's options
  std::function<void(const scheduler::dispatch&, duration)> on_dispatch; ///< each placement, and when since the start
  std::function<bool(const progress&)> on_progress; ///< now and then; false ends the run with an error
};

/// errc::reject for an unknown policy or a fleet that cannot serve; errc::fatal when stopped by on_progress.
hflex::result<run_result> run(const cluster& hardware, const workload& load, const run_options& options);

} // namespace hflex::sim
