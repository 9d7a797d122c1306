// How fast the CPU engine computes steps, against what this machine could do at most. Called by `hflex bench engine`.
// Measures through the device interface, as an instance does; knows nothing of actors.
#pragma once
#include "actors/common/result.hpp"
#include "gpu/host_device.hpp"
#include <functional>
#include <string>
#include <vector>

namespace hflex::bench {

struct engine_options {
  std::string model;                 ///< checkpoint directory; empty: `shape` with random weights
  std::string shape{"smollm2-135m"}; ///< see shape_names()
  std::vector<std::uint32_t> batches{1, 4, 8, 16, 32};
  std::vector<std::uint32_t> prompts{128, 512, 2048};  ///< tokens: prefill lengths, and contexts that decode reads
  gpu::host_context_options device;                    ///< KV memory is sized by the bench
  duration per_point{std::chrono::milliseconds{1500}}; ///< measures each point about so long, at least 3 steps
};

/// What the machine gives at most to `threads` threads, measured now.
struct ceilings {
  double read_gb_s{}; ///< streaming reads of memory far larger than the caches
  double gflop_s{};   ///< multiply-adds of the kernels in use, from registers
};

struct engine_point {
  std::string phase;       ///< "prefill" or "decode"
  std::uint32_t batch{};   ///< sequences in the step
  std::uint32_t context{}; ///< tokens of the prompt (prefill), or tokens that each sequence attends to (decode)
  std::uint32_t steps{};   ///< that were measured
  double step_ms{};        ///< median
  double tokens_per_s{};   ///< all sequences together
  double gb_s{};           ///< weights and KV that a step must read at least, by its time
  double gflop_s{};        ///< products and attention of a step, by its time
  double share_of_read{};  ///< of the measured ceiling
  double share_of_flops{};
};

struct engine_report {
  gpu::device_info device;
  std::string model;
  std::uint64_t weight_bytes{};
  ceilings most;
  std::vector<engine_point> points;
};

std::vector<std::string> shape_names();
/// errc::reject: no such shape.
result<gpu::model_config> shape_config(const std::string& name);

/// Blocks for as long as it takes. `on_point` sees each point as it is done. errc::reject: unknown model or shape.
result<engine_report> measure_engine(
    const engine_options& options, const std::function<void(const engine_point&)>& on_point);

} // namespace hflex::bench
