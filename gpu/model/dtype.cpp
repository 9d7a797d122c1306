#include "gpu/model/dtype.hpp"

namespace hflex::gpu {

std::string_view to_string(dtype t) {
  constexpr std::array<std::string_view, all_dtypes.size()> names{
      "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"};
  return names[static_cast<std::size_t>(t)];
}

std::optional<std::uint64_t> tensor_bytes(dtype type, std::span<const std::uint64_t> shape) {
  const std::uint64_t row = shape.empty() ? 1 : shape.back();
  if (row % elements_of(type) != 0) return std::nullopt;
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(row / elements_of(type), bytes_of(type), &bytes)) return std::nullopt;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) {
    if (__builtin_mul_overflow(bytes, shape[i], &bytes)) return std::nullopt;
  }
  return bytes;
}

} // namespace hflex::gpu
