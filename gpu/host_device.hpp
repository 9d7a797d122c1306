// The CPU backend: a thread pool that computes steps on packed weights.
#pragma once
#include "gpu/device.hpp"
#include "gpu/weights.hpp"

namespace hflex::gpu {

struct host_context_options {
  std::uint32_t threads{0}; ///< compute threads, 0 = all cores of this process; the pool is the context's own
  compute_type compute{compute_type::bf16}; ///< of activations and KV; weights are bf16 here whatever it is
  std::uint32_t block_size{16};
  std::uint32_t kv_blocks{0}; ///< 0 = from kv_memory_bytes
  std::uint64_t kv_memory_bytes{64U << 20U};
  std::uint32_t max_batched_tokens{2048}; ///< largest step accepted; sizes the work space
  std::uint32_t max_queued_steps{16};     ///< steps that wait; one more completes with errc::retry
  /// A step on weights that are still arriving fails when nothing of them came for so long.
  duration weights_patience{std::chrono::seconds{30}};
  std::string isa; ///< force "portable", "avx2", "avx512", "avx512_bf16"; empty = best of this CPU
};

/// Reads no disk and copies no weights: allocation of KV pool and work space only. The weights may still be arriving: a
/// step waits, on the context's thread, for each layer that is not here, and fails when the context goes meanwhile. In
/// f32 and bf16 alike, a token's result does not depend on what else is in the batch or how a prompt was cut into
/// chunks. errc::reject for impossible options, and for f16, which the CPU's kernels do not have.
result<std::shared_ptr<device_context>> make_host_context(
    std::shared_ptr<const weight_region> weights, const host_context_options& options);

/// What this machine offers as a device, before any context exists.
device_info host_device_info(std::uint32_t threads);

} // namespace hflex::gpu
