// Kernels in plain C++: for CPUs without AVX2 and as the baseline that every other set is tested against.
#include "gpu/kernels/bf16.hpp"
#include "gpu/kernels/isa.hpp"
#include <cfloat>
#include <cmath>
#include <cstring>

#define HFLEX_INLINE inline
#define HFLEX_KERNEL

namespace hflex::gpu {
namespace {

constexpr int lanes = 16;
constexpr std::uint32_t tile_rows = 2;
constexpr int strip_vecs(int) { return 2; }
constexpr int value_vecs = 2;

struct vf {
  float v[lanes];
};

template <class F>
HFLEX_INLINE vf each(F f) {
  vf out;
  for (int i = 0; i < lanes; ++i) out.v[i] = f(i);
  return out;
}

HFLEX_INLINE vf v_set1(float x) {
  return each([=](int) { return x; });
}
HFLEX_INLINE vf v_zero() { return v_set1(0.0F); }
HFLEX_INLINE vf v_load(const float* p) {
  return each([=](int i) { return p[i]; });
}
HFLEX_INLINE void v_store(float* p, const vf& x) { std::memcpy(p, x.v, sizeof x.v); }
HFLEX_INLINE vf v_add(const vf& a, const vf& b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
HFLEX_INLINE vf v_sub(const vf& a, const vf& b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}
HFLEX_INLINE vf v_mul(const vf& a, const vf& b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
HFLEX_INLINE vf v_div(const vf& a, const vf& b) {
  return each([&](int i) { return a.v[i] / b.v[i]; });
}
/// a * b + c; rounds twice where the CPU has no fused instruction.
HFLEX_INLINE vf v_fma(const vf& a, const vf& b, const vf& c) {
  return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
HFLEX_INLINE vf v_max(const vf& a, const vf& b) {
  return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
HFLEX_INLINE vf v_min(const vf& a, const vf& b) {
  return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
HFLEX_INLINE vf v_nearest(const vf& a) {
  return each([&](int i) { return std::nearbyint(a.v[i]); });
}
/// 2^n for integers |n| <= 126.
HFLEX_INLINE vf v_exp2_int(const vf& n) {
  return each([&](int i) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(static_cast<std::int32_t>(n.v[i]) + 127) << 23U);
  });
}
HFLEX_INLINE float v_sum(vf a) {
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
  return a.v[0];
}
HFLEX_INLINE float v_highest(vf a) {
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
  return a.v[0];
}
HFLEX_INLINE vf v_round_bf16(const vf& a) {
  return each([&](int i) { return round_to_bf16(a.v[i]); });
}
HFLEX_INLINE void v_store_bf16(std::uint16_t* p, const vf& a) {
  for (int i = 0; i < lanes; ++i) p[i] = f32_to_bf16(a.v[i]);
}
HFLEX_INLINE vf v_load_bf16(const std::uint16_t* p) {
  return each([=](int i) { return bf16_to_f32(p[i]); });
}
/// lanes pairs (even, odd) of bf16, each half widened.
HFLEX_INLINE void v_widen_pairs(const std::uint16_t* p, vf& even, vf& odd) {
  even = each([=](int i) { return bf16_to_f32(p[2 * i]); });
  odd = each([=](int i) { return bf16_to_f32(p[2 * i + 1]); });
}
/// out[w][i] = 32-bit word (word + w) of rows[i], for lanes x lanes words.
template <class Element>
HFLEX_INLINE void v_transpose(const Element* const* rows, std::uint32_t word, std::uint32_t* out) {
  for (int i = 0; i < lanes; ++i) {
    std::uint32_t words[lanes];
    std::memcpy(words, reinterpret_cast<const std::byte*>(rows[i]) + std::size_t{word} * 4, sizeof words);
    for (int w = 0; w < lanes; ++w) out[w * static_cast<int>(attention_tile) + i] = words[w];
  }
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
