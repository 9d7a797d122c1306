// Whether a model's weights fit f16, which ends at 65504 where the bf16 of a weight region goes on to 3e38. Asked by
// gpu/cuda_device.cpp before it places weights in f16: a weight that turned infinite on the way would be found only in
// the tokens, if at all. Weights too small for f16 (below 6e-8) become zero, as rounding says. Pure.
#pragma once
#include "actors/common/result.hpp"
#include <span>

namespace hflex::gpu {

struct tensor_place;

/// errc::reject, naming the first tensor with a weight that f16 cannot hold, when there is one. `region` is the whole
/// region and `tensors` are its places. Reads all weights once. Norms and biases stay f32 and are not asked about.
result<void> check_f16_range(std::span<const std::byte> region, std::span<const tensor_place> tensors);

} // namespace hflex::gpu
