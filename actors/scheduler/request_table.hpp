// Requests by key: looked up, added and removed in constant time, walked in the order of keys by those who must see
// all. The ledger keeps two of them in the view. Values stay where they are until they are removed. A request is in a
// table with one attempt at most.
//
// The order is made when somebody asks for it and kept up to date as long as somebody does: a walk costs what a walk
// over a sorted list costs, and who never walks pays nothing. A walk also changes the table's memory: one thread.
#pragma once
#include "actors/common/check.hpp"
#include "actors/common/id_map.hpp"
#include "actors/common/ids.hpp"
#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace hflex::scheduler {

template <class T>
class request_table {
public:
  using value_type = std::pair<const request_key, T>;

  std::size_t size() const { return index_.size(); }
  bool empty() const { return size() == 0; }

  /// Nothing when that attempt of it is not there.
  T* get(request_key key) {
    const auto slot = index_.find(key.id.value);
    if (slot == id_map::none) return nullptr;
    auto& found = *at_slot(slot).value;
    return found.first == key ? &found.second : nullptr;
  }
  const T* get(request_key key) const { return const_cast<request_table*>(this)->get(key); }
  bool contains(request_key key) const { return get(key) != nullptr; }
  const T& at(request_key key) const {
    const auto* found = get(key);
    HFLEX_CHECK(found);
    return *found;
  }
  T& at(request_key key) { return const_cast<T&>(std::as_const(*this).at(key)); }
  /// The attempt of it that is there.
  std::optional<request_key> attempt_of(request_id id) const {
    const auto slot = index_.find(id.value);
    if (slot == id_map::none) return std::nullopt;
    return at_slot(slot).value->first;
  }

  /// No attempt of it is there.
  T& add(request_key key, T&& value) {
    const auto slot = take_slot();
    HFLEX_CHECK(index_.insert(key.id.value, slot));
    auto& n = at_slot(slot);
    n.value.emplace(key, std::move(value));
    n.serial = ++serials_;
    note(slot);
    return n.value->second;
  }
  /// It is there.
  void remove(request_key key) {
    const auto slot = index_.erase(key.id.value);
    HFLEX_CHECK(slot != id_map::none);
    auto& n = at_slot(slot);
    HFLEX_CHECK(n.value->first == key);
    n.value.reset();
    n.serial = 0;
    n.next_free = first_free_;
    first_free_ = slot;
  }

  /// In the order of keys. A walk sees what was there when it began and has not been removed since.
  class iterator {
  public:
    using iterator_category = std::forward_iterator_tag;
    using value_type = request_table::value_type;
    using difference_type = std::ptrdiff_t;
    using pointer = const value_type*;
    using reference = const value_type&;

    iterator() = default;
    iterator(const request_table* table, std::size_t at) : table_(table), at_(at) { skip_removed(); }
    reference operator*() const { return *table_->at_slot(table_->order_[at_].slot).value; }
    pointer operator->() const { return &**this; }
    iterator& operator++() {
      ++at_;
      skip_removed();
      return *this;
    }
    iterator operator++(int) {
      auto before = *this;
      ++*this;
      return before;
    }
    friend bool operator==(const iterator& a, const iterator& b) { return a.at_ == b.at_; }

  private:
    void skip_removed() {
      while (at_ < table_->order_.size() && !table_->is_there(table_->order_[at_])) ++at_;
    }
    const request_table* table_{};
    std::size_t at_{};
  };
  iterator begin() const {
    sort();
    return {this, 0};
  }
  iterator end() const { return {this, order_.size()}; }

private:
  static constexpr std::uint32_t chunk_bits = 7;
  static constexpr std::uint32_t chunk_size = 1U << chunk_bits;

  struct node {
    std::optional<value_type> value;
    std::uint64_t serial{}; ///< of the value; 0: free
    std::uint32_t next_free{id_map::none};
  };
  struct listed {
    request_key key;
    std::uint64_t serial{};
    std::uint32_t slot{};
    friend bool operator<(const listed& a, const listed& b) { return a.key < b.key; }
  };

  node& at_slot(std::uint32_t slot) const { return chunks_[slot >> chunk_bits][slot & (chunk_size - 1)]; }

  // The one that was freed last is the one that the caches still hold.
  std::uint32_t take_slot() {
    if (first_free_ == id_map::none) {
      const auto base = static_cast<std::uint32_t>(chunks_.size()) << chunk_bits;
      chunks_.push_back(std::make_unique<node[]>(chunk_size));
      for (auto i = chunk_size; i-- > 0;) {
        at_slot(base + i).next_free = first_free_;
        first_free_ = base + i;
      }
    }
    const auto slot = first_free_;
    first_free_ = at_slot(slot).next_free;
    return slot;
  }

  void note(std::uint32_t slot) {
    if (all_fresh_) return;
    if (fresh_.size() <= size()) return fresh_.push_back(slot);
    all_fresh_ = true; // nobody walks
    fresh_.clear();
  }
  bool is_there(const listed& l) const { return at_slot(l.slot).serial == l.serial; }

  void sort() const {
    if (all_fresh_) {
      order_.clear();
      const auto slots = static_cast<std::uint32_t>(chunks_.size()) << chunk_bits;
      for (std::uint32_t slot = 0; slot < slots; ++slot) list(slot);
      std::sort(order_.begin(), order_.end());
      all_fresh_ = false;
    } else if (!fresh_.empty() || order_.size() > 2 * size()) {
      std::erase_if(order_, [this](const listed& l) { return !is_there(l); });
      const auto sorted = static_cast<std::ptrdiff_t>(order_.size());
      std::sort(fresh_.begin(), fresh_.end()); // a slot may have been filled more than once
      fresh_.erase(std::unique(fresh_.begin(), fresh_.end()), fresh_.end());
      for (auto slot : fresh_) list(slot);
      std::sort(order_.begin() + sorted, order_.end());
      std::inplace_merge(order_.begin(), order_.begin() + sorted, order_.end());
    }
    fresh_.clear();
  }
  void list(std::uint32_t slot) const {
    const auto& n = at_slot(slot);
    if (n.serial != 0) order_.push_back({n.value->first, n.serial, slot});
  }

  id_map index_;
  std::vector<std::unique_ptr<node[]>> chunks_;
  std::uint32_t first_free_{id_map::none};
  std::uint64_t serials_{};
  mutable std::vector<listed> order_;        ///< by key; of those that were removed since, too
  mutable std::vector<std::uint32_t> fresh_; ///< filled since `order_` was made
  mutable bool all_fresh_{true};             ///< `order_` is to be made anew
};

} // namespace hflex::scheduler
