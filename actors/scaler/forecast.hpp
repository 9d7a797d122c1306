// How much work comes per second, and how much will when a start that is decided now is ready. Used by the hyperflexis
// scaling policy, once per kind of work. It decides nothing and knows nothing of instances.
#pragma once
#include "actors/common/time.hpp"
#include <cstddef>
#include <deque>
#include <optional>

namespace hflex::scaler {

/// A series of amounts in bins of one second, the latest ten minutes of it.
class rate_forecast {
public:
  /// `amount` came since the last call (any unit).
  void add(time_point now, double amount);
  /// Amount per second over the latest `window`, up to now.
  double lately(duration window) const;
  /// Amount per second expected `ahead` from now: the mean or the rising trend of a dozen times that while, or what
  /// came lately where that is more by more than chance. What falls is not extrapolated: an instance that is stopped
  /// too early costs more than one that is kept a little.
  double expected(duration ahead) const;
  /// Variance of what came in one second, around the mean of the latest `window`; 0 before two seconds have passed.
  double variance(duration window) const;
  /// By how much the real rate exceeded what expected(lead) had said, root mean square, over the latest minutes.
  /// Learned for the lead of the latest learn().
  double usual_excess() const;
  /// Compare what was expected a lead ago with what came since: once per bin.
  void learn(duration lead);

private:
  struct promise {
    std::size_t due{}; ///< serial of the bin at whose end it is checked
    double rate{};
    std::size_t bins{}; ///< over which
  };
  void close_bins(time_point now);
  double mean_of_last(std::size_t bins) const;

  static constexpr std::size_t most_bins = 600;
  std::deque<double> bins_; ///< closed ones, oldest first
  std::size_t serial_{0};   ///< of closed bins, ever
  std::size_t learned_{0};
  double open_{0}; ///< the bin under way
  std::optional<time_point> open_since_;
  time_point latest_;
  std::deque<promise> promises_;
  double excess_squared_{0};
};

} // namespace hflex::scaler
