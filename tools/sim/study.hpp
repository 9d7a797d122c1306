// Many runs: each policy, with each scaling, at each load, side by side on the machine's cores, in the order in which
// they were asked for. Called by `hflex simulate`.
#pragma once
#include "tools/sim/workload_builder.hpp"
#include "tools/sim/world.hpp"

namespace hflex::sim {

struct study_options {
  cluster hardware;
  std::string sources;       ///< workload_builder.hpp
  workload_options requests; ///< its rate_scale is set for each run
  run_options run;           ///< its policies and mode likewise
  std::vector<std::string> policies;
  std::vector<std::string> scalings{"fixed"};
  std::vector<bool> modes{false}; ///< disaggregated?
  /// Loads as multiples of rate_scale 1 ...
  std::vector<double> rate_scales{1};
  /// ... or, when there are any, as shares of the fleet's saturation(), which is measured first for each mode.
  std::vector<double> loads;
  bool bound{false}; ///< also say what no policy can exceed
  std::uint32_t threads{1};
  /// Called now and then from any thread, one at a time: requests ended and wanted over all runs. false stops.
  std::function<bool(std::uint64_t done, std::uint64_t total, std::string_view what)> on_progress;
};

/// Requests per second that the fleet serves when it always has some waiting, whatever their targets: all arrive at
/// once, go to the instance with the fewest tokens outstanding, and the time until nine of ten have ended is taken.
result<double> saturation(const cluster& hardware, const workload& load, const run_options& options);

/// One result per mode, load, policy and scaling, in that order of loops. errc::reject for what cannot be run;
/// errc::fatal when stopped.
result<std::vector<run_result>> study(const study_options& options);

} // namespace hflex::sim
