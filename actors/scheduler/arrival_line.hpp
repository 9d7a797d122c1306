// Who waits, first come first: joined at the end, left from anywhere, both in constant time. The ledger keeps one in
// the view. Reads like a map from the number of arrival to the request: it->first, it->second.
#pragma once
#include "actors/common/ids.hpp"
#include <cstddef>
#include <iterator>
#include <vector>

namespace hflex::scheduler {

class arrival_line {
public:
  struct entry {
    std::uint64_t first{}; ///< ascending
    request_key second;
  };

  /// The place in the line, to leave by; valid until then.
  std::uint32_t join(std::uint64_t order, request_key key) {
    auto at = places_[0].next_free;
    if (at == 0) {
      at = static_cast<std::uint32_t>(places_.size());
      places_.emplace_back();
    }
    places_[0].next_free = places_[at].next_free;
    const auto last = places_[0].before;
    places_[at] = {{order, key}, last, 0, 0};
    places_[last].after = at;
    places_[0].before = at;
    ++size_;
    return at;
  }
  void leave(std::uint32_t at) {
    auto& p = places_[at];
    places_[p.before].after = p.after;
    places_[p.after].before = p.before;
    p.next_free = places_[0].next_free;
    places_[0].next_free = at;
    --size_;
  }

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  /// Stays valid while others leave; not when its own does.
  class iterator {
  public:
    using iterator_category = std::forward_iterator_tag;
    using value_type = entry;
    using difference_type = std::ptrdiff_t;
    using pointer = const entry*;
    using reference = const entry&;

    iterator() = default;
    iterator(const arrival_line* line, std::uint32_t at) : line_(line), at_(at) {}
    reference operator*() const { return line_->places_[at_].who; }
    pointer operator->() const { return &**this; }
    iterator& operator++() {
      at_ = line_->places_[at_].after;
      return *this;
    }
    iterator operator++(int) {
      auto before = *this;
      ++*this;
      return before;
    }
    friend bool operator==(const iterator& a, const iterator& b) { return a.at_ == b.at_; }

  private:
    const arrival_line* line_{};
    std::uint32_t at_{};
  };
  iterator begin() const { return {this, places_[0].after}; }
  iterator end() const { return {this, 0}; }

private:
  struct place {
    entry who;
    std::uint32_t before{};
    std::uint32_t after{};
    std::uint32_t next_free{};
  };
  std::vector<place> places_{place{}}; ///< [0] is the end: after it comes the first, before it the last
  std::size_t size_{};
};

} // namespace hflex::scheduler
