#include "gpu/cuda/step_layout.hpp"
#include <algorithm>

namespace hflex::cuda {
namespace {

/// Whether an item's chunk goes to the tensor cores.
bool takes_tiles(const layout_rules& rules, const hflex_cuda_item& item) {
  return rules.tensor_cores && item.token_count > 1 && rules.group <= prefill_rows;
}

std::uint32_t tile_tokens(const layout_rules& rules) { return std::max(1U, prefill_rows / rules.group); }

/// A row that stands for nobody: token 0 at position 0 of the block that nobody owns, drawn greedily and not read.
void pad_rows(const layout_rules& rules, const step_shape& shape, std::uint32_t first, const step_arrays& out) {
  out.tables[shape.tables - 1] = rules.blocks;
  for (std::uint32_t r = first; r < shape.rows; ++r) {
    out.tokens[r] = 0;
    out.positions[r] = 0;
    out.slots[r] = rules.blocks * rules.block_size;
    out.attend_rows[r] = {r, 0, shape.tables - 1};
    out.sample_rows[r] = r;
    out.requests[r] = {};
  }
}

} // namespace

step_shape shape_of(const layout_rules& rules, const hflex_cuda_step& step) {
  step_shape shape;
  bool single = step.wants_layers == 0;
  for (std::uint32_t i = 0; i < step.item_count; ++i) {
    const hflex_cuda_item& item = step.items[i];
    shape.rows += item.token_count;
    shape.tables += item.table_count;
    shape.samples += item.sample;
    single = single && item.token_count == 1 && item.sample != 0;
    if (takes_tiles(rules, item))
      shape.tiles += (item.token_count + tile_tokens(rules) - 1) / tile_tokens(rules);
    else
      shape.attend_rows += item.token_count;
  }
  shape.capacity = rules.max_rows;
  if (single && shape.rows <= largest_bucket && decode_bucket(shape.rows) <= rules.max_rows) {
    shape.padded = true;
    shape.capacity = shape.rows = shape.attend_rows = shape.samples = decode_bucket(shape.rows);
    ++shape.tables; // the padding's; there even when none is needed, so that the shape tells all
  }
  return shape;
}

void lay_out(const layout_rules& rules, const hflex_cuda_step& step, const step_shape& shape, const step_arrays& out) {
  std::uint32_t row = 0;
  std::uint32_t table = 0;
  std::uint32_t attended = 0;
  std::uint32_t tiles = 0;
  std::uint32_t samples = 0;
  for (std::uint32_t i = 0; i < step.item_count; ++i) {
    const hflex_cuda_item& item = step.items[i];
    std::copy_n(item.table, item.table_count, out.tables + table);
    const bool tiled = takes_tiles(rules, item);
    for (std::uint32_t t = 0; t < item.token_count; ++t) {
      const std::uint32_t position = item.position + t;
      out.tokens[row + t] = item.tokens[t];
      out.positions[row + t] = position;
      out.slots[row + t] = item.table[position / rules.block_size] * rules.block_size + position % rules.block_size;
      if (!tiled) out.attend_rows[attended++] = {row + t, position, table};
    }
    for (std::uint32_t t = 0; tiled && t < item.token_count; t += tile_tokens(rules))
      out.tiles[tiles++] = {row + t, item.position + t, std::min(tile_tokens(rules), item.token_count - t), table};
    row += item.token_count;
    table += item.table_count;
    if (item.sample == 0) continue;
    out.sample_rows[samples] = row - 1;
    out.requests[samples++] = {item.seed, item.output_index, item.top_k, item.temperature, item.top_p};
  }
  if (shape.padded) pad_rows(rules, shape, row, out);
  // Blocks start in order: the longest first, so that none is left running alone at the end.
  std::stable_sort(out.tiles, out.tiles + tiles,
      [](const prefill_tile& a, const prefill_tile& b) { return a.position + a.tokens > b.position + b.tokens; });
}

} // namespace hflex::cuda
