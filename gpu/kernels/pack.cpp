#include "gpu/kernels/pack.hpp"
#include "actors/common/check.hpp"
#include "gpu/kernels/bf16.hpp"
#include "gpu/kernels/decode_weights.hpp"
#include <algorithm>
#include <cstring>

namespace hflex::gpu {
namespace {

/// Elements [begin, begin + out.size()) of a row as bf16; both are multiples of the type's block.
void convert_part(const source_row& row, std::size_t begin, std::span<std::uint16_t> out) {
  if (row.data == nullptr) {
    std::fill(out.begin(), out.end(), std::uint16_t{0});
    return;
  }
  const std::byte* from = row.data + begin / elements_of(row.type) * bytes_of(row.type);
  if (row.type == dtype::bf16) {
    std::memcpy(out.data(), from, out.size_bytes());
    return;
  }
  std::array<float, max_block_elements> values;
  while (!out.empty()) {
    const auto some = std::span(values).first(std::min(values.size(), out.size()));
    decode_weights(row.type, from, some);
    std::transform(some.begin(), some.end(), out.begin(), f32_to_bf16);
    from += some.size() / elements_of(row.type) * bytes_of(row.type);
    out = out.subspan(some.size());
  }
}

} // namespace

void convert_row_bf16(const source_row& row, std::span<std::uint16_t> out) { convert_part(row, 0, out); }

void convert_row_f32(const source_row& row, std::span<float> out) {
  HFLEX_CHECK(row.data != nullptr);
  decode_weights(row.type, row.data, out);
}

void pack_panel(const std::array<source_row, panel_columns>& rows, std::uint32_t k, std::span<std::uint16_t> out) {
  const std::size_t pairs = (std::size_t{k} + 1) / 2;
  HFLEX_CHECK(out.size() == pairs * panel_columns * 2);
  // A strip of 64 inputs at a time: its 8 KiB of the panel stay in the first-level cache while 64 rows are scattered to
  // it. Longer blocks are not decoded in pieces.
  std::size_t strip = 64;
  for (const auto& row : rows) strip = std::max(strip, row.data == nullptr ? 0 : elements_of(row.type));
  for (std::size_t begin = 0; begin < k; begin += strip) {
    const std::size_t width = std::min<std::size_t>(strip, k - begin);
    for (std::size_t column = 0; column < panel_columns; ++column) {
      std::array<std::uint16_t, max_block_elements + 1> part;
      part[width] = 0; // the partner of the last input when K is odd
      convert_part(rows[column], begin, std::span(part).first(width));
      for (std::size_t i = 0; i < width; i += 2)
        std::memcpy(&out[((begin + i) / 2 * panel_columns + column) * 2], &part[i], 4);
    }
  }
}

} // namespace hflex::gpu
