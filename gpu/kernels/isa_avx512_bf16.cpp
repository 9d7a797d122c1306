// Kernels for x86-64 CPUs with AVX512_BF16: activations are stored as bf16 and multiplied two at a time by vdpbf16ps,
// which takes packed weights, keys and values as they lie in memory.
#include "gpu/kernels/isa.hpp"
#if defined(__x86_64__)
#include <cfloat>
#include <cmath>
#include <cstring>
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own AVX-512 header "uses" an undefined vector (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#define HFLEX_KERNEL __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")))
#define HFLEX_INLINE __attribute__((always_inline, target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"))) inline

namespace hflex::gpu {
namespace {

#include "gpu/kernels/avx512_ops.inl"

#include "gpu/kernels/matmul.inl"
#include "gpu/kernels/rows.inl"
// attention.inl uses the modes of rows.inl
#include "gpu/kernels/attention.inl"

/// bf16 activations, bf16 weights; both products of a pair are added to the f32 accumulator in the instruction's order.
struct op_dot {
  using x_type = std::uint16_t;
  using w_type = std::uint16_t;
  using operand = __m512i;
  static constexpr std::uint32_t column_elements = 2; ///< of one pair
  static HFLEX_INLINE operand load(const w_type* row, int j, std::uint32_t = 0) {
    return _mm512_loadu_si512(row + j * lanes * 2);
  }
  static HFLEX_INLINE operand load_even(const w_type* row, int j) {
    return _mm512_and_si512(load(row, j), _mm512_set1_epi32(0xffff));
  }
  static HFLEX_INLINE vf step(vf acc, const x_type* x, const operand& w) {
    int pair;
    std::memcpy(&pair, x, sizeof pair);
    return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)w);
  }
};

struct mode_dot {
  using activation = std::uint16_t;
  using kv_element = std::uint16_t;
  using weight_op = op_dot;
  using kv_op = op_dot;
  static constexpr compute_type compute = compute_type::bf16;
  static HFLEX_INLINE void store(activation* out, vf value) { v_store_bf16(out, value); }
  static HFLEX_INLINE void store_kv(kv_element* out, vf value) { v_store_bf16(out, value); }
};

} // namespace

kernel_set avx512_bf16_kernels() { return kernels_of<mode_dot>("avx512_bf16"); }

} // namespace hflex::gpu
#endif
