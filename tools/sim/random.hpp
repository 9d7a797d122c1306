// Random numbers of the simulator: the same from a seed with every compiler and library (std:: distributions are not).
// Pure; one source per use, so that a draw more here does not shift what is drawn there.
#pragma once
#include <cstdint>

namespace hflex::sim {

/// The finalizer of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): also a
/// hash of 64 bits.
constexpr std::uint64_t mix_bits(std::uint64_t z) {
  z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27U)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31U);
}

/// splitmix64: passes BigCrush, 64 bits of state.
class random_source {
public:
  /// Equal `seed` and `stream` give equal numbers; different streams are unrelated.
  explicit random_source(std::uint64_t seed, std::uint64_t stream = 0)
      : state_(mix_bits(mix_bits(seed + golden_gamma) + (stream + 1) * golden_gamma)) {}

  std::uint64_t bits() { return mix_bits(state_ += golden_gamma); }
  /// In (0, 1), never at an end.
  double uniform() { return (static_cast<double>(bits() >> 12U) + 0.5) * 0x1p-52; }
  /// In [0, n); n > 0. Its unevenness is below 2^-32.
  std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>(((bits() >> 32U) * n) >> 32U); }
  /// Mean 1.
  double exponential();
  /// Mean 0, standard deviation 1 (Marsaglia and Bray's polar method).
  double normal();
  /// Shape > 0, scale 1: mean = shape (Marsaglia and Tsang, "A simple method for generating gamma variables", 2000).
  double gamma(double shape);

private:
  static constexpr std::uint64_t golden_gamma = 0x9e3779b97f4a7c15ULL;
  std::uint64_t state_;
};

/// The z below which a standard normal number lies with probability p in (0, 1).
double normal_quantile(double p);

} // namespace hflex::sim
