// Instances in the order of a number that changes often, best first: a heap in which everybody's place is known.
// Setting one costs O(log n); looking at the k best costs k log k small steps, whatever n is. Used by policies that
// must not walk the fleet at every event. The order is total (number, then id), so it does not depend on history.
#pragma once
#include "actors/common/ids.hpp"
#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
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
    ++changes_;
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
    ++changes_;
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

  /// Calls `look(slot)` for the best, the second, ... until it returns false; for at most `most` of them. `look` may
  /// set numbers here and drop slots: it goes on with the best of the places that were next.
  template <class Look>
  void walk(std::uint32_t most, Look look) const {
    std::array<std::uint32_t, most_looks + 1> open; // whose parents were looked at; a heap, too
    std::uint32_t count = 0;
    const auto worse = [this](std::uint32_t a, std::uint32_t b) { return heap_[b] < heap_[a]; };
    const auto add = [&](std::uint32_t at) {
      if (at >= heap_.size()) return;
      open[count++] = at;
      std::push_heap(open.begin(), open.begin() + count, worse);
    };
    add(0);
    auto as_of = changes_;
    for (std::uint32_t looks = 0; looks < std::min(most, most_looks) && count > 0; ++looks) {
      if (std::exchange(as_of, changes_) != changes_) { // places may be others', or nobody's any more
        const auto end =
            std::remove_if(open.begin(), open.begin() + count, [this](std::uint32_t at) { return at >= heap_.size(); });
        count = static_cast<std::uint32_t>(end - open.begin());
        if (count == 0) return;
        std::make_heap(open.begin(), end, worse);
      }
      std::pop_heap(open.begin(), open.begin() + count, worse);
      const auto at = open[--count];
      const auto slot = heap_[at].slot;
      add(2 * at + 1);
      add(2 * at + 2);
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
  std::uint64_t changes_{};           ///< so far: a walk notices them
};

} // namespace hflex::scheduler
