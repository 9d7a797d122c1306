// Picks the next token from one row of logits. Called by llama.cpp on a pool thread; pure but for its scratch memory.
#pragma once
#include "actors/common/request.hpp"
#include "actors/common/result.hpp"
#include "gpu/kernels/random.hpp"
#include <cstdint>
#include <span>
#include <vector>

namespace hflex::gpu {

/// Reused between calls of one thread; grows to the vocabulary once.
struct sampler_scratch {
  std::vector<double> weights;
  std::vector<token_id> order;
};

/// temperature 0: the largest logit. Otherwise softmax(logits / temperature), cut to the top_k largest, then to the
/// smallest set of largest tokens that holds top_p of what is left, then drawn with uniform_draw(seed, output_index).
/// Equal logits are ordered by token id, lowest first. errc::reject for parameters out of range (sampling_params says
/// which), errc::fatal when a logit is NaN or the largest is infinite.
result<token_id> sample_token(
    std::span<const float> logits, const sampling_params& params, std::uint32_t output_index, sampler_scratch& scratch);

/// The parameters alone.
result<void> check_sampling(const sampling_params& params);

} // namespace hflex::gpu
