// Fits the step-time model to measured steps. Decides the coefficients and tells how far off they are on steps that
// were not fitted. Pure; called by `hflex profile` and by tests. The online correction is step_time_corrector's.
#pragma once
#include "actors/common/result.hpp"
#include "actors/common/step_time.hpp"
#include <span>

namespace hflex {

struct measured_step {
  step_shape shape;
  duration elapsed{};
};

struct step_time_fit {
  step_time_model model;  ///< fitted to all steps; `safety` is the 95th percentile of measured/predicted, at least 1
  std::size_t fitted{};   ///< steps that the errors' model was fitted to
  std::size_t held_out{}; ///< steps that it was judged on: every fourth
  double mean_error{};    ///< mean of |predicted - measured| / measured on them
  double p95_error{};     ///< 95th percentile of the same
};

/// Non-negative least squares on the relative error, for the best knee m0 of a few. Needs at least 8 steps with work
/// and a time; fewer are errc::reject. O(steps).
result<step_time_fit> fit_step_time(std::span<const measured_step> steps);

} // namespace hflex
