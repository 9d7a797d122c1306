#include "gpu/model/kv_pool.hpp"
#include "gpu/kernels/kv_layout.hpp"
#include <cstring>

namespace hflex::gpu {

result<kv_pool> kv_pool::allocate(const kv_geometry& geometry) {
  auto memory = host_memory::allocate(geometry.pool_bytes());
  if (!memory) return fail(memory.error().code, "KV pool: {}", memory.error().message);
  return kv_pool(geometry, std::move(*memory));
}

std::byte* kv_pool::layer(std::uint32_t index, kv_side side) const {
  const std::size_t side_bytes = block_bytes() * geometry_.blocks;
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

template <class Element>
void kv_pool::copy_out(std::uint32_t layer_index, std::span<const block_index> block_table, std::uint32_t begin,
    std::uint32_t count, std::byte* out) const {
  const kv_layout<Element> layout{geometry_.block_size, geometry_.head_dim};
  const std::uint32_t dim = geometry_.head_dim;
  for (const kv_side side : {kv_side::keys, kv_side::values}) {
    for (std::uint32_t at = begin; at < begin + count; ++at) {
      const auto* block = reinterpret_cast<const Element*>(
          layer(layer_index, side) + block_table[at / geometry_.block_size] * block_bytes());
      const std::uint32_t offset = at % geometry_.block_size;
      for (std::uint32_t head = 0; head < geometry_.kv_heads; ++head, out += dim * sizeof(Element)) {
        const Element* strip = block + layout.strip(head, offset);
        for (std::uint32_t i = 0; i < dim; ++i)
          std::memcpy(out + i * sizeof(Element),
              &strip[side == kv_side::keys ? layout.key(offset % kv_strip, i) : layout.value(offset % kv_strip, i)],
              sizeof(Element));
      }
    }
  }
}

template <class Element>
void kv_pool::copy_in(std::uint32_t layer_index, std::span<const block_index> block_table, std::uint32_t begin,
    std::uint32_t count, const std::byte* in) {
  const kv_layout<Element> layout{geometry_.block_size, geometry_.head_dim};
  const std::uint32_t dim = geometry_.head_dim;
  for (const kv_side side : {kv_side::keys, kv_side::values}) {
    for (std::uint32_t at = begin; at < begin + count; ++at) {
      auto* block =
          reinterpret_cast<Element*>(layer(layer_index, side) + block_table[at / geometry_.block_size] * block_bytes());
      const std::uint32_t offset = at % geometry_.block_size;
      for (std::uint32_t head = 0; head < geometry_.kv_heads; ++head, in += dim * sizeof(Element)) {
        Element* strip = block + layout.strip(head, offset);
        for (std::uint32_t i = 0; i < dim; ++i)
          std::memcpy(
              &strip[side == kv_side::keys ? layout.key(offset % kv_strip, i) : layout.value(offset % kv_strip, i)],
              in + i * sizeof(Element), sizeof(Element));
      }
    }
  }
}

result<void> kv_pool::read(std::uint32_t layer_index, std::span<const block_index> block_table, std::uint32_t begin,
    std::uint32_t count, std::span<std::byte> out) const {
  if (auto ok = check_copy(layer_index, block_table, begin, count, out.size()); !ok) return ok;
  if (geometry_.element_bytes == sizeof(float))
    copy_out<float>(layer_index, block_table, begin, count, out.data());
  else
    copy_out<std::uint16_t>(layer_index, block_table, begin, count, out.data());
  return {};
}

result<void> kv_pool::write(std::uint32_t layer_index, std::span<const block_index> block_table, std::uint32_t begin,
    std::uint32_t count, std::span<const std::byte> in) {
  if (auto ok = check_copy(layer_index, block_table, begin, count, in.size()); !ok) return ok;
  if (geometry_.element_bytes == sizeof(float))
    copy_in<float>(layer_index, block_table, begin, count, in.data());
  else
    copy_in<std::uint16_t>(layer_index, block_table, begin, count, in.data());
  return {};
}

} // namespace hflex::gpu
