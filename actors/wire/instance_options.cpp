#include "actors/wire/instance_options.hpp"
#include "actors/wire/convert.hpp"
#include <kj/debug.h>

namespace hflex::wire {

// The wire has the order of the enumeration.
static_assert(static_cast<int>(schema::StepPolicy::FIXED_BUDGET) == static_cast<int>(step_policy::fixed_budget));
static_assert(static_cast<int>(schema::StepPolicy::SLACK_BUDGET) == static_cast<int>(step_policy::slack_budget));
static_assert(static_cast<int>(schema::StepPolicy::HYBRID_PRIORITY) == static_cast<int>(step_policy::hybrid_priority));
static_assert(static_cast<int>(schema::StepPolicy::CREDITS) == static_cast<int>(step_policy::credits));
static_assert(
    static_cast<int>(schema::StepPolicy::TOKEN_ALLOCATION) == static_cast<int>(step_policy::token_allocation));
static_assert(static_cast<int>(schema::StepPolicy::LAYERED_BUDGET) == static_cast<int>(step_policy::layered_budget));

void write(schema::InstanceOptions::Builder out, const instance_options& o) {
  out.setModelDir(o.model_dir);
  out.setCompute(o.compute);
  out.setThreads(o.threads);
  out.setIsa(o.isa);
  out.setBlockSize(o.block_size);
  out.setKvBlocks(o.kv_blocks);
  out.setKvMemoryBytes(o.kv_memory_bytes);
  out.setMaxBatchedTokens(o.max_batched_tokens);
  out.setMaxSequences(o.max_sequences);
  out.setMaxWaiting(o.max_waiting);
  out.setStepPolicy(static_cast<schema::StepPolicy>(o.steps));
  out.setPrefillWeightUs(to_ms(o.prefill_weight) * 1e3);
  out.setSafety(o.safety);
  out.setKvLeaseMs(static_cast<std::uint32_t>(to_ms(o.kv_lease)));
  write(out.initStepTime(), o.step_time);
  out.setPrefixCache(o.prefix_cache);
}

instance_options read(schema::InstanceOptions::Reader in) {
  instance_options o;
  o.model_dir = read(in.getModelDir());
  o.compute = read(in.getCompute());
  o.threads = in.getThreads();
  o.isa = read(in.getIsa());
  o.block_size = in.getBlockSize();
  o.kv_blocks = in.getKvBlocks();
  o.kv_memory_bytes = in.getKvMemoryBytes();
  o.max_batched_tokens = in.getMaxBatchedTokens();
  o.max_sequences = in.getMaxSequences();
  o.max_waiting = in.getMaxWaiting();
  KJ_REQUIRE(in.getStepPolicy() <= schema::StepPolicy::LAYERED_BUDGET, "unknown step policy");
  o.steps = static_cast<step_policy>(in.getStepPolicy());
  KJ_REQUIRE(in.getPrefillWeightUs() >= 0 && in.getPrefillWeightUs() <= 1e7, "prefill weight out of range");
  o.prefill_weight = from_ms(in.getPrefillWeightUs() * 1e-3);
  o.safety = in.getSafety();
  o.kv_lease = std::chrono::milliseconds{in.getKvLeaseMs()};
  o.step_time = read(in.getStepTime());
  o.prefix_cache = in.getPrefixCache();
  KJ_REQUIRE(o.compute == "f32" || o.compute == "bf16" || o.compute == "f16", "compute is f32, bf16 or f16",
      o.compute.c_str());
  KJ_REQUIRE(o.block_size > 0 && o.block_size <= 4096, "block size out of range", o.block_size);
  KJ_REQUIRE(o.max_sequences > 0 && o.max_batched_tokens >= o.max_sequences, "token budget below max_sequences",
      o.max_batched_tokens);
  KJ_REQUIRE(o.safety >= 0 && o.safety < 1, "safety out of range", o.safety);
  KJ_REQUIRE(o.threads <= 4096, "threads out of range", o.threads);
  return o;
}

} // namespace hflex::wire
