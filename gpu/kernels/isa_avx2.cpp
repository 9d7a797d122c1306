// Kernels for x86-64 CPUs with AVX2 and FMA: 8 lanes, 16 registers.
#include "gpu/kernels/isa.hpp"
#if defined(__x86_64__)
#include <cfloat>
#include <cmath>
#include <cstring>
#include <immintrin.h>

#define HFLEX_KERNEL __attribute__((target("avx2,fma")))
#define HFLEX_INLINE __attribute__((always_inline, target("avx2,fma"))) inline

namespace hflex::gpu {
namespace {

using vf = __m256;
constexpr int lanes = 8;
constexpr std::uint32_t tile_rows = 4;
/// Accumulators (rows x strip), operands and broadcasts stay within 16 registers.
constexpr int strip_vecs(int rows) { return rows == 1 ? 8 : rows == 2 ? 4 : 2; }
/// From three rows on, a strip's operands are kept and rows broadcast in turn; the other way round all broadcasts of
/// all rows would be kept, and spill.
constexpr bool operands_first(int rows) { return rows >= 3; }

HFLEX_INLINE vf v_set1(float x) { return _mm256_set1_ps(x); }
HFLEX_INLINE vf v_zero() { return _mm256_setzero_ps(); }
HFLEX_INLINE vf v_load(const float* p) { return _mm256_loadu_ps(p); }
HFLEX_INLINE void v_store(float* p, vf x) { _mm256_storeu_ps(p, x); }
HFLEX_INLINE vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
HFLEX_INLINE vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
HFLEX_INLINE vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
HFLEX_INLINE vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
HFLEX_INLINE vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
HFLEX_INLINE vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
HFLEX_INLINE vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
HFLEX_INLINE vf v_nearest(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/// 2^n for integers |n| <= 126.
HFLEX_INLINE vf v_exp2_int(vf n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
HFLEX_INLINE float v_sum(vf a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
HFLEX_INLINE float v_highest(vf a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
/// Bits of each value rounded to bf16, in the upper halves; lower halves are zero (f32_to_bf16 of bf16.hpp).
HFLEX_INLINE __m256i v_bf16_bits(vf a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  return _mm256_and_si256(_mm256_blendv_epi8(rounded, quiet, nan), _mm256_set1_epi32(static_cast<int>(0xffff0000U)));
}
HFLEX_INLINE vf v_round_bf16(vf a) { return _mm256_castsi256_ps(v_bf16_bits(a)); }
HFLEX_INLINE void v_store_bf16(std::uint16_t* p, vf a) {
  const __m256i words = _mm256_srli_epi32(v_bf16_bits(a), 16);
  const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
}
/// lanes pairs (even, odd) of bf16, each half widened.
HFLEX_INLINE void v_widen_pairs(const std::uint16_t* p, vf& even, vf& odd) {
  const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  even = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
  odd = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000U))));
}

#include "gpu/kernels/matmul.inl"
#include "gpu/kernels/rows.inl"
// attention.inl uses the modes of rows.inl
#include "gpu/kernels/attention.inl"

} // namespace

kernel_set avx2_kernels(compute_type compute) {
  return compute == compute_type::f32 ? kernels_of<mode_f32>("avx2") : kernels_of<mode_bf16>("avx2");
}

} // namespace hflex::gpu
#endif
