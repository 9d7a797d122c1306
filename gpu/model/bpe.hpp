// Byte-pair encoding of one piece of text: merges neighbours in the order of their rank. Pure; built by the tokenizer.
#pragma once
#include "actors/common/request.hpp"
#include <cstdint>
#include <span>
#include <vector>

namespace hflex::gpu {

struct bpe_merge {
  token_id left{};
  token_id right{};
  token_id merged{};
  std::uint32_t rank{}; ///< the lowest is applied first; merges of one rank from left to right
};

/// Immutable; any number of threads may encode with it.
class bpe {
public:
  /// A pair that is listed twice has its last rank. Token ids are not negative, ranks below 2^32 - 1.
  explicit bpe(std::span<const bpe_merge> merges);

  /// Appends what becomes of `symbols`, the tokens of one piece, to `out`: of all neighbouring pairs the one of lowest
  /// rank is merged, the leftmost of equals first, until there is none. O(n log n) in the symbols.
  void encode(std::span<const token_id> symbols, std::vector<token_id>& out) const;

private:
  /// A merge as it is looked up. `rank` is `none` in free slots and for pairs that do not merge.
  struct entry {
    static constexpr std::uint32_t none = 0xffffffff;
    std::uint64_t pair{};
    std::uint32_t rank{none};
    token_id merged{};
  };
  entry find(token_id left, token_id right) const;
  std::size_t slot_of(std::uint64_t pair) const;
  void encode_short(std::span<const token_id> symbols, std::vector<token_id>& out) const;
  void encode_long(std::span<const token_id> symbols, std::vector<token_id>& out) const;

  std::vector<entry> table_; ///< open addressing, at most half full, size a power of two
};

} // namespace hflex::gpu
