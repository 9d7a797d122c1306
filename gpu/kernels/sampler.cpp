#include "gpu/kernels/sampler.hpp"
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

namespace hflex::gpu {
namespace {

/// Larger logit first, then lower id: a total order, so that sorting it has one outcome.
struct by_rank {
  std::span<const float> logits;
  bool operator()(token_id a, token_id b) const {
    const float x = logits[static_cast<std::size_t>(a)];
    const float y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  }
};

/// Index of the largest logit, lowest first among equals; nothing when one is NaN or none is finite.
std::optional<std::size_t> highest(std::span<const float> logits) {
  float maximum = -std::numeric_limits<float>::infinity();
  std::size_t best = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] <= maximum) continue;
    if (std::isnan(logits[i])) return std::nullopt;
    maximum = logits[i];
    best = i;
  }
  if (!std::isfinite(maximum)) return std::nullopt;
  return best;
}

/// Walks tokens in the given order until the running weight passes `target`; rounding may leave the last one.
template <class Next>
token_id draw(std::size_t count, const std::vector<double>& weights, double target, Next token) {
  token_id last = token(0);
  double sum = 0.0;
  for (std::size_t i = 0; i < count; ++i) {
    const token_id id = token(i);
    const double weight = weights[static_cast<std::size_t>(id)];
    if (weight <= 0.0) continue;
    last = id;
    sum += weight;
    if (sum > target) return id;
  }
  return last;
}

/// Makes `order` the candidates, best first: top_k of them, or as many as hold `top_p` of the weight of those.
double rank_candidates(std::span<const float> logits, const sampling_params& params, sampler_scratch& scratch) {
  auto& order = scratch.order;
  order.resize(logits.size());
  std::iota(order.begin(), order.end(), token_id{0});
  const auto weight = [&](token_id id) { return scratch.weights[static_cast<std::size_t>(id)]; };
  const std::size_t limit = params.top_k == 0 ? logits.size() : std::min<std::size_t>(params.top_k, logits.size());
  double total = 0.0;
  std::size_t sorted = 0;
  // Sorts as little as needed: a prefix, and a longer one as long as it holds too little weight.
  const auto extend = [&](std::size_t to) {
    const auto begin = order.begin() + static_cast<std::ptrdiff_t>(sorted);
    std::partial_sort(begin, order.begin() + static_cast<std::ptrdiff_t>(to), order.end(), by_rank{logits});
    sorted = to;
  };
  if (params.top_k != 0) {
    extend(limit);
    for (std::size_t i = 0; i < limit; ++i) total += weight(order[i]);
  } else {
    total = std::accumulate(scratch.weights.begin(), scratch.weights.end(), 0.0);
  }
  double kept = 0.0;
  std::size_t count = 0;
  while (count < limit && (count == 0 || kept < params.top_p * total)) {
    if (count == sorted) extend(std::min(limit, std::max<std::size_t>(64, sorted * 4)));
    kept += weight(order[count++]);
  }
  order.resize(count);
  return kept;
}

} // namespace

result<void> check_sampling(const sampling_params& params) {
  if (!(params.temperature >= 0.0F && params.temperature <= 10.0F))
    return fail(errc::reject, "temperature: expected 0 to 10, found {}", params.temperature);
  if (!(params.top_p > 0.0F && params.top_p <= 1.0F))
    return fail(errc::reject, "top_p: expected more than 0 and at most 1, found {}", params.top_p);
  return {};
}

result<token_id> sample_token(std::span<const float> logits, const sampling_params& params, std::uint32_t output_index,
    sampler_scratch& scratch) {
  if (auto ok = check_sampling(params); !ok) return pass(ok.error());
  const auto best = highest(logits);
  if (!best) return fail(errc::fatal, "the model's logits are not finite");
  if (params.temperature == 0.0F || params.top_k == 1) return static_cast<token_id>(*best);
  const float maximum = logits[*best];
  scratch.weights.resize(logits.size());
  double total = 0.0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const float shifted = (logits[i] - maximum) / params.temperature;
    // e^-80 of the best token's weight: never drawn, not worth an exponential.
    scratch.weights[i] = shifted > -80.0F ? static_cast<double>(std::exp(shifted)) : 0.0;
    total += scratch.weights[i];
  }
  const double u = uniform_draw(params.seed, output_index);
  if (params.top_k == 0 && params.top_p >= 1.0F)
    return draw(logits.size(), scratch.weights, u * total, [](std::size_t i) { return static_cast<token_id>(i); });
  const double kept = rank_candidates(logits, params, scratch);
  return draw(scratch.order.size(), scratch.weights, u * kept, [&](std::size_t i) { return scratch.order[i]; });
}

} // namespace hflex::gpu
