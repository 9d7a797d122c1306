// What the CUDA plug-in and the program agree on: plain C, so that they may come from different compilers. Called by
// gpu/cuda_plugin.cpp and gpu/cuda_device.cpp; implemented in plugin.cu. Nothing here throws; what fails writes words
// to `fault` and says so in its result. The program checks what it passes (gpu/model/step_rules.hpp): the plug-in
// trusts it.
#pragma once
#include <cstddef>
#include <cstdint>

// NOLINTBEGIN(readability-identifier-naming): C names have no namespace to live in
extern "C" {

constexpr std::uint32_t hflex_cuda_abi = 9;

struct hflex_cuda_device {
  char name[128];
  unsigned char uuid[16];
  std::int32_t compute_major;
  std::int32_t compute_minor;
  std::uint64_t memory_bytes;
};

/// Element type of weights, activations and KV on the device.
enum hflex_cuda_element : std::uint32_t { hflex_cuda_bf16 = 0, hflex_cuda_f32 = 1, hflex_cuda_f16 = 2 };

/// One tensor of a weight region; `kind` is a tensor_kind of gpu/model/packed_model.hpp.
struct hflex_cuda_tensor {
  std::uint32_t kind;
  std::uint32_t layer;
  std::uint32_t rows;
  std::uint32_t columns;
  std::uint64_t offset;
  std::uint64_t bytes;
};

struct hflex_cuda_model {
  std::uint32_t hidden;
  std::uint32_t intermediate;
  std::uint32_t layers;
  std::uint32_t heads;
  std::uint32_t kv_heads;
  std::uint32_t head_dim; ///< at most 256
  std::uint32_t vocab;
  std::uint32_t max_context;
  float rms_norm_eps;
  const float* rope_frequencies; ///< [head_dim / 2] radians a position; read during make_weights only
  const void* region;            ///< the host's packed weights; read during make_weights only, by `copy` or locked
  const hflex_cuda_tensor* tensors;
  std::uint32_t tensor_count;
};

/// How a region comes to a device.
struct hflex_cuda_upload {
  std::uint32_t locked; ///< 1: it is page-locked (lock_host) and copied from where it lies; 0: through pinned buffers
  /// Copies within the host's memory, by as many threads as the program likes. Blocks, also until these bytes of the
  /// region are there: unless it is locked, nothing else may read it. Not 0: they never will be, and make_weights
  /// fails.
  int (*copy)(void* user, void* to, const void* from, std::uint64_t bytes);
  void* user;
};

struct hflex_cuda_options {
  std::uint32_t block_size;
  std::uint32_t blocks;
  std::uint32_t max_batched_tokens;
};

struct hflex_cuda_item {
  const std::int32_t* tokens;
  std::uint32_t token_count;
  std::uint32_t position;
  const std::uint32_t* table;
  std::uint32_t table_count; ///< entries that position + token_count needs
  std::uint32_t sample;      ///< 0 or 1
  float temperature;
  float top_p;
  std::uint32_t top_k;
  std::uint32_t output_index;
  std::uint64_t seed;
};

/// Called from the CUDA runtime's own thread in stream order: once per layer when the step asked for layers, then with
/// hflex_cuda_finished. Must not block and must not call CUDA.
constexpr std::uint32_t hflex_cuda_finished = 0xffffffffU;
using hflex_cuda_signal = void(void* user, std::uint32_t layer);

struct hflex_cuda_step {
  const hflex_cuda_item* items;
  std::uint32_t item_count;
  std::uint32_t wants_layers; ///< 0 or 1
  hflex_cuda_signal* signal;
  void* user;
};

/// What goes with the descriptor of weights on a device, to another process of this host or for another device.
struct hflex_cuda_share {
  unsigned char device[16]; ///< UUID of the device they are on
  std::uint64_t bytes;
  std::uint64_t checksum;
};

/// What a process on another host needs to receive weights: good for one receiver of a group, which begins when all of
/// it is there.
struct hflex_cuda_ticket {
  unsigned char id[128]; ///< NCCL's
  std::uint64_t bytes;
  std::uint64_t checksum;
  std::uint32_t rank;  ///< 0: who sends; 1 .. ranks - 1: each receiver
  std::uint32_t ranks; ///< at least 2
};

/// How long a call may wait for the other side.
struct hflex_cuda_patience {
  std::uint32_t ms;
  /// Asked now and then, `meeting` (1) while not all of a group are there; not 0: it is to give up now. May be null.
  int (*stopped)(void* user, std::uint32_t meeting);
  void* user;
};

struct hflex_cuda_fault {
  char words[256];
};

/// What a call came to. `failed`: the device or its context cannot go on.
enum hflex_cuda_status : std::int32_t {
  hflex_cuda_ok = 0,
  hflex_cuda_busy = 1,
  hflex_cuda_rejected = 2,
  hflex_cuda_failed = 3
};

struct hflex_cuda_weights; // opaque
struct hflex_cuda_context; // opaque

struct hflex_cuda_functions {
  /// Fills `out` with up to `capacity` devices and returns how many there are; -1 when CUDA cannot be used. Takes no
  /// memory of any.
  int (*devices)(hflex_cuda_device* out, int capacity, hflex_cuda_fault* fault);
  /// NCCL's version number (22809 = 2.28.9), 0 without NCCL.
  int (*nccl_version)();

  /// Copies weights to a device and unpacks them there. Blocks. Null when it fails. Contexts of the weights keep them.
  /// For f16 the program has made sure that all of them fit (gpu/model/f16_range.hpp).
  hflex_cuda_weights* (*make_weights)(const hflex_cuda_model* model, int device, hflex_cuda_element element,
      const hflex_cuda_upload* how, hflex_cuda_fault* fault);
  /// Page-locks memory that is mapped for reading, for all devices. Blocks. rejected: `device` cannot, or there is too
  /// much of it; nothing has changed then.
  hflex_cuda_status (*lock_host)(const void* memory, std::uint64_t bytes, int device, hflex_cuda_fault* fault);
  /// No make_weights may be reading it. `device`: of lock_host.
  void (*unlock_host)(const void* memory, int device);
  /// A descriptor of weights on a device, the caller's to close, and what goes with it; -1 where they cannot be shared.
  /// Whoever has adopted them may use them when this process has dropped them, or ended. Blocks.
  int (*share_weights)(const hflex_cuda_weights*, hflex_cuda_share* out, hflex_cuda_fault* fault);
  /// Weights that share_weights described, checked against their checksum: mapped where they lie when that is `device`,
  /// copied from device to device otherwise. The region of `model` is not read; `fd` stays the caller's. Blocks. Null
  /// when it fails, and then nothing has changed.
  hflex_cuda_weights* (*adopt_weights)(const hflex_cuda_model* model, int device, hflex_cuda_element element,
      const hflex_cuda_share* from, int fd, hflex_cuda_fault* fault);
  /// The sender's ticket of a group that receives these weights; the receivers' differ in their rank. rejected: built
  /// without NCCL.
  hflex_cuda_status (*make_ticket)(
      const hflex_cuda_weights*, std::uint32_t ranks, hflex_cuda_ticket* out, hflex_cuda_fault* fault);
  /// Sends weights to all who receive with tickets of that group. Blocks until they are there, or the patience ends:
  /// then nobody has them.
  hflex_cuda_status (*send_weights)(const hflex_cuda_weights*, const hflex_cuda_ticket* ticket,
      const hflex_cuda_patience* patience, hflex_cuda_fault* fault);
  /// The other side, as adopt_weights otherwise.
  hflex_cuda_weights* (*receive_weights)(const hflex_cuda_model* model, int device, hflex_cuda_element element,
      const hflex_cuda_ticket* ticket, const hflex_cuda_patience* patience, hflex_cuda_fault* fault);
  /// Memory of this process' own that they take; 0 when they are mapped.
  std::uint64_t (*weights_bytes)(const hflex_cuda_weights*);
  void (*drop_weights)(hflex_cuda_weights*);

  /// KV pool and work space. Null when it fails. The weights are dropped after the context.
  hflex_cuda_context* (*make_context)(
      const hflex_cuda_weights* weights, const hflex_cuda_options* options, hflex_cuda_fault* fault);
  /// KV pool, work space and staging.
  std::uint64_t (*context_bytes)(const hflex_cuda_context*);
  /// No step may be running.
  void (*drop_context)(hflex_cuda_context*);

  /// Queues the step's work and returns. One step at a time, launch, poll and collect by one thread. The step's arrays
  /// may go when it returns. Anything but ok: no signal comes any more, and nothing of the step runs.
  hflex_cuda_status (*launch)(hflex_cuda_context*, const hflex_cuda_step*, hflex_cuda_fault*);
  /// busy while the step runs; failed when the device gave up, and then `finished` may never be signalled.
  hflex_cuda_status (*poll)(hflex_cuda_context*, hflex_cuda_fault*);
  /// After `finished`: one token for each item that samples, in order (-1: its logits are not finite), and device time.
  hflex_cuda_status (*collect)(hflex_cuda_context*, std::int32_t* tokens, std::uint64_t* elapsed_ns, hflex_cuda_fault*);

  /// KV rows at `slots` (block * block_size + offset) of one layer to or from host memory [2][count][row bytes], K
  /// first. Blocks on a copy stream of its own. Any thread.
  hflex_cuda_status (*read_kv)(hflex_cuda_context*, std::uint32_t layer, const std::uint32_t* slots,
      std::uint32_t count, void* out, hflex_cuda_fault*);
  hflex_cuda_status (*write_kv)(hflex_cuda_context*, std::uint32_t layer, const std::uint32_t* slots,
      std::uint32_t count, const void* in, hflex_cuda_fault*);
};

/// The two symbols of the plug-in: the version is checked before anything else is called.
using hflex_cuda_abi_version_fn = std::uint32_t();
using hflex_cuda_functions_fn = const hflex_cuda_functions*();
}
// NOLINTEND(readability-identifier-naming)
