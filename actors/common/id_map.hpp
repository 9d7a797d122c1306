// From a number to a small number, in constant time and without an allocation per entry: open addressing, linear
// probing, one cache line for most look-ups. Used where ids come and go with every request. Any 64-bit key is allowed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace hflex {

class id_map {
public:
  static constexpr std::uint32_t none = ~std::uint32_t{0};

  /// `none` when it is not there.
  std::uint32_t find(std::uint64_t key) const {
    if (size_ == 0) return none;
    for (auto i = home(key);; i = (i + 1) & mask())
      if (slots_[i].value == none || slots_[i].key == key) return slots_[i].value;
  }
  /// False, and nothing changes, when the key is there. `value` is not `none`.
  bool insert(std::uint64_t key, std::uint32_t value) {
    if (2 * (size_ + 1) > slots_.size()) grow();
    auto i = home(key);
    for (; slots_[i].value != none; i = (i + 1) & mask())
      if (slots_[i].key == key) return false;
    slots_[i] = {key, value};
    ++size_;
    return true;
  }
  /// The value that it had; `none` when it was not there.
  std::uint32_t erase(std::uint64_t key) {
    if (size_ == 0) return none;
    auto hole = home(key);
    for (; slots_[hole].value == none || slots_[hole].key != key; hole = (hole + 1) & mask())
      if (slots_[hole].value == none) return none;
    const auto value = slots_[hole].value;
    // Those behind it that the hole would cut off from their home move up.
    for (auto i = (hole + 1) & mask(); slots_[i].value != none; i = (i + 1) & mask()) {
      if (((i - home(slots_[i].key)) & mask()) < ((i - hole) & mask())) continue;
      slots_[hole] = slots_[i];
      hole = i;
    }
    slots_[hole].value = none;
    --size_;
    return value;
  }
  std::size_t size() const { return size_; }

private:
  struct slot {
    std::uint64_t key{};
    std::uint32_t value{none};
  };

  std::size_t mask() const { return slots_.size() - 1; }
  std::size_t home(std::uint64_t key) const {
    return static_cast<std::size_t>((key * 0x9e3779b97f4a7c15ULL) >> shift_);
  }
  void grow() {
    auto old = std::move(slots_);
    slots_.assign(old.empty() ? 16 : old.size() * 2, {});
    shift_ = old.empty() ? 60 : shift_ - 1;
    size_ = 0;
    for (const auto& s : old)
      if (s.value != none) insert(s.key, s.value);
  }

  std::vector<slot> slots_; ///< a power of two, at most half full
  std::uint32_t shift_{64};
  std::size_t size_{};
};

} // namespace hflex
