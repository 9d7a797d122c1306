// Stored weights as numbers. Called by pack for every element of a checkpoint; pure.
#pragma once
#include "gpu/model/dtype.hpp"
#include <cstddef>
#include <span>

namespace hflex::gpu {

/// Decodes out.size() elements, a multiple of elements_of(type), that begin at `from` (unaligned). The formulas are
/// ggml's; f16 scales are widened exactly and the arithmetic is f32.
void decode_weights(dtype type, const std::byte* from, std::span<float> out);

} // namespace hflex::gpu
