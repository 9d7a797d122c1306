// Kernels for x86-64 CPUs with AVX-512 (F, BW, DQ, VL): bf16 weights are widened to f32.
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

#define HFLEX_KERNEL __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define HFLEX_INLINE __attribute__((always_inline, target("avx512f,avx512bw,avx512dq,avx512vl,fma"))) inline

namespace hflex::gpu {
namespace {

#include "gpu/kernels/avx512_ops.inl"

#include "gpu/kernels/matmul.inl"
#include "gpu/kernels/rows.inl"
// attention.inl uses the modes of rows.inl
#include "gpu/kernels/attention.inl"

} // namespace

kernel_set avx512_kernels(compute_type compute) {
  return compute == compute_type::f32 ? kernels_of<mode_f32>("avx512") : kernels_of<mode_bf16>("avx512");
}

} // namespace hflex::gpu
#endif
