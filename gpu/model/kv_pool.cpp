#include "gpu/model/kv_pool.hpp"
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

result<void> kv_pool::check_table(std::span<const block_index> block_table, std::uint64_t tokens) const {
  const std::uint64_t needed = (tokens + geometry_.block_size - 1) / geometry_.block_size;
  if (block_table.size() < needed)
    return fail(errc::reject, "block table of {} blocks, {} tokens need {}", block_table.size(), tokens, needed);
  for (const block_index block : block_table.first(needed))
    if (block >= geometry_.blocks) return fail(errc::reject, "block {} of {}", block, geometry_.blocks);
  return {};
}

result<void> kv_pool::check_copy(std::uint32_t layer, std::span<const block_index> block_table, std::uint32_t begin,
    std::uint32_t count, std::size_t bytes) const {
  if (layer >= geometry_.layers) return fail(errc::reject, "KV copy: layer {} of {}", layer, geometry_.layers);
  if (bytes != count * geometry_.token_layer_bytes())
    return fail(errc::reject, "KV copy: {} bytes for {} tokens of {}", bytes, count, geometry_.token_layer_bytes());
  if (auto ok = check_table(block_table, std::uint64_t{begin} + count); !ok)
    return fail(errc::reject, "KV copy: {}", ok.error().message);
  return {};
}

result<void> kv_pool::read(std::uint32_t layer_index, std::span<const block_index> block_table, std::uint32_t begin,
    std::uint32_t count, std::span<std::byte> out) const {
  if (auto ok = check_copy(layer_index, block_table, begin, count, out.size()); !ok) return ok;
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
  if (auto ok = check_copy(layer_index, block_table, begin, count, in.size()); !ok) return ok;
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
