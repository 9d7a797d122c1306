// How much a fluid machine can be worth at most: requests are work that flows into time windows of pools of instances,
// in shares as small as one likes. Called by upper_bound.cpp, which says what a request's work is. Pure arithmetic; it
// knows nothing of tokens or policies.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace hflex::sim {

/// Work of one request: `work_s` instance seconds in pool `pool`, within [begin_s, end_s), at a rate of at most `rate`
/// instances (> 0) while it is worked on.
struct fluid_job {
  std::uint32_t pool{};
  double begin_s{};
  double end_s{};
  double work_s{};
  double rate{1};
};

/// Worth `worth` when all of its jobs are done: a share of it for a share of each.
struct fluid_request {
  double worth{1}; ///< >= 0
  std::vector<fluid_job> jobs;
};

/// At least what the best schedule of all is worth, whichever requests it serves. `pools`: instances of each, each good
/// for a second of work a second. `grain_s` > 0: windows are widened to multiples of it, which keeps the bound one and
/// bounds memory and time. Always between 0 and the sum of worths. O(rounds * (requests + breakpoints)).
double fluid_bound(std::span<const fluid_request> requests, std::span<const double> pools, double grain_s);

} // namespace hflex::sim
