// Private to gpu/kernels: the tables that the isa_*.cpp files fill and kernels.cpp chooses from.
#pragma once
#include "gpu/kernels/kernels.hpp"

namespace hflex::gpu {

kernel_set portable_kernels(compute_type compute);
#if defined(__x86_64__)
kernel_set avx2_kernels(compute_type compute);
kernel_set avx512_kernels(compute_type compute);
/// bf16 dot products; there is no f32 mode of its own (avx512_kernels is it).
kernel_set avx512_bf16_kernels();
#endif

/// Rows that any kernel set multiplies at a time.
inline constexpr std::size_t max_tile_rows = 16;

/// Where the parts of an attention call's scratch memory lie. All offsets are in bytes and 64-byte aligned.
struct attention_layout {
  std::size_t query;   ///< [rows][D] activations
  std::size_t weights; ///< [rows of a tile][64] activations
  std::size_t scores;  ///< [rows of a tile][64] f32
  std::size_t sums;    ///< [rows][D] f32
  std::size_t maxima;  ///< [rows] f32
  std::size_t totals;  ///< [rows] f32
  std::size_t bytes;
};
attention_layout layout_attention(std::uint32_t group, std::uint32_t head_dim);

} // namespace hflex::gpu

// Unrolls the next loop fully (its bounds are constants up to 16): accumulators must live in registers.
#if defined(__clang__)
#define HFLEX_UNROLL _Pragma("clang loop unroll(full)")
#else
#define HFLEX_UNROLL _Pragma("GCC unroll 16")
#endif
