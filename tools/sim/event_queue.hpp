// Virtual time: what is to happen, in order of time; what is due at the same time happens in the order in which it was
// said. One thread.
#pragma once
#include "actors/common/time.hpp"
#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

namespace hflex::sim {

class event_queue {
public:
  using work = std::function<void()>;

  time_point now() const { return now_; }
  bool empty() const { return heap_.empty(); }
  time_point next() const { return heap_.front().when; } ///< not when empty()
  std::uint64_t done() const { return done_; }           ///< events that have happened

  /// Does `w` at that time; at once (after what is due now) when it is past.
  void at(time_point when, work w) {
    std::uint32_t slot = 0;
    if (free_.empty()) {
      slot = static_cast<std::uint32_t>(slots_.size());
      slots_.push_back(std::move(w));
    } else {
      slot = free_.back();
      free_.pop_back();
      slots_[slot] = std::move(w);
    }
    heap_.push_back({std::max(when, now_), next_order_++, slot});
    std::push_heap(heap_.begin(), heap_.end(), later{});
  }
  void after(duration d, work w) { at(now_ + d, std::move(w)); }

  /// Lets the next one happen. Not when empty().
  void step() {
    std::pop_heap(heap_.begin(), heap_.end(), later{});
    const auto next = heap_.back();
    heap_.pop_back();
    now_ = next.when;
    auto w = std::move(slots_[next.slot]);
    free_.push_back(next.slot);
    ++done_;
    w();
  }

private:
  struct entry {
    time_point when;
    std::uint64_t order{};
    std::uint32_t slot{};
  };
  struct later {
    bool operator()(const entry& a, const entry& b) const {
      return a.when != b.when ? a.when > b.when : a.order > b.order;
    }
  };

  time_point now_{};
  std::vector<entry> heap_;
  std::vector<work> slots_;
  std::vector<std::uint32_t> free_;
  std::uint64_t next_order_{};
  std::uint64_t done_{};
};

} // namespace hflex::sim
