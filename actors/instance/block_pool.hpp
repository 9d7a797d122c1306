// Who uses which KV block of a device context's pool, and what the blocks hold. Used by the batcher; knows nothing of
// sequences, time or where hashes come from. "No free block" is a normal answer; a block given back twice is a broken
// invariant.
//
//   empty --allocate--> in use --publish--> in use, can be found <--share, last release--> idle, can be found
//     ^                   |                                                                     |
//     +------release------+     evicted, least recently used first, when no empty one is left   |
//     +-----------------------------------------------------------------------------------------+
//
// A block that can be found is full and is written no more, so any number of block tables may hold it. A table gives
// its blocks back from its end, so that the end of a text is evicted before its beginning, without which it is of no
// use. Two blocks may come to hold the same text (sequences that computed it side by side); one of them can be found.
#pragma once
#include "actors/common/prefix_hash.hpp"
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace hflex::instance {

/// How much of a text is there.
struct prefix_hit {
  std::uint32_t blocks{}; ///< from its beginning
  std::uint32_t idle{};   ///< of them, in no table: sharing them makes as many fewer free
};

class block_pool {
public:
  /// `block_size`: tokens in a block, >= 1.
  block_pool(std::uint32_t blocks, std::uint32_t block_size);

  std::uint32_t total() const { return static_cast<std::uint32_t>(blocks_.size()) - 1; }
  /// Blocks that allocate can give: empty or idle.
  std::uint32_t free() const { return static_cast<std::uint32_t>(empty_.size()) + idle_; }
  /// Blocks that can be found by what they hold, in use or idle.
  std::uint32_t cached() const { return static_cast<std::uint32_t>(found_by_.size()); }
  /// Block tables that hold the block.
  std::uint32_t users(std::uint32_t block) const { return blocks_[block].users; }

  /// Appends `count` blocks of unknown content to `table`; all or nothing (false: fewer are free, nothing changed).
  /// O(count).
  [[nodiscard]] bool allocate(std::uint32_t count, std::vector<std::uint32_t>& table);
  /// Takes every block of `table` back and empties it. O(table).
  void release(std::vector<std::uint32_t>& table);

  /// The longest beginning of a text that is there. `chain`: hashes of its first blocks; `tokens`: at least theirs,
  /// which are compared, so that not even equal hashes bring another text's block. O(chain and its tokens).
  prefix_hit find(std::span<const block_hash> chain, std::span<const token_id> tokens) const;
  /// Appends the blocks of a chain that `find` has found to `table`. O(chain).
  void share(std::span<const block_hash> chain, std::vector<std::uint32_t>& table);
  /// Says what `block` holds, a block in use that is full and of which nothing was said yet. If another one that can be
  /// found holds the same and `may_swap`, that one takes the place of `block`, which is given back. O(block).
  void publish(std::uint32_t& block, const block_hash& hash, std::span<const token_id> tokens, bool may_swap);

  /// True when the given tables and the lists here explain each block's state exactly. O(everything); for tests.
  bool accounts_for(std::span<const std::vector<std::uint32_t>* const> tables) const;

private:
  struct entry {
    std::uint32_t users{};
    bool full{false}; ///< `hash` and its tokens are what it holds
    block_hash hash;
    std::uint32_t older{}; ///< neighbours among the idle
    std::uint32_t newer{};
  };

  bool can_be_found(std::uint32_t index) const;
  bool holds(std::uint32_t index, std::span<const token_id> tokens) const;
  void fill(std::uint32_t index, const block_hash& hash, std::span<const token_id> tokens);
  void use(std::uint32_t index);
  void give_back(std::uint32_t index);
  std::uint32_t take_one();
  void enter_idle(std::uint32_t index);
  void leave_idle(std::uint32_t index);
  bool lists_are_sound() const;

  std::uint32_t block_size_;
  std::vector<entry> blocks_;        ///< and one more at the end: both ends of the ring of idle blocks
  std::vector<token_id> contents_;   ///< of the full blocks; nothing until there is one
  std::vector<std::uint32_t> empty_; ///< last in, first out: a warm block is used again first
  std::uint32_t idle_{};
  std::unordered_map<block_hash, std::uint32_t, block_hash_bits> found_by_;
};

/// Blocks that hold `tokens` tokens.
constexpr std::uint32_t blocks_for(std::uint64_t tokens, std::uint32_t block_size) {
  return static_cast<std::uint32_t>((tokens + block_size - 1) / block_size);
}

} // namespace hflex::instance
