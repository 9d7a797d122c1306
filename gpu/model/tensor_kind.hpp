// The tensors of a weight region, by name: a header of its own, because the CUDA plug-in reads regions too. The numbers
// are part of the region's format.
#pragma once
#include <cstdint>

namespace hflex::gpu {

enum class tensor_kind : std::uint32_t {
  embedding,  ///< [vocab][hidden] bf16 rows; only when the embeddings are not tied to the head
  final_norm, ///< f32, padded_width(hidden)
  attn_norm,  ///< f32, padded_width(hidden)
  qkv,        ///< packed; rows of q, then k, then v
  o,          ///< packed
  mlp_norm,   ///< f32, padded_width(hidden)
  gate_up,    ///< packed; gate padded to whole panels, then up
  down,       ///< packed
  head,       ///< packed; the embedding too when they are tied
  qkv_bias,   ///< f32, as many as qkv has rows, padded; only with model_config::qkv_bias
  q_norm,     ///< f32, padded_width(head_dim); only with model_config::qk_norm
  k_norm,     ///< likewise
};

} // namespace hflex::gpu
