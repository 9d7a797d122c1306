#include "gpu/model/f16_range.hpp"
#include "gpu/kernels/bf16.hpp"
#include "gpu/model/packed_model.hpp"

namespace hflex::gpu {
namespace {

constexpr std::uint16_t magnitude_mask = 0x7fff;
constexpr std::uint16_t first_outside = 0x4780; ///< 65536: the bf16 below it, 65280, fits
static_assert(f32_to_f16(bf16_to_f32(first_outside)) == 0x7c00 && f32_to_f16(bf16_to_f32(first_outside - 1)) < 0x7c00);

std::string_view name_of(tensor_kind kind) {
  switch (kind) {
  case tensor_kind::embedding:
    return "embedding";
  case tensor_kind::qkv:
    return "q, k or v projection";
  case tensor_kind::o:
    return "attention's output projection";
  case tensor_kind::gate_up:
    return "gate or up projection";
  case tensor_kind::down:
    return "down projection";
  case tensor_kind::head:
    return "output head";
  case tensor_kind::final_norm:
  case tensor_kind::attn_norm:
  case tensor_kind::mlp_norm:
  case tensor_kind::qkv_bias:
  case tensor_kind::q_norm:
  case tensor_kind::k_norm:
    break; // f32
  }
  return {};
}

} // namespace

result<void> check_f16_range(std::span<const std::byte> region, std::span<const tensor_place> tensors) {
  for (const tensor_place& t : tensors) {
    const auto name = name_of(t.kind);
    if (name.empty()) continue;
    const std::span values(
        reinterpret_cast<const std::uint16_t*>(region.data() + t.offset), t.bytes / sizeof(std::uint16_t));
    std::uint16_t largest = 0; // bit patterns of magnitudes are in the order of the magnitudes
    for (const std::uint16_t v : values) largest = std::max(largest, static_cast<std::uint16_t>(v & magnitude_mask));
    if (largest >= first_outside)
      return fail(errc::reject,
          "layer {}, {}: a weight of magnitude {:g} is beyond f16's 65504; compute in bf16 or f32", t.layer, name,
          bf16_to_f32(largest));
  }
  return {};
}

} // namespace hflex::gpu
