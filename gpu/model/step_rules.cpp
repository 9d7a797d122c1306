#include "gpu/model/step_rules.hpp"
#include "gpu/kernels/sampler.hpp"

namespace hflex::gpu {
namespace {

constexpr std::uint32_t max_block_size = 4096;
constexpr std::uint32_t max_step_tokens = 1U << 20U;
constexpr std::uint64_t max_pool_bytes = std::uint64_t{1} << 46U;

result<void> check_item(const model_config& config, const kv_geometry& kv, const step_item& item) {
  if (item.tokens.empty()) return fail(errc::reject, "no tokens");
  const std::uint64_t end = std::uint64_t{item.position} + item.tokens.size();
  if (end > config.max_context)
    return fail(errc::reject, "{} tokens from position {}: the model has {} positions", item.tokens.size(),
        item.position, config.max_context);
  for (const token_id token : item.tokens)
    if (token < 0 || static_cast<std::uint32_t>(token) >= config.vocab)
      return fail(errc::reject, "token {}: the vocabulary has {}", token, config.vocab);
  if (auto ok = check_block_table(kv, item.block_table, end); !ok) return ok;
  return item.sample ? check_sampling(item.sampling) : result<void>{};
}

} // namespace

result<kv_geometry> plan_kv_pool(const model_config& c, const host_context_options& options) {
  if (options.block_size == 0 || options.block_size > max_block_size)
    return fail(errc::reject, "block_size {}: expected 1 to {}", options.block_size, max_block_size);
  kv_geometry g{c.layers, c.kv_heads, c.head_dim, options.compute, options.block_size, 1};
  const std::uint64_t block_bytes = g.pool_bytes();
  const std::uint64_t blocks = options.kv_blocks != 0 ? options.kv_blocks : options.kv_memory_bytes / block_bytes;
  if (blocks == 0)
    return fail(errc::reject, "kv_memory_bytes {}: one KV block takes {}", options.kv_memory_bytes, block_bytes);
  if (blocks > max_pool_bytes / block_bytes || blocks > UINT32_MAX)
    return fail(errc::reject, "{} KV blocks of {} bytes: too many", blocks, block_bytes);
  g.blocks = static_cast<std::uint32_t>(blocks);
  return g;
}

result<void> check_step_size(std::uint32_t max_batched_tokens) {
  if (max_batched_tokens == 0 || max_batched_tokens > max_step_tokens)
    return fail(errc::reject, "max_batched_tokens {}: expected 1 to {}", max_batched_tokens, max_step_tokens);
  return {};
}

result<void> check_block_table(const kv_geometry& kv, std::span<const block_index> block_table, std::uint64_t tokens) {
  const std::uint64_t needed = (tokens + kv.block_size - 1) / kv.block_size;
  if (block_table.size() < needed)
    return fail(errc::reject, "block table of {} blocks, {} tokens need {}", block_table.size(), tokens, needed);
  for (const block_index block : block_table.first(needed))
    if (block >= kv.blocks) return fail(errc::reject, "block {} of {}", block, kv.blocks);
  return {};
}

result<void> check_kv_copy(const kv_geometry& kv, std::uint32_t layer, std::span<const block_index> block_table,
    std::uint32_t begin, std::uint32_t count, std::size_t bytes) {
  if (layer >= kv.layers) return fail(errc::reject, "KV copy: layer {} of {}", layer, kv.layers);
  if (bytes != count * kv.token_layer_bytes())
    return fail(errc::reject, "KV copy: {} bytes for {} tokens of {}", bytes, count, kv.token_layer_bytes());
  if (auto ok = check_block_table(kv, block_table, std::uint64_t{begin} + count); !ok)
    return fail(errc::reject, "KV copy: {}", ok.error().message);
  return {};
}

result<void> check_step(
    const model_config& config, const kv_geometry& kv, std::uint32_t max_batched_tokens, const step_plan& plan) {
  if (plan.items.empty()) return fail(errc::reject, "step {}: no items", plan.id);
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < plan.items.size(); ++i) {
    if (auto ok = check_item(config, kv, plan.items[i]); !ok)
      return fail(errc::reject, "step {}, item {} (tag {}): {}", plan.id, i, plan.items[i].tag, ok.error().message);
    total += plan.items[i].tokens.size();
  }
  if (total > max_batched_tokens)
    return fail(errc::reject, "step {}: {} tokens, max_batched_tokens is {}", plan.id, total, max_batched_tokens);
  return {};
}

} // namespace hflex::gpu
