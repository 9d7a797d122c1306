// What a KV block holds, as a hash: of its tokens and, by its predecessor's hash, of every token before them. Two
// blocks of one hash hold the K and V of the same text. Used by the batcher, and for prefix marks; pure.
//
// The hash is keyed, so that nobody who does not know the key can make up two texts of one hash, and 128 bits wide, so
// that none are met by chance.
#pragma once
#include "actors/common/request.hpp"
#include <cstddef>
#include <cstdint>
#include <span>

namespace hflex {

struct hash_key {
  std::uint64_t low{};
  std::uint64_t high{};
};

struct block_hash {
  std::uint64_t low{};
  std::uint64_t high{};
  friend constexpr bool operator==(const block_hash&, const block_hash&) = default;
};

/// For hash tables: the bits are as good as random to whoever does not know the key.
struct block_hash_bits {
  std::size_t operator()(const block_hash& h) const { return static_cast<std::size_t>(h.low); }
};

/// SipHash-2-4 with 128 bits of result (Aumasson, Bernstein: SipHash, a fast short-input PRF) of `parent`, then the
/// tokens as 32-bit words. The first block of a text has the parent {}.
block_hash chain_hash(const hash_key& key, const block_hash& parent, std::span<const token_id> tokens);

} // namespace hflex
