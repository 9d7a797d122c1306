// How long answers are, told while most of them still go on. Plain sums; used by the scheduler's promises of KV memory,
// by the division of mixed fleets and by the scaler.
#pragma once
#include <algorithm>
#include <cmath>

namespace hflex {

/// The first to end are the short ones: for a while the mean of those that have ended is too small, and what all have
/// made, those that go on as well, over the number of those that have ended is too large for as long. When as many end
/// as come, the two are the same.
struct output_tally {
  double made{};     ///< output tokens after the first ones, of all requests
  double finished{}; ///< requests that have ended well
  double outputs{};  ///< output tokens of those

  /// By what the mean of those that have ended is to be multiplied: >= 1, between the two by their geometric mean.
  double stretch() const { return outputs > 0 ? std::sqrt(std::max(1.0, (made + finished) / outputs)) : 1.0; }
  /// Older sums count for so much, 0 to 1.
  void fade(double kept) { made *= kept, finished *= kept, outputs *= kept; }
};

} // namespace hflex
