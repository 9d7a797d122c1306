// Kernels in plain C++: for CPUs without AVX2 and as the baseline that every other set is tested against.
#include "gpu/kernels/bf16.hpp"
#include "gpu/kernels/isa.hpp"
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>

#define HFLEX_INLINE __attribute__((always_inline)) inline
#define HFLEX_KERNEL

namespace hflex::gpu {
namespace {

// GCC's vector extension: four lanes fit the registers of every 64-bit CPU (SSE2, NEON, ...).
using vf = float __attribute__((vector_size(16)));
using vi = std::int32_t __attribute__((vector_size(16)));
constexpr int lanes = 4;
constexpr std::uint32_t tile_rows = 3;
constexpr int strip_vecs(int rows) { return rows == 1 ? 8 : 2; }
constexpr bool operands_first(int rows) { return rows >= 2; }

HFLEX_INLINE vf v_set1(float x) { return vf{x, x, x, x}; }
HFLEX_INLINE vi v_set1_int(std::int32_t x) { return vi{x, x, x, x}; }
HFLEX_INLINE vf v_zero() { return vf{}; }
HFLEX_INLINE vf v_load(const float* p) {
  vf out;
  std::memcpy(&out, p, sizeof out);
  return out;
}
HFLEX_INLINE void v_store(float* p, vf x) { std::memcpy(p, &x, sizeof x); }
HFLEX_INLINE vf v_add(vf a, vf b) { return a + b; }
HFLEX_INLINE vf v_sub(vf a, vf b) { return a - b; }
HFLEX_INLINE vf v_mul(vf a, vf b) { return a * b; }
HFLEX_INLINE vf v_div(vf a, vf b) { return a / b; }
/// a * b + c; rounds twice where the CPU has no fused instruction.
HFLEX_INLINE vf v_fma(vf a, vf b, vf c) { return a * b + c; }
HFLEX_INLINE vf v_max(vf a, vf b) { return a > b ? a : b; }
HFLEX_INLINE vf v_min(vf a, vf b) { return a < b ? a : b; }
/// Nearest integer, ties to even, for |a| < 2^22: adding 1.5 * 2^23 leaves no bits for a fraction.
HFLEX_INLINE vf v_nearest(vf a) {
  const vf shift = v_set1(0x1.8p23F);
  return (a + shift) - shift;
}
/// 2^n for integers |n| <= 126.
HFLEX_INLINE vf v_exp2_int(vf n) { return (vf)((__builtin_convertvector(n, vi) + v_set1_int(127)) << 23); }
HFLEX_INLINE float v_sum(vf a) { return (a[0] + a[2]) + (a[1] + a[3]); }
HFLEX_INLINE float v_highest(vf a) {
  const float even = a[0] > a[2] ? a[0] : a[2];
  const float odd = a[1] > a[3] ? a[1] : a[3];
  return even > odd ? even : odd;
}
HFLEX_INLINE vf v_round_bf16(vf a) {
  return vf{round_to_bf16(a[0]), round_to_bf16(a[1]), round_to_bf16(a[2]), round_to_bf16(a[3])};
}
HFLEX_INLINE void v_store_bf16(std::uint16_t* p, vf a) {
  for (int i = 0; i < lanes; ++i) p[i] = f32_to_bf16(a[i]);
}
/// lanes pairs (even, odd) of bf16, each half widened.
HFLEX_INLINE void v_widen_pairs(const std::uint16_t* p, vf& even, vf& odd) {
  vi pairs;
  std::memcpy(&pairs, p, sizeof pairs);
  const vf low = (vf)(pairs << 16);
  const vf high = (vf)(pairs & v_set1_int(static_cast<std::int32_t>(0xffff0000U)));
  // The first of a pair is the lower half of its word where words begin with their low byte.
  constexpr bool little = std::endian::native == std::endian::little;
  even = little ? low : high;
  odd = little ? high : low;
}

#include "gpu/kernels/matmul.inl"
#include "gpu/kernels/rows.inl"
// attention.inl uses the modes of rows.inl
#include "gpu/kernels/attention.inl"

} // namespace

kernel_set portable_kernels(compute_type compute) {
  return compute == compute_type::f32 ? kernels_of<mode_f32>("portable") : kernels_of<mode_bf16>("portable");
}

} // namespace hflex::gpu
