// What the head tells a node agent about an instance that it is to start.
#pragma once
#include "actors/common/step_time.hpp"
#include "actors/common/time.hpp"
#include "schema/cluster.capnp.h"
#include <cstdint>
#include <string>

namespace hflex::wire {

struct instance_options {
  std::string model_dir;
  std::string compute{"bf16"}; ///< "f32", "bf16" or "f16"
  std::uint32_t threads{0};    ///< 0 = the device's
  std::string isa;             ///< forces one set of CPU kernels; empty = best
  std::uint32_t block_size{16};
  std::uint32_t kv_blocks{0}; ///< 0 = from kv_memory_bytes
  std::uint64_t kv_memory_bytes{64U << 20U};
  std::uint32_t max_batched_tokens{2048};
  std::uint32_t max_sequences{64};
  std::uint32_t max_waiting{256};
  step_policy steps{step_policy::slack_budget};
  duration prefill_weight{0}; ///< step_policy::hybrid_priority: per prefill token left, up to 10 s
  double safety{0.1};         ///< share of that slack left unplanned
  duration kv_lease{std::chrono::seconds{60}};
  step_time_model step_time{unmeasured_step_time}; ///< until its own steps say better
  bool prefix_cache{true};                         ///< keep and share the KV blocks of prompts that begin alike
};

void write(schema::InstanceOptions::Builder out, const instance_options& options);
/// Throws kj::Exception for values that no instance can have.
instance_options read(schema::InstanceOptions::Reader in);

} // namespace hflex::wire
