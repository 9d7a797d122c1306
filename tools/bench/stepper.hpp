// Runs steps on a device context from a thread that may wait, for benchmarks. An instance never waits.
#pragma once
#include "gpu/device.hpp"
#include <future>

namespace hflex::bench {

/// Blocks until the step is done; its device time, or why it failed.
inline result<duration> run_step(gpu::device_context& context, const gpu::step_plan& plan) {
  std::promise<gpu::step_result> done;
  auto answer = done.get_future();
  context.submit(plan, [&done](gpu::step_result r) { done.set_value(std::move(r)); });
  auto r = answer.get();
  if (!r.status) return pass(r.status.error());
  return r.elapsed;
}

/// A sequence's share of a step: `tokens` from `position` on, in the blocks index, index + stride, index + 2 stride,
/// ...
inline gpu::step_item make_item(const gpu::device_context& context, std::uint32_t index, std::uint32_t stride,
    std::uint32_t position, std::uint32_t tokens) {
  const auto& kv = context.kv();
  gpu::step_item item;
  item.tag = index;
  for (std::uint32_t t = 0; t < tokens; ++t)
    item.tokens.push_back(static_cast<token_id>((t * 7919ULL + index * 104729ULL + 13) % context.vocab_size()));
  item.position = position;
  const std::uint32_t blocks = (position + tokens + kv.block_size - 1) / kv.block_size;
  for (std::uint32_t b = 0; b < blocks; ++b) item.block_table.push_back((index + b * stride) % kv.blocks);
  item.sample = true;
  return item;
}

/// KV that reads like a real one: pages that were never written are all the same page of memory.
inline result<void> fill_kv(gpu::device_context& context) {
  const auto& kv = context.kv();
  std::vector<gpu::block_index> table(1);
  std::vector<std::byte> rows(kv.block_size * kv.token_layer_bytes());
  // The upper byte of every bf16, or f32, is that of a small number.
  std::uint64_t state = 1;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    const bool upper = i % bytes_of(kv.element) == bytes_of(kv.element) - 1;
    rows[i] = static_cast<std::byte>(upper ? 0x3c | (state >> 56U & 0x80U) : state >> 56U);
  }
  for (std::uint32_t layer = 0; layer < kv.layers; ++layer)
    for (table[0] = 0; table[0] < kv.blocks; ++table[0])
      if (auto ok = context.write_kv(layer, table, 0, kv.block_size, rows); !ok) return ok;
  return {};
}

} // namespace hflex::bench
