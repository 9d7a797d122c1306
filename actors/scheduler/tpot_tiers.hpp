// An instance's residents by TPOT target, and when their tokens are due. A handful of targets and some hundred
// residents at most: sorted arrays, which a step report and a placement change without an allocation. Part of the view.
#pragma once
#include "actors/common/check.hpp"
#include "actors/common/time.hpp"
#include <algorithm>
#include <vector>

namespace hflex::scheduler {

/// Points in time, sorted, equal ones too.
class sorted_times {
public:
  void insert(time_point t) { times_.insert(std::upper_bound(times_.begin(), times_.end(), t), t); }
  /// One of those that are equal to `t`, which is there.
  void erase_one(time_point t) {
    const auto at = lower_bound(t);
    HFLEX_CHECK(at != times_.end() && *at == t);
    times_.erase(at);
  }
  std::vector<time_point>::const_iterator lower_bound(time_point t) const {
    return std::lower_bound(times_.begin(), times_.end(), t);
  }
  auto begin() const { return times_.begin(); }
  auto end() const { return times_.end(); }
  std::size_t size() const { return times_.size(); }
  bool empty() const { return times_.empty(); }

private:
  std::vector<time_point> times_;
};

/// Residents and promised residents of one instance that share a TPOT target and still count for attainment.
struct tpot_tier {
  std::uint32_t members{};
  sorted_times anchors; ///< of those that decode already
};

/// By target, tightest first; no tier is without members.
class tpot_tiers {
public:
  using value_type = std::pair<duration, tpot_tier>;

  auto begin() const { return tiers_.begin(); }
  auto end() const { return tiers_.end(); }
  std::size_t size() const { return tiers_.size(); }
  bool empty() const { return tiers_.empty(); }

  void join(duration tpot) {
    auto at = place_of(tpot);
    if (at == tiers_.end() || at->first != tpot) at = tiers_.insert(at, {tpot, {}});
    ++at->second.members;
  }
  /// A member joined that target before.
  void leave(duration tpot) {
    auto at = place_of(tpot);
    HFLEX_CHECK(at != tiers_.end() && at->first == tpot);
    if (--at->second.members == 0) tiers_.erase(at);
  }
  sorted_times& anchors_of(duration tpot) {
    auto at = place_of(tpot);
    HFLEX_CHECK(at != tiers_.end() && at->first == tpot);
    return at->second.anchors;
  }

private:
  std::vector<value_type>::iterator place_of(duration tpot) {
    return std::find_if(tiers_.begin(), tiers_.end(), [&](const value_type& t) { return t.first >= tpot; });
  }
  std::vector<value_type> tiers_;
};

} // namespace hflex::scheduler
