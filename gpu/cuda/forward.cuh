// The forward pass of a Llama-family model as a sequence of launches, after gpu/model/llama.cpp, its CPU twin. A
// `Stream` gives three things: launch(kernel, grid, threads, shared_bytes, arguments...), multiply(product) and
// layer_done(layer). CUDA's is in stream.cuh; the tests have one that emulates, so that the whole pass is proved
// without a GPU.
//
// The residual stream is f32, as on the CPU, and products add to it; everything between is T.
#pragma once
#include "gpu/cuda/kernels/decode_attention.cuh"
#include "gpu/cuda/kernels/prefill_attention.cuh"
#include "gpu/cuda/kernels/rows.cuh"
#include "gpu/cuda/kernels/sampling.cuh"
#include "gpu/cuda/step_layout.hpp"
#include <algorithm>
#include <cmath>
#include <vector>

namespace hflex::cuda {

struct model_shape {
  std::uint32_t hidden{}, intermediate{}, layers{}, heads{}, kv_heads{}, head_dim{}, vocab{};
  float eps{};
  std::uint32_t group() const { return heads / kv_heads; }
  std::uint32_t qkv_width() const { return (heads + 2 * kv_heads) * head_dim; }
};

/// Row-major W[N][K].
template <class T>
struct layer_weights {
  float* attn_norm{};
  T* qkv{};
  T* o{};
  float* mlp_norm{};
  T* gate_up{}; ///< [2 I][C]: gate, then up
  T* down{};
  float* qkv_bias{}; ///< null: none, as the next two
  float* q_norm{};
  float* k_norm{};
};

template <class T>
struct model_weights {
  std::vector<layer_weights<T>> layers;
  float* final_norm{};
  T* head{};
  T* embedding{}; ///< the head when they are tied
};

/// y[M][N] = x[M][K] W^T, of T; or added to f32 (`adds`); or f32 (`wide`). Buffers have room for padded_rows(M).
template <class T>
struct product {
  const T* w{};
  std::uint32_t n{};
  std::uint32_t k{};
  const T* x{};
  std::uint32_t rows{};
  void* y{};
  bool wide{};
  bool adds{};
};

/// Rows that a product really computes: few different shapes, and sizes that tensor cores like.
constexpr std::uint32_t padded_rows(std::uint32_t rows) {
  const std::uint32_t step = rows <= 256 ? 16 : rows <= 2048 ? 64 : 256;
  return (rows + step - 1) / step * step;
}

inline constexpr std::uint32_t mlp_rows = 2048;  ///< that go through the MLP at a time: its buffers are the widest
inline constexpr std::uint32_t logit_rows = 256; ///< whose logits exist at a time
inline constexpr std::uint32_t most_splits = 32;
static_assert(logit_rows >= largest_bucket);

/// Blocks of attention that keep the device busy; contexts are split until there are that many.
constexpr std::uint32_t wanted_blocks(std::uint32_t processors) { return 4 * processors; }

/// Query heads that a block of decode_attention takes.
constexpr std::uint32_t decode_heads(std::uint32_t group) { return group == 1 ? 1 : group <= 4 ? 4 : 8; }

/// Sizes of the buffers below, in elements.
struct work_sizes {
  std::size_t x, normed, qkv, attended, cos_sin, gate_up, activated, logits, partial, sampled;
  work_sizes(const model_shape& m, std::uint32_t max_rows, std::uint32_t processors) {
    const std::size_t rows = padded_rows(max_rows);
    const std::size_t block = padded_rows(std::min(max_rows, mlp_rows));
    const std::size_t chunks = (m.group() + decode_heads(m.group()) - 1) / decode_heads(m.group());
    x = normed = rows * m.hidden;
    qkv = rows * m.qkv_width();
    attended = rows * m.heads * m.head_dim;
    cos_sin = rows * m.head_dim;
    gate_up = block * 2 * m.intermediate;
    activated = block * m.intermediate;
    logits = std::size_t{padded_rows(std::min(max_rows, logit_rows))} * m.vocab;
    // rows * G * chunks * splits <= wanted blocks, or there is one split and no partial result.
    partial = wanted_blocks(processors) / (m.kv_heads * chunks) * m.heads * partial_floats(m.head_dim) + 1;
    sampled = max_rows;
    normed = std::max(normed, std::size_t{padded_rows(std::min(max_rows, logit_rows))} * m.hidden);
  }
};

template <class T>
struct work_space {
  float* x{};       ///< [M][C] residual stream
  T* normed{};      ///< [M][C]
  T* qkv{};         ///< [M][(H + 2 G) D]
  T* attended{};    ///< [M][H D]
  float* cos_sin{}; ///< [M][D]
  T* gate_up{};     ///< [mlp_rows][2 I]
  T* activated{};   ///< [mlp_rows][I]
  float* logits{};  ///< [logit_rows][V]
  float* partial{}; ///< of split contexts
  std::int32_t* sampled{};
  float* inverse_frequency{}; ///< [D / 2]
  T* kv{};                    ///< [layers][2][blocks + 1][block_size][G][D]
};

template <class T, class Stream>
class forward {
public:
  forward(const model_shape& model, const model_weights<T>& weights, const work_space<T>& work,
      const layout_rules& rules, std::uint32_t processors, Stream& stream)
      : m_(model), weights_(weights), work_(work), rules_(rules), processors_(processors), stream_(stream) {}

