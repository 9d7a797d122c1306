// The beginning of a text, as a few numbers that a message can carry: one mark for each of a fixed series of lengths.
// Two texts that share the mark of a length begin with the same tokens up to there. The router makes them, the
// scheduler compares them to know what an instance's prefix cache is likely to hold; nobody may take them for proof.
// Pure.
//
// The series is dense where prompts are short and common beginnings end, and thin after that: 64 to 1,024 tokens by 64,
// to 8,192 by 256, then by 1,024. A prompt of 128k tokens has 164 marks.
#pragma once
#include "actors/common/prefix_hash.hpp"
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace hflex {

using prefix_mark = std::uint64_t;

/// The length in tokens that mark `i` stands for: 64, 128, ...
std::uint32_t mark_length(std::size_t i);
/// Marks of texts beyond that are not made.
inline constexpr std::size_t most_prefix_marks = 256;
/// The marks of a text, at most most_prefix_marks; none when it is shorter than the first length. `key`: as for
/// chain_hash.
std::vector<prefix_mark> prefix_marks(const hash_key& key, std::span<const token_id> tokens);

} // namespace hflex
