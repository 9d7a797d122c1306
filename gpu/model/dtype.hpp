// How the elements of a tensor are stored in a file. Used by the parsers of tensor files and by whatever decodes
// weights.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace hflex::gpu {

/// Plain types store each element by itself; the others (ggml's) store blocks of elements that share their scales.
enum class dtype : std::uint8_t { f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k };

inline constexpr std::array all_dtypes{dtype::f32, dtype::f16, dtype::bf16, dtype::q4_0, dtype::q4_1, dtype::q5_0,
    dtype::q5_1, dtype::q8_0, dtype::q4_k, dtype::q5_k, dtype::q6_k};

/// Elements of one block; 1 for plain types. At most `max_block_elements`, and a power of two.
constexpr std::size_t elements_of(dtype t) {
  if (t <= dtype::bf16) return 1;
  return t <= dtype::q8_0 ? 32 : 256;
}
inline constexpr std::size_t max_block_elements = 256;

/// Bytes of one block: of one element for plain types.
constexpr std::size_t bytes_of(dtype t) {
  constexpr std::array<std::uint8_t, all_dtypes.size()> bytes{4, 2, 2, 18, 20, 22, 24, 34, 144, 176, 210};
  return bytes[static_cast<std::size_t>(t)];
}

/// "F32", "BF16", "Q4_0": as safetensors and ggml write them.
std::string_view to_string(dtype t);

/// Bytes of a row-major tensor: nothing when that is beyond 64 bits, or when its rows are not whole blocks. An empty
/// shape is one element.
std::optional<std::uint64_t> tensor_bytes(dtype type, std::span<const std::uint64_t> shape);

} // namespace hflex::gpu
