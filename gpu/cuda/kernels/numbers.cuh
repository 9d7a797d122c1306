// The element types of weights, activations and KV: f32, bf16 and f16, converted as gpu/kernels/bf16.hpp defines it.
#pragma once
#include "gpu/cuda/kernels/lanes.cuh"
#include "gpu/kernels/bf16.hpp"
#include <cmath>
#include <type_traits>
#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace hflex::cuda {

struct bf16 {
  std::uint16_t bits;
};
struct f16 {
  std::uint16_t bits;
};

HFLEX_BOTH float to_float(float value) { return value; }
HFLEX_BOTH float to_float(bf16 value) { return gpu::bf16_to_f32(value.bits); }

template <class T>
struct from_float;
template <>
struct from_float<float> {
  HFLEX_BOTH static float convert(float value) { return value; }
};

#if defined(__CUDACC__)
HFLEX_BOTH float to_float(f16 value) { return __half2float(__ushort_as_half(value.bits)); }
template <>
struct from_float<bf16> {
  HFLEX_BOTH static bf16 convert(float value) { return {__bfloat16_as_ushort(__float2bfloat16_rn(value))}; }
};
template <>
struct from_float<f16> {
  HFLEX_BOTH static f16 convert(float value) { return {__half_as_ushort(__float2half_rn(value))}; }
};
#else
inline float to_float(f16 value) { return gpu::f16_to_f32(value.bits); }
template <>
struct from_float<bf16> {
  static bf16 convert(float value) { return {gpu::f32_to_bf16(value)}; }
};
template <>
struct from_float<f16> {
  static f16 convert(float value) { return {gpu::f32_to_f16(value)}; }
};
#endif

/// The nearest value that T can hold.
template <class T>
HFLEX_BOTH T to(float value) {
  return from_float<T>::convert(value);
}

/// As to<T>, except that what T cannot hold becomes NaN: an infinite query or key could give a score of minus infinity,
/// and the softmax would pass over it in silence.
template <class T>
HFLEX_BOTH T to_or_nan(float value) {
  if constexpr (std::is_same_v<T, f16>)
    if (!(fabsf(value) < 65520.0F)) return f16{0x7e00}; // where rounding to 65504 ends
  return to<T>(value);
}

/// Eight neighbours as floats; `from` is 16-byte aligned.
HFLEX_DEVICE void load8(const float* from, float (&out)[8]) {
  HFLEX_UNROLLED for (int half = 0; half < 2; ++half) {
    const quad q = load_quad(from + half * 4);
    HFLEX_UNROLLED for (int i = 0; i < 4; ++i) out[half * 4 + i] = gpu::f32_of_bits(q.word[i]);
  }
}
template <class T>
HFLEX_DEVICE void load8(const T* from, float (&out)[8]) {
  const quad q = load_quad(from);
  HFLEX_UNROLLED for (int i = 0; i < 4; ++i) {
    out[2 * i] = to_float(T{static_cast<std::uint16_t>(q.word[i] & 0xffffU)});
    out[2 * i + 1] = to_float(T{static_cast<std::uint16_t>(q.word[i] >> 16U)});
  }
}

/// Two 16-bit values in one register, the first in the low half.
template <class T>
HFLEX_DEVICE std::uint32_t pack2(float low, float high) {
  return std::uint32_t{to<T>(low).bits} | std::uint32_t{to<T>(high).bits} << 16U;
}

/// The reverse of load8, rounded; `at` is 16-byte aligned. Stored one by one, eight neighbours of 16 bits would be
/// eight writes of a warp, each to two bytes of all 16 sectors.
HFLEX_DEVICE void store8(float* at, const float (&values)[8]) {
  HFLEX_UNROLLED for (int half = 0; half < 2; ++half) {
    quad q;
    HFLEX_UNROLLED for (int i = 0; i < 4; ++i) q.word[i] = gpu::bits_of_f32(values[half * 4 + i]);
    store_quad(at + half * 4, q);
  }
}
template <class T>
HFLEX_DEVICE void store8(T* at, const float (&values)[8]) {
  quad q;
  HFLEX_UNROLLED for (int i = 0; i < 4; ++i) q.word[i] = pack2<T>(values[2 * i], values[2 * i + 1]);
  store_quad(at, q);
}

/// d[16][8] += a[16][16] b[16][8] by one warp, f32 sums. With g = lane / 4 and t = lane % 4 (PTX ISA, mma.m16n8k16):
/// a: (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8), each with its right neighbour;
/// b: (2t, g), (2t + 8, g), each with the one below; d: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
template <class T>
HFLEX_DEVICE void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
#if defined(__CUDACC__)
  if constexpr (std::is_same_v<T, bf16>)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  const std::uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  std::uint32_t all[warp_lanes][6];
  std::memcpy(all, warp_exchange(mine, sizeof mine), sizeof all);
  const auto half_of = [](std::uint32_t word, unsigned high) {
    return to_float(T{static_cast<std::uint16_t>(high != 0 ? word >> 16U : word & 0xffffU)});
  };
  const auto at_a = [&](unsigned row, unsigned k) {
    return half_of(all[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2);
  };
  const auto at_b = [&](unsigned k, unsigned column) { return half_of(all[column * 4 + k % 8 / 2][4 + k / 8], k % 2); };
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane_index() / 4 + i / 2 * 8;
    const unsigned column = lane_index() % 4 * 2 + i % 2;
    for (unsigned k = 0; k < 16; ++k) d[i] += at_a(row, k) * at_b(k, column);
  }
#endif
}

} // namespace hflex::cuda
