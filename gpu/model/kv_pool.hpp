// The KV blocks of one context in host memory: [layers][2][blocks], 0 = K, 1 = V, each block as kv_layout.hpp has it.
// Knows where a token lies; which block belongs to whom is the owner's business.
#pragma once
#include "gpu/device.hpp"
#include "gpu/host_memory.hpp"
#include <cstddef>
#include <span>

namespace hflex::gpu {

enum class kv_side : std::uint8_t { keys = 0, values = 1 };

class kv_pool {
public:
  static result<kv_pool> allocate(const kv_geometry& geometry);

  const kv_geometry& geometry() const { return geometry_; }
  /// First block of one layer's keys or values.
  std::byte* layer(std::uint32_t index, kv_side side) const;
  /// Bytes of one token's keys (or values) in one layer.
  std::size_t row_bytes() const { return geometry_.token_layer_bytes() / 2; }
  std::size_t block_bytes() const { return row_bytes() * geometry_.block_size; }

  /// As device_context::read_kv and write_kv.
  result<void> read(std::uint32_t layer, std::span<const block_index> block_table, std::uint32_t begin,
      std::uint32_t count, std::span<std::byte> out) const;
  result<void> write(std::uint32_t layer, std::span<const block_index> block_table, std::uint32_t begin,
      std::uint32_t count, std::span<const std::byte> in);

private:
  template <class Element>
  void copy_out(std::uint32_t layer, std::span<const block_index> block_table, std::uint32_t begin, std::uint32_t count,
      std::byte* out) const;
  template <class Element>
  void copy_in(std::uint32_t layer, std::span<const block_index> block_table, std::uint32_t begin, std::uint32_t count,
      const std::byte* in);
  kv_pool(const kv_geometry& geometry, host_memory memory) : geometry_(geometry), memory_(std::move(memory)) {}

  kv_geometry geometry_;
  host_memory memory_;
};

} // namespace hflex::gpu
