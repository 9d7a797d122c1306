#include "gpu/model/rope.hpp"
#include <cmath>
#include <numbers>

namespace hflex::gpu {
namespace {

/// Llama 3.1's way to a longer context: long waves are stretched by the factor, short ones are left alone, and between
/// the two bounds goes a ramp that is linear in the number of turns within the original context.
float llama3_scaled(float frequency, const rope_scaling& r) {
  const auto context = static_cast<float>(r.original_context);
  const float wave = 2.0F * std::numbers::pi_v<float> / frequency;
  if (wave > context / r.low_freq_factor) return frequency / r.factor;
  if (wave < context / r.high_freq_factor) return frequency;
  const float ramp = (context / wave - r.low_freq_factor) / (r.high_freq_factor - r.low_freq_factor);
  return (1.0F - ramp) * frequency / r.factor + ramp * frequency;
}

float scaled(float frequency, const rope_scaling& r) {
  switch (r.type) {
  case rope_scaling::method::none:
    return frequency;
  case rope_scaling::method::linear:
    return frequency / r.factor;
  case rope_scaling::method::llama3:
    return llama3_scaled(frequency, r);
  }
  return frequency;
}

} // namespace

std::vector<float> rope_frequencies(const model_config& config) {
  const auto dim = static_cast<float>(config.head_dim);
  std::vector<float> out;
  for (std::uint32_t i = 0; i < config.head_dim / 2; ++i)
    out.push_back(scaled(1.0F / std::pow(config.rope_theta, static_cast<float>(2 * i) / dim), config.rope));
  return out;
}

} // namespace hflex::gpu
