#include "gpu/cuda/model_source.hpp"
#include "actors/common/check.hpp"
#include "gpu/model/packed_model.hpp"
#include "gpu/model/rope.hpp"

namespace hflex::gpu {

cuda_model_source::cuda_model_source(const weight_region& region)
    : config(packed_model(region).config()), frequencies(rope_frequencies(config)) {
  const auto layout = layout_region(config);
  HFLEX_CHECK(layout.has_value() && layout->bytes == region.bytes());
  for (const auto& t : layout->tensors)
    tensors.push_back({static_cast<std::uint32_t>(t.kind), t.layer, t.rows, t.columns, t.offset, t.bytes});
  model = {config.hidden, config.intermediate, config.layers, config.heads, config.kv_heads, config.head_dim,
      config.vocab, config.max_context, config.rms_norm_eps, frequencies.data(), region.data().data(), tensors.data(),
      static_cast<std::uint32_t>(tensors.size())};
}

} // namespace hflex::gpu
