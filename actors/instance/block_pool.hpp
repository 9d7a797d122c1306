// Which KV blocks of a device context's pool are free. Used by the batcher; knows nothing of sequences or time.
// "No free block" is a normal answer; a block given back twice is a broken invariant.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace hflex::instance {

class block_pool {
public:
  explicit block_pool(std::uint32_t blocks);

  std::uint32_t total() const { return static_cast<std::uint32_t>(is_free_.size()); }
  std::uint32_t free() const { return static_cast<std::uint32_t>(free_.size()); }

  /// Appends `count` blocks to `table`; all or nothing (false: fewer are free, nothing changed). O(count).
  [[nodiscard]] bool allocate(std::uint32_t count, std::vector<std::uint32_t>& table);
  /// Takes every block of `table` back and empties it. O(table).
  void release(std::vector<std::uint32_t>& table);

  /// True when the given tables and the free list hold each block of the pool exactly once.
  bool accounts_for(std::span<const std::vector<std::uint32_t>* const> tables) const;

private:
  std::vector<std::uint32_t> free_; ///< last in, first out: a warm block is used again first
  std::vector<bool> is_free_;
};

/// Blocks that hold `tokens` tokens.
constexpr std::uint32_t blocks_for(std::uint64_t tokens, std::uint32_t block_size) {
  return static_cast<std::uint32_t>((tokens + block_size - 1) / block_size);
}

} // namespace hflex::instance
