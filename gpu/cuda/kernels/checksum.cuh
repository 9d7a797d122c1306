// A checksum of device memory, so that what came from another process or device is known to be what was sent.
#pragma once
#include "gpu/cuda/kernels/lanes.cuh"

namespace hflex::cuda {

inline constexpr unsigned checksum_threads = 256;
inline constexpr unsigned checksum_blocks = 512;

/// Spreads a word over all bits, differently at each place: words that change places change the sum.
HFLEX_BOTH std::uint64_t mixed_word(std::uint64_t word, std::uint64_t place) {
  word ^= (place + 1) * 0x9e3779b97f4a7c15ULL;
  word = (word ^ word >> 32U) * 0xd6e8feb86659fd93ULL;
  return word ^ word >> 32U;
}

/// sums[block] = sum of the mixed words that are this block's; the checksum is the sum over the blocks. Grid:
/// checksum_blocks; shared memory: eight bytes per warp.
template <class Word>
HFLEX_GLOBAL(checksum_threads)
sum_words(const Word* words, std::uint64_t count, std::uint64_t* sums) {
  static_assert(sizeof(Word) == sizeof(std::uint64_t));
  auto* scratch = reinterpret_cast<std::uint64_t*>(shared_bytes());
  std::uint64_t sum = 0;
  constexpr std::uint64_t stride = std::uint64_t{checksum_blocks} * checksum_threads;
  for (std::uint64_t i = std::uint64_t{block_position().x} * checksum_threads + thread_index(); i < count; i += stride)
    sum += mixed_word(words[i], i);
  sum = warp_sum(sum);
  if (thread_index() % warp_lanes == 0) scratch[thread_index() / warp_lanes] = sum;
  sync_threads();
  if (thread_index() != 0) return;
  sum = 0;
  for (unsigned i = 0; i < checksum_threads / warp_lanes; ++i) sum += scratch[i];
  sums[block_position().x] = sum;
}

} // namespace hflex::cuda
