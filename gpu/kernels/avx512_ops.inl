// Vector operations that both AVX-512 kernel sets share: 16 lanes, 32 registers. Included by isa_avx512*.cpp inside
// their own namespaces, after HFLEX_INLINE.

using vf = __m512;
constexpr int lanes = 16;
constexpr std::uint32_t tile_rows = 6; ///< 24 accumulators, 4 operands, a broadcast
constexpr int strip_vecs(int) { return 4; }
constexpr bool operands_first(int) { return true; }

HFLEX_INLINE vf v_set1(float x) { return _mm512_set1_ps(x); }
HFLEX_INLINE vf v_zero() { return _mm512_setzero_ps(); }
HFLEX_INLINE vf v_load(const float* p) { return _mm512_loadu_ps(p); }
HFLEX_INLINE void v_store(float* p, vf x) { _mm512_storeu_ps(p, x); }
HFLEX_INLINE vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
HFLEX_INLINE vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
HFLEX_INLINE vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
HFLEX_INLINE vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
HFLEX_INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
HFLEX_INLINE vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
HFLEX_INLINE vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
HFLEX_INLINE vf v_nearest(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/// 2^n for integers |n| <= 126.
HFLEX_INLINE vf v_exp2_int(vf n) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
}
HFLEX_INLINE __m256 v_upper(vf a) { return _mm512_extractf32x8_ps(a, 1); }
HFLEX_INLINE float v_sum(vf a) {
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), v_upper(a));
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
HFLEX_INLINE float v_highest(vf a) {
  const __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a), v_upper(a));
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
/// Bits of each value rounded to bf16, in the lower halves (f32_to_bf16 of bf16.hpp).
HFLEX_INLINE __m512i v_bf16_words(vf a) {
  const __m512i bits = _mm512_castps_si512(a);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  return _mm512_srli_epi32(_mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000)), 16);
}
HFLEX_INLINE vf v_round_bf16(vf a) { return _mm512_castsi512_ps(_mm512_slli_epi32(v_bf16_words(a), 16)); }
HFLEX_INLINE void v_store_bf16(std::uint16_t* p, vf a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(v_bf16_words(a)));
}
/// lanes pairs (even, odd) of bf16, each half widened.
HFLEX_INLINE void v_widen_pairs(const std::uint16_t* p, vf& even, vf& odd) {
  const __m512i pairs = _mm512_loadu_si512(p);
  even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
  odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000U))));
}
