#include "gpu/kernels/pack.hpp"
#include "actors/common/check.hpp"
#include "gpu/kernels/bf16.hpp"
#include <algorithm>
#include <cstring>

namespace hflex::gpu {
namespace {

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

/// Elements [begin, begin + out.size()) of a row as bf16.
void convert_part(const source_row& row, std::size_t begin, std::span<std::uint16_t> out) {
  if (row.data == nullptr) {
    std::fill(out.begin(), out.end(), std::uint16_t{0});
    return;
  }
  const std::byte* from = row.data + begin * bytes_of(row.type);
  switch (row.type) {
  case dtype::bf16:
    std::memcpy(out.data(), from, out.size_bytes());
    return;
  case dtype::f16:
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = f32_to_bf16(f16_to_f32(load<std::uint16_t>(from + i * 2)));
    return;
  case dtype::f32:
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = f32_to_bf16(load<float>(from + i * 4));
    return;
  }
}

} // namespace

void convert_row_bf16(const source_row& row, std::span<std::uint16_t> out) { convert_part(row, 0, out); }

void convert_row_f32(const source_row& row, std::span<float> out) {
  HFLEX_CHECK(row.data != nullptr);
  for (std::size_t i = 0; i < out.size(); ++i) {
    switch (row.type) {
    case dtype::f32:
      out[i] = load<float>(row.data + i * 4);
      break;
    case dtype::f16:
      out[i] = f16_to_f32(load<std::uint16_t>(row.data + i * 2));
      break;
    case dtype::bf16:
      out[i] = bf16_to_f32(load<std::uint16_t>(row.data + i * 2));
      break;
    }
  }
}

void pack_panel(const std::array<source_row, panel_columns>& rows, std::uint32_t k, std::span<std::uint16_t> out) {
  const std::size_t pairs = (std::size_t{k} + 1) / 2;
  HFLEX_CHECK(out.size() == pairs * panel_columns * 2);
  // A strip of 64 inputs at a time: its 8 KiB of the panel stay in the first-level cache while 64 rows are scattered to
  // it.
  constexpr std::size_t strip = 64;
  for (std::size_t begin = 0; begin < k; begin += strip) {
    const std::size_t width = std::min<std::size_t>(strip, k - begin);
    for (std::size_t column = 0; column < panel_columns; ++column) {
      std::array<std::uint16_t, strip + 1> part{};
      convert_part(rows[column], begin, std::span(part).first(width));
      for (std::size_t i = 0; i < width; i += 2)
        std::memcpy(&out[((begin + i) / 2 * panel_columns + column) * 2], &part[i], 4);
    }
  }
}

} // namespace hflex::gpu
