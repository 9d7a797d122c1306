#include "tests/support/cpu_twins.hpp"
#include "gpu/kernels/pack.hpp"
#include "gpu/kernels/sampler.hpp"
#include <array>

namespace hflex::test {

std::int32_t sampled_on_cpu(std::span<const float> logits, const draw& d, std::uint32_t output_index) {
  gpu::sampler_scratch scratch;
  const auto token = gpu::sample_token(logits, {d.temperature, d.top_p, d.top_k, d.seed}, output_index, scratch);
  return token ? *token : -1;
}

std::vector<std::uint16_t> packed_on_cpu(std::span<const std::uint16_t> w, std::uint32_t n, std::uint32_t k) {
  const gpu::packed_matrix shape{nullptr, n, k};
  std::vector<std::uint16_t> packed(shape.panels() * shape.panel_elements());
  for (std::uint32_t p = 0; p < shape.panels(); ++p) {
    std::array<gpu::source_row, gpu::panel_columns> rows{};
    for (std::uint32_t c = 0; c < gpu::panel_columns && p * gpu::panel_columns + c < n; ++c)
      rows[c] = {
          reinterpret_cast<const std::byte*>(w.data() + std::size_t{p * gpu::panel_columns + c} * k), gpu::dtype::bf16};
    gpu::pack_panel(rows, k, std::span(packed).subspan(p * shape.panel_elements(), shape.panel_elements()));
  }
  return packed;
}

} // namespace hflex::test
