#include "gpu/model/kv_pool.hpp"
#include "gpu/kernels/kv_layout.hpp"
#include "gpu/model/step_rules.hpp"
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
  if (auto ok = check_kv_copy(geometry_, layer_index, block_table, begin, count, out.size()); !ok) return ok;
  if (bytes_of(geometry_.element) == sizeof(float))
    copy_out<float>(layer_index, block_table, begin, count, out.data());
  else
    copy_out<std::uint16_t>(layer_index, block_table, begin, count, out.data());
  return {};
}

result<void> kv_pool::write(std::uint32_t layer_index, std::span<const block_index> block_table, std::uint32_t begin,
    std::uint32_t count, std::span<const std::byte> in) {
  if (auto ok = check_kv_copy(geometry_, layer_index, block_table, begin, count, in.size()); !ok) return ok;
  if (bytes_of(geometry_.element) == sizeof(float))
    copy_in<float>(layer_index, block_table, begin, count, in.data());
  else
    copy_in<std::uint16_t>(layer_index, block_table, begin, count, in.data());
  return {};
}

} // namespace hflex::gpu
