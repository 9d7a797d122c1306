// CPU kernels that kernel tests compare with, behind plain types: nvcc cannot read the headers of their own.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace hflex::test {

struct draw {
  float temperature{};
  float top_p{1.0F};
  std::uint32_t top_k{};
  std::uint64_t seed{};
};

/// The CPU sampler's token; -1 when it refuses.
std::int32_t sampled_on_cpu(std::span<const float> logits, const draw& d, std::uint32_t output_index);

/// W[n][k] of bf16 bits as the CPU packs it: panels [ceil(n/64)][ceil(k/2)][64][2].
std::vector<std::uint16_t> packed_on_cpu(std::span<const std::uint16_t> w, std::uint32_t n, std::uint32_t k);

} // namespace hflex::test
