// One Llama-family model on the host: runs a step plan over packed weights and a KV pool. host_device.cpp gives it
// steps from its worker thread; tests call it directly. Not thread-safe: one step at a time.
//
// Shape letters: M tokens (rows) of the step, C hidden, I intermediate, H query heads, G key/value heads, D head_dim, V
// vocab.
#pragma once
#include "gpu/host_device.hpp"
#include "gpu/kernels/kernels.hpp"
#include "gpu/kernels/sampler.hpp"
#include "gpu/model/kv_pool.hpp"
#include "gpu/model/packed_model.hpp"
#include "gpu/thread_pool.hpp"
#include "gpu/weights_arrival.hpp"
#include <functional>
#include <memory>
#include <span>
#include <vector>

namespace hflex::gpu {

/// Sees the V logits of the plan's item `item` before a token is picked from them; on the thread that calls run().
using logits_observer = std::function<void(std::size_t item, std::span<const float> logits)>;

class llama {
public:
  /// Allocates KV pool, work space and threads. errc::reject for impossible options, errc::fatal for want of memory.
  static result<std::unique_ptr<llama>> make(
      std::shared_ptr<const weight_region> weights, const host_context_options& options);

  const model_config& config() const { return model_.config(); }
  const kernel_set& kernels() const { return kernels_; }
  kv_pool& kv() { return kv_; }
  const kv_pool& kv() const { return kv_; }
  std::uint32_t threads() const { return threads_->threads(); }
  /// Weights, KV pool and work space.
  std::uint64_t memory_bytes() const;

  /// errc::reject names the item at fault (see device_context::submit). O(tokens + blocks).
  result<void> check(const step_plan& plan) const;
  /// Runs a plan that has passed check(); `sampled` gets one entry per item. Blocks where weights are still arriving.
  /// errc::fatal when logits are not finite; weights_arrival::wait's errors when the weights did not come.
  result<void> run(const step_plan& plan, std::vector<token_id>& sampled, const logits_observer& observe = {});
  /// How long the last run() waited for weights.
  duration waited() const { return waited_; }
  /// A run() that waits for weights, and every later one that would, fails. Any thread.
  void stop_waiting();

private:
  /// A run of rows of one item that attention takes in one call.
  struct attention_piece {
    std::uint32_t item{};
    std::uint32_t row{};      ///< of the step
    std::uint32_t position{}; ///< of that row in its sequence
    std::uint32_t tokens{};
  };
  struct row_place {
    std::uint32_t item{};
    std::uint32_t position{};
  };
  /// Buffers of one step; rows are padded_width(...) wide, padding stays zero.
  struct work_space {
    host_memory memory;
    float* x{};             ///< [M][C] residual stream
    std::byte* normed{};    ///< [M][C] activations
    float* qkv{};           ///< [M][(H + 2 G) D]
    std::byte* attended{};  ///< [M][H D] activations
    float* cos_sin{};       ///< [M][2 D]
    float* gate_up{};       ///< [mlp_rows][2 I]
    std::byte* activated{}; ///< [mlp_rows][I] activations
    float* logits{};        ///< [logit_rows][V]
    std::byte* attention{}; ///< [threads] scratch
  };

  llama(std::shared_ptr<const weight_region> weights, const kernel_set& kernels, kv_pool kv, std::uint32_t threads,
      const host_context_options& options);
  result<void> allocate_work_space();
  result<void> wait_for(std::size_t group);
  void lay_out(const step_plan& plan);
  void embed(const step_plan& plan);
  void run_layer(const step_plan& plan, std::uint32_t index);
  void finish_qkv(const packed_model::layer& weights, float* qkv);
  void store_kv(const step_plan& plan, std::uint32_t layer);
  void attend(const step_plan& plan, std::uint32_t layer);
  void run_mlp(const packed_model::layer& weights);
  result<void> sample(const step_plan& plan, std::vector<token_id>& sampled, const logits_observer& observe);
  result<void> sample_rows(const step_plan& plan, std::span<const std::uint32_t> items, std::vector<token_id>& sampled,
      const logits_observer& observe);

  void multiply(const packed_matrix& w, const void* x, std::uint32_t rows, float* y, bool accumulate);
  void normalize(const float* weight);
  /// body(begin, end, thread) over blocks of rows.
  template <class Body>
  void for_rows(std::uint32_t rows, const Body& body);

  std::shared_ptr<const weight_region> weights_;
  const std::shared_ptr<weights_arrival> arrival_; ///< null: the weights were whole when the engine was made
  const std::vector<chunk_range> groups_;          ///< what to wait for (weight_groups.hpp); empty: nothing
  const duration patience_;
  std::atomic<bool> stopped_{false};
  bool whole_; ///< of the thread that runs steps: nothing is left to wait for
  duration waited_{};
  packed_model model_;
  kernel_set kernels_;
  kv_pool kv_;
  std::unique_ptr<thread_pool> threads_;
  std::uint32_t max_rows_;
  std::uint32_t mlp_rows_;
  std::uint32_t logit_rows_;
  work_space work_;
  std::vector<float> inverse_frequency_;  ///< D / 2: see rope.hpp
  std::vector<sampler_scratch> samplers_; ///< one per thread
  // Of the step in progress:
  std::vector<row_place> rows_;
  std::vector<std::uint32_t> last_row_; ///< per item
  std::vector<attention_piece> pieces_;
};

} // namespace hflex::gpu