  /// Everything between the copy of the arrays to the device and the copy of the tokens from it.
  void run(const step_shape& shape, const step_arrays& in) {
    const grid_index rows{shape.rows, 1, 1};
    stream_.launch(embed<T>, rows, row_threads, 0, in.tokens, weights_.embedding, m_.hidden, work_.x);
    stream_.launch(rope_table<std::uint32_t>, rows, row_threads, 0, in.positions, work_.inverse_frequency,
        m_.head_dim / 2, work_.cos_sin);
    for (std::uint32_t layer = 0; layer < m_.layers; ++layer) run_layer(shape, in, layer);
    for (std::uint32_t first = 0; first < shape.samples; first += logit_rows)
      sample_rows(in, first, std::min(logit_rows, shape.samples - first));
  }

  /// First key of a layer; values follow after side_elements().
  T* keys(std::uint32_t layer) const { return work_.kv + std::size_t{layer} * 2 * side_elements(); }
  T* values(std::uint32_t layer) const { return keys(layer) + side_elements(); }

private:
  static constexpr std::size_t norm_shared = row_threads / warp_lanes * sizeof(float);

  std::size_t side_elements() const {
    return (std::size_t{rules_.blocks} + 1) * rules_.block_size * m_.kv_heads * m_.head_dim;
  }

  void normalize(std::uint32_t rows, const std::uint32_t* chosen, const float* weight) {
    stream_.launch(
        rms_norm<T>, {rows, 1, 1}, row_threads, norm_shared, work_.x, chosen, weight, m_.hidden, m_.eps, work_.normed);
  }

  void run_layer(const step_shape& shape, const step_arrays& in, std::uint32_t layer) {
    const layer_weights<T>& w = weights_.layers[layer];
    normalize(shape.rows, nullptr, w.attn_norm);
    stream_.multiply(product<T>{w.qkv, m_.qkv_width(), m_.hidden, work_.normed, shape.rows, work_.qkv, false, false});
    stream_.launch(rotate_and_store<T>, {shape.rows, 1, 1}, row_threads, 0, work_.qkv, work_.cos_sin, in.slots,
        m_.heads, m_.kv_heads, m_.head_dim, qkv_finish{w.qkv_bias, w.q_norm, w.k_norm, m_.eps}, keys(layer),
        values(layer));
    stream_.layer_done(layer);
    attend(shape, in, layer);
    stream_.multiply(
        product<T>{w.o, m_.hidden, m_.heads * m_.head_dim, work_.attended, shape.rows, work_.x, true, true});
    normalize(shape.rows, nullptr, w.mlp_norm);
    for (std::uint32_t first = 0; first < shape.rows; first += mlp_rows)
      run_mlp(w, first, std::min(mlp_rows, shape.rows - first));
  }

