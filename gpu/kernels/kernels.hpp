// The host kernels: what one thread does to rows and panels. llama.cpp cuts the work up and calls them from pool
// threads; they neither allocate nor synchronise. One `kernel_set` per (instruction set, compute type), picked once per
// context.
//
// Batch invariance: the value of each output element is a function of its own inputs only. Every kernel reduces in an
// order that depends on the element's own index or position, never on how many rows are in the call, how work is cut
// up, or on the KV block size. Two kernel sets may differ in the last bits; one set never differs from itself.
//
// Shape letters: M rows (tokens), K inputs, N outputs, D head_dim. Widths of row buffers are padded to `row_padding`
// with zeros, so that kernels have no tails.
#pragma once
#include "actors/common/result.hpp"
#include "gpu/device.hpp"
#include "gpu/host_device.hpp"
#include "gpu/kernels/kv_layout.hpp"
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace hflex::gpu {

/// Output columns in one panel of a packed matrix.
inline constexpr std::uint32_t panel_columns = 64;
/// Widths of activation rows are rounded up to this many elements.
inline constexpr std::uint32_t row_padding = 64;
/// Positions that attention reduces at a time, counted from position 0 of the sequence.
inline constexpr std::uint32_t attention_tile = 64;
/// Query rows (tokens x heads of a group) that attention aims to take at a time.
inline constexpr std::uint32_t attention_rows = 32;
/// Kernels keep one head on the stack.
inline constexpr std::uint32_t max_head_dim = 512;

constexpr std::uint32_t round_up(std::uint32_t value, std::uint32_t to) { return (value + to - 1) / to * to; }
constexpr std::uint32_t padded_width(std::uint32_t width) { return round_up(width, row_padding); }

/// W[N][K] as bf16 panels P[ceil(N/64)][ceil(K/2)][64][2]: 64 output columns by pairs of inputs; padding is zero.
struct packed_matrix {
  const std::uint16_t* data{};
  std::uint32_t n{};
  std::uint32_t k{};

  std::uint32_t panels() const { return (n + panel_columns - 1) / panel_columns; }
  std::uint32_t pairs() const { return (k + 1) / 2; }
  std::uint64_t panel_elements() const { return std::uint64_t{pairs()} * panel_columns * 2; }
  const std::uint16_t* panel(std::uint32_t index) const { return data + index * panel_elements(); }
};

/// y[M][N] (+)= x[M][K] * W^T. x: activation rows; y: f32 rows of at least panels() * 64 columns.
struct matmul_args {
  const void* x{};
  std::size_t x_stride{}; ///< elements
  packed_matrix w;
  float* y{};
  std::size_t y_stride{};
  bool accumulate{false}; ///< y += x W^T
};

/// Causal attention of one sequence's tokens over its paged keys and values; one key/value head per call.
struct attention_args {
  const float* q{}; ///< row of the first token; query head h at h * head_dim; rotated, not scaled
  std::size_t q_stride{};
  void* out{}; ///< activation row of the first token, laid out like q
  std::size_t out_stride{};
  const void* keys{}; ///< one layer's pool: blocks as kv_layout.hpp has them
  const void* values{};
  const block_index* block_table{};
  std::uint32_t block_size{}; ///< a multiple of kv_strip
  std::uint32_t kv_heads{};
  std::uint32_t head_dim{}; ///< a multiple of 16
  std::uint32_t group{};    ///< query heads per key/value head
  float scale{};            ///< 1 / sqrt(head_dim)
};

/// One token's keys and values on their way into a block.
struct kv_store_args {
  const float* k{}; ///< [kv_heads][head_dim], rotated
  const float* v{};
  void* keys{}; ///< of the block, in one layer
  void* values{};
  std::uint32_t offset{}; ///< of the token in the block
  std::uint32_t block_size{};
  std::uint32_t kv_heads{};
  std::uint32_t head_dim{};
};

struct kernel_set {
  std::string_view isa;
  compute_type compute{};
  std::uint32_t activation_bytes{}; ///< one element of the rows that matmul reads: 4 (f32, maybe rounded) or 2 (bf16)
  std::uint32_t kv_bytes{};         ///< one element of the KV pool

  /// Columns of one panel, rows [row_begin, row_end).
  void (*matmul)(const matmul_args& args, std::uint32_t panel, std::uint32_t row_begin, std::uint32_t row_end);
  /// out = x / sqrt(mean(x^2) + eps) * weight; x, weight and out have padded_width(width) elements.
  void (*rmsnorm)(const float* x, const float* weight, std::uint32_t width, float eps, void* out);
  /// out = silu(gate) * up over padded_width(width) elements.
  void (*swiglu)(const float* gate, const float* up, std::uint32_t width, void* out);
  /// Rotates `heads` heads in place: element i pairs with i + D/2. cos_sin: D cosines, then D sines with the sign of
  /// their term (minus in the first half).
  void (*rope)(float* x, std::uint32_t heads, std::uint32_t head_dim, const float* cos_sin);
  /// Writes one token's keys and values. Different tokens of a strip may be written by different threads.
  void (*store_kv)(const kv_store_args& args);
  /// `rounds` rounds of multiply-adds that wait for nothing but the arithmetic units; returns the floating-point
  /// operations of one round. The ceiling that benchmarks measure products against.
  std::uint64_t (*spin)(std::uint64_t rounds, float* out);
  /// The sum of `count` (a multiple of 1024) values, as fast as memory gives them: the other ceiling.
  float (*read)(const float* values, std::size_t count);
  /// Tokens at positions [position, position + tokens), tokens <= attention_tokens(group). scratch:
  /// attention_scratch_bytes.
  void (*attention)(const attention_args& args, std::uint32_t kv_head, std::uint32_t position, std::uint32_t tokens,
      std::byte* scratch);
  /// x += y over padded_width(width) elements.
  void (*add)(float* x, const float* y, std::uint32_t width);
  /// Normalises `heads` heads in place, each by itself, as rmsnorm does; `weight` has D elements.
  void (*norm_heads)(float* x, const float* weight, std::uint32_t heads, std::uint32_t head_dim, float eps);
};

/// Tokens that one attention call takes at most.
constexpr std::uint32_t attention_tokens(std::uint32_t group) {
  return group < attention_rows ? attention_rows / group : 1;
}
/// Scratch memory of one thread for attention calls; 64-byte aligned.
std::size_t attention_scratch_bytes(std::uint32_t group, std::uint32_t head_dim);

/// Instruction sets this CPU can run, best first; "portable" is always the last.
std::vector<std::string_view> available_isas();
/// `isa` empty picks the best. errc::reject when the name is unknown or this CPU lacks it.
result<kernel_set> select_kernels(std::string_view isa, compute_type compute);

} // namespace hflex::gpu
