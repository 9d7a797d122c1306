// Byte-pair encoding of one piece of text: merges neighbours in the order of their rank. Pure; built by the tokenizer.
#pragma once
#include "actors/common/request.hpp"
#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace hflex::gpu {

struct bpe_merge {
  token_id left{};
  token_id right{};
  token_id merged{};
};

/// Immutable; any number of threads may encode with it.
class bpe {
public:
  /// In place of the token of a byte that has none.
  static constexpr token_id no_token = -1;

  /// `byte_tokens` are the tokens of single bytes, or `no_token`; `merges` come in order of rank, the first applied
  /// first. A pair that is listed twice has its last rank. Token ids are not negative.
  bpe(const std::array<token_id, 256>& byte_tokens, std::span<const bpe_merge> merges);

  /// Appends the tokens of `piece` to `out`: of all neighbouring pairs the one of lowest rank is merged, the leftmost
  /// of equals first, until there is none. Bytes without a token are left out first. O(n log n) in the bytes of the
  /// piece.
  void encode(std::string_view piece, std::vector<token_id>& out) const;

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
  void encode_short(std::string_view piece, std::vector<token_id>& out) const;
  void encode_long(std::string_view piece, std::vector<token_id>& out) const;

  std::array<token_id, 256> byte_tokens_;
  std::vector<entry> table_; ///< open addressing, at most half full, size a power of two
};

} // namespace hflex::gpu