  void run_mlp(const layer_weights<T>& w, std::uint32_t first, std::uint32_t rows) {
    const T* x = work_.normed + std::size_t{first} * m_.hidden;
    float* y = work_.x + std::size_t{first} * m_.hidden;
    const std::uint32_t stripes = (m_.intermediate + row_threads * 8 - 1) / (row_threads * 8);
    stream_.multiply(product<T>{w.gate_up, 2 * m_.intermediate, m_.hidden, x, rows, work_.gate_up, false, false});
    stream_.launch(
        swiglu<T>, {stripes, rows, 1}, row_threads, 0, work_.gate_up, m_.intermediate, stripes, work_.activated);
    stream_.multiply(product<T>{w.down, m_.hidden, m_.intermediate, work_.activated, rows, y, true, true});
  }

  void sample_rows(const step_arrays& in, std::uint32_t first, std::uint32_t rows) {
    normalize(rows, in.sample_rows + first, weights_.final_norm);
    stream_.multiply(product<T>{weights_.head, m_.vocab, m_.hidden, work_.normed, rows, work_.logits, true, false});
    stream_.launch(sample<std::int32_t>, {rows, 1, 1}, sample_threads, sizeof(sample_shared), work_.logits, m_.vocab,
        m_.vocab, in.requests + first, work_.sampled + first);
  }

  void attend(const step_shape& shape, const step_arrays& in, std::uint32_t layer) {
    attention_view<T> a{work_.qkv, m_.qkv_width(), work_.attended, m_.heads * m_.head_dim, keys(layer), values(layer),
        in.tables, rules_.block_size, m_.kv_heads, m_.head_dim, m_.group(),
        1.0F / std::sqrt(static_cast<float>(m_.head_dim)), 1};
    if (shape.attend_rows > 0) attend_rows(a, shape.attend_rows, in.attend_rows);
    if constexpr (sizeof(T) == 2)
      if (shape.tiles > 0) attend_tiles(a, shape.tiles, in.tiles);
  }

  void attend_rows(attention_view<T>& a, std::uint32_t rows, const attend_row* at) {
    const std::uint32_t heads = decode_heads(m_.group());
    const std::uint32_t per_row = m_.kv_heads * ((m_.group() + heads - 1) / heads);
    a.splits = std::clamp(wanted_blocks(processors_) / (rows * per_row), 1U, most_splits);
    if (m_.head_dim <= 64)
      launch_decode<8>(a, rows, per_row, at);
    else if (m_.head_dim <= 128)
      launch_decode<16>(a, rows, per_row, at);
    else
      launch_decode<32>(a, rows, per_row, at);
    if (a.splits > 1) stream_.launch(combine_splits<T>, {rows, m_.heads, 1}, decode_threads, 0, a, at, work_.partial);
  }

  template <int Team>
  void launch_decode(const attention_view<T>& a, std::uint32_t rows, std::uint32_t per_row, const attend_row* at) {
    const grid_index grid{rows, per_row, a.splits};
    const auto with = [&](auto kernel, std::size_t shared) {
      stream_.launch(kernel, grid, decode_threads, shared, a, at, work_.partial);
    };
    if (m_.group() == 1)
      with(decode_attention<T, Team, 1>, decode_shared_bytes<1>(m_.head_dim));
    else if (m_.group() <= 4)
      with(decode_attention<T, Team, 4>, decode_shared_bytes<4>(m_.head_dim));
    else
      with(decode_attention<T, Team, 8>, decode_shared_bytes<8>(m_.head_dim));
  }

  void attend_tiles(const attention_view<T>& a, std::uint32_t tiles, const prefill_tile* at) {
    const auto with = [&](auto kernel, int dim, int tile) {
      stream_.launch(kernel, {tiles, m_.kv_heads, 1}, prefill_threads, prefill_shared_bytes(dim, tile), a, at);
    };
    if (m_.head_dim <= 32)
      with(prefill_attention<T, 32, 64>, 32, 64);
    else if (m_.head_dim <= 64)
      with(prefill_attention<T, 64, 64>, 64, 64);
    else if (m_.head_dim <= 96)
      with(prefill_attention<T, 96, 64>, 96, 64);
    else if (m_.head_dim <= 128)
      with(prefill_attention<T, 128, 64>, 128, 64);
    else
      with(prefill_attention<T, 256, 32>, 256, 32);
  }

  model_shape m_;
  const model_weights<T>& weights_;
  work_space<T> work_;
  layout_rules rules_;
  std::uint32_t processors_;
  Stream& stream_;
};

} // namespace hflex::cuda
