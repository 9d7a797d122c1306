// The largest value of the latest while: how scaling policies hold on to instances. Plain value, O(1) on average.
#pragma once
#include "actors/common/time.hpp"
#include <deque>
#include <optional>
#include <utility>

namespace hflex::scaler {

class peaks {
public:
  /// Points come in the order of time.
  void add(time_point now, double value) {
    if (!first_) first_ = now;
    while (!falling_.empty() && falling_.back().second <= value) falling_.pop_back();
    falling_.emplace_back(now, value);
    latest_ = now;
  }
  /// The largest value of the `window` that ends with the latest point. Forgets what is older than `longest`.
  double over(duration window, duration longest) {
    while (falling_.size() > 1 && falling_.front().first < latest_ - longest) falling_.pop_front();
    for (const auto& [when, value] : falling_)
      if (when >= latest_ - window) return value;
    return falling_.empty() ? 0.0 : falling_.back().second;
  }
  /// Whether points have come for as long as that.
  bool covers(duration window) const { return first_ && latest_ - *first_ >= window; }

private:
  std::deque<std::pair<time_point, double>> falling_; ///< by time; each larger than all that follow
  std::optional<time_point> first_;
  time_point latest_;
};

} // namespace hflex::scaler
