// What the engine's tests share: the demo model's weights, packed once; its golden values; and a driver that runs
// sequences through a `llama` in whatever chunks, batches and block tables a test thinks up.
#pragma once
#include "gpu/model/llama.hpp"
#include "gpu/weights.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/model_dir.hpp"
#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <vector>

namespace hflex::test {

using tokens = std::vector<token_id>;
using logit_row = std::vector<float>;

inline std::shared_ptr<const gpu::weight_region> demo_weights() {
  static const auto region = gpu::load_weights(demo_model(), {});
  REQUIRE(region.has_value());
  return *region;
}

inline const nlohmann::json& golden_cases() {
  static const auto cases = nlohmann::json::parse(slurp(demo_model() + "/golden.json")).at("model_cases");
  return cases;
}

inline gpu::host_context_options engine_options(gpu::compute_type compute, std::uint32_t threads = 2) {
  gpu::host_context_options o;
  o.compute = compute;
  o.threads = threads;
  o.kv_blocks = 256;
  o.max_batched_tokens = 1024;
  return o;
}

inline std::unique_ptr<gpu::llama> make_engine(const gpu::host_context_options& options) {
  auto made = gpu::llama::make(demo_weights(), options);
  REQUIRE(made.has_value());
  return std::move(*made);
}

/// A greedy (unless told otherwise) item over a table; samples by default.
inline gpu::step_item item_of(
    tokens ids, std::uint32_t position, std::vector<gpu::block_index> table, std::uint32_t output_index = 0) {
  gpu::step_item item;
  item.tokens = std::move(ids);
  item.position = position;
  item.block_table = std::move(table);
  item.sample = true;
  item.output_index = output_index;
  return item;
}

/// Blocks [first, first + count).
inline std::vector<gpu::block_index> block_range(std::uint32_t first, std::uint32_t count) {
  std::vector<gpu::block_index> table(count);
  std::iota(table.begin(), table.end(), first);
  return table;
}

struct step_output {
  tokens sampled;
  std::vector<logit_row> logits; ///< per item; empty for those that did not sample
};

inline step_output run_step(gpu::llama& engine, std::vector<gpu::step_item> items) {
  gpu::step_plan plan;
  plan.items = std::move(items);
  const auto checked = engine.check(plan);
  if (!checked) FAIL(checked.error().message);
  step_output out;
  out.logits.resize(plan.items.size());
  const auto ran = engine.run(plan, out.sampled,
      [&](std::size_t i, std::span<const float> row) { out.logits[i].assign(row.begin(), row.end()); });
  if (!ran) FAIL(ran.error().message);
  return out;
}

/// Greedy continuation of a prompt that is computed in one step, then token by token.
inline tokens generate(gpu::llama& engine, const tokens& prompt, std::size_t count,
    const std::vector<gpu::block_index>& table, sampling_params sampling = {}) {
  tokens out;
  tokens next = prompt;
  std::uint32_t position = 0;
  while (out.size() < count) {
    auto item = item_of(next, position, table, static_cast<std::uint32_t>(out.size()));
    item.sampling = sampling;
    position += static_cast<std::uint32_t>(next.size());
    out.push_back(run_step(engine, {std::move(item)}).sampled[0]);
    next = {out.back()};
  }
  return out;
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// Largest difference relative to the largest magnitude of the reference.
inline double relative_difference(std::span<const float> found, std::span<const float> expected) {
  double difference = 0.0;
  double scale = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(found[i]) - static_cast<double>(expected[i])));
    scale = std::max(scale, std::abs(static_cast<double>(expected[i])));
  }
  return difference / scale;
}

} // namespace hflex::test
