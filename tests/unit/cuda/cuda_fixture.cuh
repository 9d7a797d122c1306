// What the kernel tests share: random tensors, tolerances, and where kernels run: on the emulator, or, when nvcc
// compiles the tests once more (tests/gpu/kernels.cu), on a device. What kernels see lies in `buffer`s.
#pragma once
#include "gpu/cuda/kernels/numbers.cuh"
#include "tests/support/catch.hpp"
#if defined(__CUDACC__)
#include "tests/support/cuda_launcher.cuh"
#else
#include "tests/support/cuda_emulator.hpp"
#endif
#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace hflex::test {

#if !defined(__CUDACC__)
inline constexpr thread_order both_orders[] = {thread_order::forward, thread_order::backward};
template <class T>
using kernel_allocator = std::allocator<T>;
#endif

template <class T>
using buffer = std::vector<T, kernel_allocator<T>>;

/// Relative error of one rounding to T, with room for the order of f32 sums.
template <class T>
constexpr double rounding_error = 1e-5;
template <>
inline constexpr double rounding_error<cuda::bf16> = 1.0 / 256;
template <>
inline constexpr double rounding_error<cuda::f16> = 1.0 / 2048;

/// Values that T holds exactly.
template <class T>
buffer<T> random_elements(std::size_t count, unsigned seed, float spread = 1.0F) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, spread);
  buffer<T> out(count);
  for (auto& v : out) v = cuda::to<T>(normal(random));
  return out;
}

template <class T>
void check_close(const buffer<T>& found, const std::vector<double>& expected, double relative, double absolute) {
  REQUIRE(found.size() == expected.size());
  double worst = 0.0;
  std::size_t at = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double difference = std::abs(static_cast<double>(cuda::to_float(found[i])) - expected[i]);
    const double excess = difference / (absolute + relative * std::abs(expected[i]));
    if (!(excess <= worst)) {
      worst = excess;
      at = i;
    }
  }
  INFO("element " << at << ": " << cuda::to_float(found[at]) << ", expected " << expected[at]);
  CHECK(worst <= 1.0);
}

} // namespace hflex::test
