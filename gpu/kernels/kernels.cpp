// Picks a kernel set for this CPU.
#include "gpu/kernels/kernels.hpp"
#include "gpu/kernels/isa.hpp"
#include <algorithm>

namespace hflex::gpu {

attention_layout layout_attention(std::uint32_t group, std::uint32_t head_dim) {
  constexpr std::size_t f32 = sizeof(float); // every element type is at most this wide
  const std::size_t rows = std::size_t{attention_tokens(group)} * group;
  std::size_t end = 0;
  auto take = [&](std::size_t bytes) {
    const std::size_t at = end;
    end += (bytes + 63) / 64 * 64;
    return at;
  };
  attention_layout at{};
  at.query = take(rows * head_dim * f32);
  at.weights = take(max_tile_rows * attention_tile * f32);
  at.scores = take(max_tile_rows * attention_tile * f32);
  at.sums = take(rows * head_dim * f32);
  at.maxima = take(rows * f32);
  at.totals = take(rows * f32);
  at.bytes = end;
  return at;
}

std::size_t attention_scratch_bytes(std::uint32_t group, std::uint32_t head_dim) {
  return layout_attention(group, head_dim).bytes;
}

std::vector<std::string_view> available_isas() {
  std::vector<std::string_view> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) found.emplace_back("avx512_bf16");
  if (avx512) found.emplace_back("avx512");
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.emplace_back("avx2");
#endif
  found.emplace_back("portable");
  return found;
}

result<kernel_set> select_kernels(std::string_view isa, compute_type compute) {
  if (compute == compute_type::f16)
    return fail(errc::reject, "compute f16: the CPU engine computes in bf16 or f32, f16 is for CUDA devices");
  const auto available = available_isas();
  if (isa.empty()) isa = available.front();
  if (std::find(available.begin(), available.end(), isa) == available.end())
    return fail(errc::reject, "isa '{}': this CPU has {}", isa, fmt::join(available, ", "));
#if defined(__x86_64__)
  if (isa == "avx512_bf16") return compute == compute_type::bf16 ? avx512_bf16_kernels() : avx512_kernels(compute);
  if (isa == "avx512") return avx512_kernels(compute);
  if (isa == "avx2") return avx2_kernels(compute);
#endif
  return portable_kernels(compute);
}

} // namespace hflex::gpu
