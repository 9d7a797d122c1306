// The device interface: what an instance needs of a CPU or GPU to run a model. Implemented by host_device and
// by cuda_device. Knows nothing of actors: completions come back by callback on a device thread, and callers post
// them to their own mailbox. No call here waits for the device.
#pragma once
#include "actors/common/request.hpp"
#include "actors/common/result.hpp"
#include "actors/common/step_time.hpp"
#include "gpu/compute_type.hpp"
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace hflex::gpu {

/// What a device is, for topology and placement.
struct device_info {
  std::string kind;             ///< "cpu" or "cuda"
  std::string name;             ///< model name of the hardware
  std::string isa;              ///< kernels in use: "avx512_bf16", "avx512", "avx2", "portable", "sm_90"
  std::uint64_t memory_bytes{}; ///< total memory the device may use
  std::uint32_t threads{};      ///< compute threads (0 on a GPU)
};

/// Shape of a context's KV cache: [layers][2][blocks][block_size][kv_heads][head_dim] elements of `element`.
/// In which order a device keeps the elements of a block is its own affair; read_kv and write_kv speak of rows.
struct kv_geometry {
  std::uint32_t layers{};
  std::uint32_t kv_heads{};
  std::uint32_t head_dim{};
  compute_type element{};     ///< what activations are computed in
  std::uint32_t block_size{}; ///< tokens in one KV block
  std::uint32_t blocks{};     ///< blocks in the pool
  /// Bytes of one token in one layer, K and V together: what a KV transfer moves per (token, layer).
  std::uint64_t token_layer_bytes() const { return std::uint64_t{2} * kv_heads * head_dim * bytes_of(element); }
  std::uint64_t pool_bytes() const { return token_layer_bytes() * layers * block_size * blocks; }
  /// Two ends can hand KV over when everything but the pool size and block size agrees: rows are copied as they are,
  /// never converted.
  bool compatible(const kv_geometry& o) const {
    return layers == o.layers && kv_heads == o.kv_heads && head_dim == o.head_dim && element == o.element;
  }
};

using block_index = std::uint32_t;

/// One sequence's share of a step: compute `tokens` at positions [position, position + tokens.size()).
struct step_item {
  std::uint64_t tag{};                  ///< the caller's; comes back in the result
  std::vector<token_id> tokens;         ///< at least one
  std::uint32_t position{};             ///< num_computed_tokens before this step
  std::vector<block_index> block_table; ///< covers position + tokens.size() tokens
  bool sample{false};                   ///< pick a token from the last position's logits
  sampling_params sampling;
  std::uint32_t output_index{}; ///< index of the sampled token in the request's output: the random counter
  bool wants_layers{false};     ///< report each layer of this item to `on_layer` (KV push)
};

/// Called on a device thread when layer `layer` of item `tag` has its K and V in the pool. Must not block.
using layer_callback = std::function<void(std::uint64_t tag, std::uint32_t layer)>;

struct step_plan {
  std::uint64_t id{};
  std::vector<step_item> items;
  layer_callback on_layer; ///< may be empty
};

/// What came of a step: one token per item that asked for one (`no_token` for the others).
struct step_result {
  static constexpr token_id no_token = -1;
  std::uint64_t id{};
  std::vector<token_id> sampled; ///< parallel to the plan's items
  duration elapsed{};            ///< device time of the step
  result<void> status{};         ///< a failed step has written nothing that anyone may rely on
  duration waited{};             ///< of `elapsed`, for weights that were still arriving
};
using step_callback = std::function<void(step_result)>;

/// Where a device with memory of its own may find weights that another process has on a device.
struct device_sources {
  std::vector<std::string> neighbours; ///< transport endpoints of processes of this host that hold these weights
  std::vector<std::byte> ticket;       ///< of a process on another host, which waits to send them; empty: none
};

/// One model's weights and KV pool on one device. Belongs to the node agent, not to the actor that uses it: an actor of
/// another role takes it over without moving a byte. At most one step runs at a time; submit is for one owner at a
/// time.
class device_context {
public:
  virtual ~device_context() = default;
  virtual const device_info& info() const = 0;
  virtual const kv_geometry& kv() const = 0;
  virtual std::uint32_t max_context() const = 0; ///< positions the model was made for
  virtual std::uint32_t vocab_size() const = 0;
  virtual std::span<const token_id> eos_tokens() const = 0; ///< any of them ends a text
  virtual std::uint64_t memory_used_bytes() const = 0;      ///< weights (once) + KV pool + work space
  /// Where a device with memory of its own got its weights from, in words; empty for the others.
  virtual std::string weights_from() const { return {}; }

  /// Queues a step and returns at once. `done` is called exactly once, on a device thread. A plan that breaks the rules
  /// above (empty item, short block table, block out of range, token outside the vocabulary) completes with
  /// errc::reject.
  virtual void submit(step_plan plan, step_callback done) = 0;

  /// Copies K then V rows of tokens [begin, begin + count) of one layer: [count][kv_heads][head_dim], K first, then V;
  /// out.size() == count * token_layer_bytes(). Any thread; the caller holds the blocks, and no step writes these rows
  /// meanwhile.
  virtual result<void> read_kv(std::uint32_t layer, std::span<const block_index> block_table, std::uint32_t begin,
      std::uint32_t count, std::span<std::byte> out) const = 0;
  /// The reverse of read_kv.
  virtual result<void> write_kv(std::uint32_t layer, std::span<const block_index> block_table, std::uint32_t begin,
      std::uint32_t count, std::span<const std::byte> in) = 0;
};

} // namespace hflex::gpu
