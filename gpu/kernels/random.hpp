// The counter-based random numbers of sampling, for host and device alike. Pure.
#pragma once
#include <cstdint>

namespace hflex::gpu {

/// The finalizer of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
constexpr std::uint64_t mix_bits(std::uint64_t z) {
  z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27U)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31U);
}

/// A number in [0, 1) that depends on its two arguments only: the counter is the whole state, so a moved or retried
/// request draws what it would have drawn.
constexpr double uniform_draw(std::uint64_t seed, std::uint64_t counter) {
  constexpr std::uint64_t golden_gamma = 0x9e3779b97f4a7c15ULL;
  // The seed is mixed first: neighbouring seeds must not be shifted copies of one sequence.
  const std::uint64_t bits = mix_bits(mix_bits(seed + golden_gamma) + (counter + 1) * golden_gamma);
  return static_cast<double>(bits >> 11U) * 0x1p-53;
}

} // namespace hflex::gpu
