// Turns checkpoint tensors into what the kernels read: bf16 panels, bf16 rows, f32 vectors. Called by weights.cpp;
// pure. bf16 sources are copied bit for bit; all other types are decoded to f32 and rounded to the nearest bf16.
#pragma once
#include "gpu/kernels/kernels.hpp"
#include "gpu/model/checkpoint.hpp"
#include <array>
#include <span>

namespace hflex::gpu {

/// One row of K elements (whole blocks), unaligned, in the checkpoint's own type. No data: a row of zeros (padding).
struct source_row {
  const std::byte* data{};
  dtype type{};
};

/// Packs 64 rows of W[N][K] into one panel [ceil(K/2)][64][2]; out.size() == ceil(K/2) * 128.
void pack_panel(const std::array<source_row, panel_columns>& rows, std::uint32_t k, std::span<std::uint16_t> out);
/// One row as bf16; out.size() is K.
void convert_row_bf16(const source_row& row, std::span<std::uint16_t> out);
/// One row as f32; out.size() is K.
void convert_row_f32(const source_row& row, std::span<float> out);

} // namespace hflex::gpu
