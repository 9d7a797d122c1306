// How one layer's keys, or values, lie inside a KV block in host memory: what attention multiplies with, as it is.
//
//   block = [kv_heads][block_size / 16] strips of 16 positions
//   keys, a strip:   bf16 [D/2][16][2]   pairs of inputs by 16 positions: what a score product takes
//                    f32  [D][16]
//   values, a strip: bf16 [8][D][2]      pairs of positions by D outputs: what a weighted sum takes
//                    f32  [16][D]
//
// Pure arithmetic. Rows that leave the host (KV transfers) are plain [kv_heads][D]: kv_pool converts.
#pragma once
#include <cstddef>
#include <cstdint>

namespace hflex::gpu {

/// Positions in one strip; block sizes are multiples of it.
inline constexpr std::uint32_t kv_strip = 16;

/// Where the elements of one position and head lie. `Element` is std::uint16_t (bf16) or float.
template <class Element>
struct kv_layout {
  std::uint32_t block_size{};
  std::uint32_t head_dim{};

  std::size_t strip_elements() const { return std::size_t{kv_strip} * head_dim; }
  /// First element of the strip that holds `offset` (a position within the block), from the start of the block.
  std::size_t strip(std::uint32_t head, std::uint32_t offset) const {
    return (std::size_t{head} * (block_size / kv_strip) + offset / kv_strip) * strip_elements();
  }
  /// Elements from the start of the strip; `p` is the position within it, `i` < head_dim.
  std::size_t key(std::uint32_t p, std::uint32_t i) const {
    if constexpr (sizeof(Element) == 2) return std::size_t{i / 2} * 2 * kv_strip + p * 2 + i % 2;
    return std::size_t{i} * kv_strip + p;
  }
  std::size_t value(std::uint32_t p, std::uint32_t i) const {
    if constexpr (sizeof(Element) == 2) return std::size_t{p / 2} * 2 * head_dim + std::size_t{i} * 2 + p % 2;
    return std::size_t{p} * head_dim + i;
  }
};

} // namespace hflex::gpu
