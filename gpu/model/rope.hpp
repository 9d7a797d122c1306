// Rotary embeddings: the angle by which a pair of elements turns from one position to the next. Every backend takes its
// frequencies from here, so that they agree to the last bit.
#pragma once
#include "gpu/model/model_config.hpp"
#include <vector>

namespace hflex::gpu {

/// head_dim / 2 angles in radians: theta^(-2i/head_dim), scaled as the configuration says. Single precision all the
/// way, as the reference (Hugging Face's modeling_rope_utils) does it.
std::vector<float> rope_frequencies(const model_config& config);

} // namespace hflex::gpu
