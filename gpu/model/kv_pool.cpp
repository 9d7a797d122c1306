#include "gpu/model/kv_pool.hpp"
#include "gpu/model/step_rules.hpp"
#include <cstring>

namespace hflex::gpu {

result<kv_pool> kv_pool::allocate(const kv_geometry& geometry) {
  auto memory = host_memory::allocate(geometry.pool_bytes());
  if (!memory) return fail(memory.error().code, "KV pool: {}", memory.error().message);
  return kv_pool(geometry, std::move(*memory));
}

std::byte* kv_pool::layer(std::uint32_t index, kv_side side) const {
  const std::size_t side_bytes = row_bytes() * geometry_.block_size * geometry_.blocks;
  return memory_.data() + (std::size_t{index} * 2 + static_cast<std::size_t>(side)) * side_bytes;
}

result<void> kv_pool::read(std::uint32_t layer_index, std::span<const block_index> block_table, std::uint32_t begin,
    std::uint32_t count, std::span<std::byte> out) const {
  if (auto ok = check_kv_copy(geometry_, layer_index, block_table, begin, count, out.size()); !ok) return ok;
  const std::size_t bytes = row_bytes();
  std::byte* to = out.data();
  for (const kv_side side : {kv_side::keys, kv_side::values}) {
    const std::byte* rows = layer(layer_index, side);
    for (std::uint32_t i = 0; i < count; ++i, to += bytes)
      std::memcpy(to, rows + slot(block_table, begin + i) * bytes, bytes);
  }
  return {};
}

result<void> kv_pool::write(std::uint32_t layer_index, std::span<const block_index> block_table, std::uint32_t begin,
    std::uint32_t count, std::span<const std::byte> in) {
  if (auto ok = check_kv_copy(geometry_, layer_index, block_table, begin, count, in.size()); !ok) return ok;
  const std::size_t bytes = row_bytes();
  const std::byte* from = in.data();
  for (const kv_side side : {kv_side::keys, kv_side::values}) {
    std::byte* rows = layer(layer_index, side);
    for (std::uint32_t i = 0; i < count; ++i, from += bytes)
      std::memcpy(rows + slot(block_table, begin + i) * bytes, from, bytes);
  }
  return {};
}

} // namespace hflex::gpu
