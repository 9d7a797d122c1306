// Instances in the order of a number that changes often, best first: a heap in which everybody's place is known.
// Setting one costs O(log n); looking at the k best costs k^2 small steps, whatever n is. Used by policies that must
// not walk the fleet at every event. The order is total (number, then id), so it does not depend on history.
#pragma once
#include "actors/common/ids.hpp"
#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

namespace hflex::scheduler {

class ranking {
public:
  static constexpr std::uint32_t most_looks = 32; ///< at most so many in one walk

  bool empty() const { return heap_.empty(); }
  std::size_t size() const { return heap_.size(); }
  double least() const { return heap_.front().number; } ///< not when empty()
  std::uint32_t first() const { return heap_.front().slot; }
  double number_of(std::uint32_t slot) const { return heap_[places_[slot]].number; } ///< of one that is in it
  bool contains(std::uint32_t slot) const { return slot < places_.size() && places_[slot] != nowhere; }

  /// Adds it, or changes its number. `slot`: instance_load::slot.
  void set(std::uint32_t slot, double number, instance_id id) {
    if (slot >= places_.size()) places_.resize(slot + 1, nowhere);
    auto at = places_[slot];
    if (at == nowhere) {
      at = static_cast<std::uint32_t>(heap_.size());
      heap_.push_back({number, id, slot});
      places_[slot] = at;
      rise(at);
      return;
    }
    const entry now{number, id, slot};
    const bool better = now < heap_[at];
    heap_[at] = now;
    if (better)
      rise(at);
    else
      sink(at);
  }
  void drop(std::uint32_t slot) {
    if (!contains(slot)) return;
    const auto at = places_[slot];
    places_[slot] = nowhere;
    const auto last = heap_.back();
    heap_.pop_back();
    if (at == heap_.size()) return;
    heap_[at] = last;
    places_[last.slot] = at;
    rise(at);
    sink(places_[last.slot]);
  }

  /// Calls `look(slot)` for the best, the second, ... until it returns false; for at most `most` of them.
  template <class Look>
  void walk(std::uint32_t most, Look look) const {
    std::array<std::uint32_t, most_looks + 1> open; // whose parents were looked at; unsorted
    std::uint32_t count = 0;
    if (!heap_.empty()) open[count++] = 0;
    for (std::uint32_t looks = 0; looks < std::min(most, most_looks) && count > 0; ++looks) {
      std::uint32_t best = 0;
      for (std::uint32_t i = 1; i < count; ++i)
        if (heap_[open[i]] < heap_[open[best]]) best = i;
      const auto at = open[best];
      const auto slot = heap_[at].slot;
      open[best] = open[--count];
      const auto child = 2 * at + 1;
      if (child < heap_.size()) open[count++] = child;
      if (child + 1 < heap_.size()) open[count++] = child + 1;
      if (!look(slot)) return;
    }
  }

private:
  static constexpr std::uint32_t nowhere = ~std::uint32_t{0};
  struct entry {
    double number{};
    instance_id id;
    std::uint32_t slot{};
    friend bool operator<(const entry& a, const entry& b) {
      return a.number != b.number ? a.number < b.number : a.id < b.id;
    }
  };

  void put(std::uint32_t at, const entry& e) {
    heap_[at] = e;
    places_[e.slot] = at;
  }
  void rise(std::uint32_t at) {
    const auto e = heap_[at];
    for (; at > 0 && e < heap_[(at - 1) / 2]; at = (at - 1) / 2) put(at, heap_[(at - 1) / 2]);
    put(at, e);
  }
  void sink(std::uint32_t at) {
    const auto e = heap_[at];
    const auto size = static_cast<std::uint32_t>(heap_.size());
    for (auto child = 2 * at + 1; child < size; child = 2 * at + 1) {
      if (child + 1 < size && heap_[child + 1] < heap_[child]) ++child;
      if (!(heap_[child] < e)) break;
      put(at, heap_[child]);
      at = child;
    }
    put(at, e);
  }

  std::vector<entry> heap_;
  std::vector<std::uint32_t> places_; ///< by slot
};

} // namespace hflex::scheduler
