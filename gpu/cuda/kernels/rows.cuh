// Row-wise kernels: norm, rotation with the KV write, activation function, embedding, weight unpacking, KV hand-over.
// Each follows its CPU twin (gpu/kernels/rows.inl, gpu/model/llama.cpp) in f32 and rounds once, when it stores; f32
// results differ by the order of sums only (tests: 1e-5 relative), 16-bit ones by one unit in the last place.
//
// Shape letters: M rows (tokens), C width, H query heads, G key/value heads, D head_dim, I intermediate, V vocab.
// T is the element type of weights, activations and KV.
#pragma once
#include "gpu/cuda/kernels/numbers.cuh"
#include <cmath>

namespace hflex::cuda {

inline constexpr int row_threads = 256;

/// Sum over the block; every thread gets it. `scratch` has one float per warp and is free again after the next barrier.
template <int Threads>
HFLEX_DEVICE float block_sum(float value, float* scratch) {
  value = warp_sum(value);
  if (thread_index() % warp_lanes == 0) scratch[thread_index() / warp_lanes] = value;
  sync_threads();
  float total = 0.0F;
  for (int i = 0; i < Threads / static_cast<int>(warp_lanes); ++i) total += scratch[i];
  return total;
}

/// out[M][C] = x / sqrt(mean(x^2) + eps) * weight. `rows` picks the rows of x; null: all in order. Grid: M blocks;
/// shared memory: one float per warp.
template <class T>
HFLEX_GLOBAL(row_threads)
rms_norm(const float* x, const std::uint32_t* rows, const float* weight, std::uint32_t width, float eps, T* out) {
  const std::uint32_t m = block_position().x;
  const float* from = x + std::size_t{rows != nullptr ? rows[m] : m} * width;
  float squares = 0.0F;
  for (std::uint32_t i = thread_index(); i < width; i += row_threads) squares += from[i] * from[i];
  squares = block_sum<row_threads>(squares, reinterpret_cast<float*>(shared_bytes()));
  const float scale = 1.0F / sqrtf(squares / static_cast<float>(width) + eps);
  T* to_row = out + std::size_t{m} * width;
  for (std::uint32_t i = thread_index(); i < width; i += row_threads) to_row[i] = to<T>(from[i] * scale * weight[i]);
}

/// cos_sin[M][D]: D/2 cosines, then D/2 sines of position * inverse_frequency, as the CPU has them: the product in
/// single, the functions in double precision. Grid: M blocks.
template <class Position>
HFLEX_GLOBAL(row_threads)
rope_table(const Position* positions, const float* inverse_frequency, std::uint32_t half, float* cos_sin) {
  const std::uint32_t m = block_position().x;
  for (std::uint32_t i = thread_index(); i < half; i += row_threads) {
    const auto angle = static_cast<double>(static_cast<float>(positions[m]) * inverse_frequency[i]);
    cos_sin[std::size_t{m} * 2 * half + i] = static_cast<float>(cos(angle));
    cos_sin[std::size_t{m} * 2 * half + half + i] = static_cast<float>(sin(angle));
  }
}

/// What a family does to a row of q, k and v between the product and the rotation. Null: nothing.
struct qkv_finish {
  const float* bias{};   ///< [(H + 2 G) D], added
  const float* q_norm{}; ///< [D], every head of q is normalised with
  const float* k_norm{};
  float eps{};
};

/// What one element of a head is once its bias is added.
template <class T>
HFLEX_DEVICE float with_bias(const T* head, const float* bias, std::uint32_t i) {
  return to_float(head[i]) + (bias != nullptr ? bias[i] : 0.0F);
}

/// 1 / sqrt(mean(x^2) + eps) of a head; a whole warp calls it.
template <class T>
HFLEX_DEVICE float head_scale(const T* head, const float* bias, std::uint32_t head_dim, float eps) {
  float squares = 0.0F;
  for (std::uint32_t i = thread_index() % warp_lanes; i < head_dim; i += warp_lanes) {
    const float x = with_bias(head, bias, i);
    squares += x * x;
  }
  return 1.0F / sqrtf(warp_sum(squares) / static_cast<float>(head_dim) + eps);
}

/// Finishes q, k and v of each row, rotates q in place (element i pairs with i + D/2), and writes rotated k and v to
/// the row's slot of one layer's pool; rounds once, at the end, and what f16 cannot hold of q and k becomes NaN.
/// qkv[M][(H + 2 G) D]; slot = block * block_size + offset. A warp takes a head. Grid: M blocks.
template <class T>
HFLEX_GLOBAL(row_threads)
rotate_and_store(T* qkv, const float* cos_sin, const std::uint32_t* slots, std::uint32_t heads, std::uint32_t kv_heads,
    std::uint32_t head_dim, qkv_finish finish, T* keys, T* values) {
  const std::uint32_t m = block_position().x;
  const std::uint32_t half = head_dim / 2;
  const std::uint32_t kv_width = kv_heads * head_dim;
  T* row = qkv + std::size_t{m} * (heads + 2 * kv_heads) * head_dim;
  const float* cosines = cos_sin + std::size_t{m} * head_dim;
  const std::size_t slot = std::size_t{slots[m]} * kv_width;
  for (std::uint32_t head = thread_index() / warp_lanes; head < heads + kv_heads; head += row_threads / warp_lanes) {
    T* from = row + head * head_dim;
    const float* bias = finish.bias != nullptr ? finish.bias + head * head_dim : nullptr;
    const float* norm = head < heads ? finish.q_norm : finish.k_norm;
    const float scale = norm != nullptr ? head_scale(from, bias, head_dim, finish.eps) : 1.0F;
    T* at = head < heads ? from : keys + slot + (head - heads) * head_dim;
    // A pair is read and written by one lane: nobody waits.
    for (std::uint32_t i = thread_index() % warp_lanes; i < half; i += warp_lanes) {
      float low = with_bias(from, bias, i);
      float high = with_bias(from, bias, half + i);
      if (norm != nullptr) {
        low = low * scale * norm[i];
        high = high * scale * norm[half + i];
      }
      at[i] = to_or_nan<T>(low * cosines[i] - high * cosines[half + i]);
      at[half + i] = to_or_nan<T>(high * cosines[i] + low * cosines[half + i]);
    }
  }
  const std::uint32_t first = (heads + kv_heads) * head_dim;
  const float* bias = finish.bias != nullptr ? finish.bias + first : nullptr;
  for (std::uint32_t i = thread_index(); i < kv_width; i += row_threads)
    values[slot + i] = bias != nullptr ? to<T>(with_bias(row + first, bias, i)) : row[first + i];
}

HFLEX_DEVICE float swiglu_of(float gate, float up) { return gate / (1.0F + expf(-gate)) * up; }

/// out[M][I] = silu(gate) * up of gate_up[M][2 I]. Grid: (any, M) blocks.
template <class T>
HFLEX_GLOBAL(row_threads)
swiglu(const T* gate_up, std::uint32_t width, std::uint32_t stripes, T* out) {
  const grid_index at = block_position();
  const T* gate = gate_up + std::size_t{at.y} * 2 * width;
  const T* up = gate + width;
  T* to_row = out + std::size_t{at.y} * width;
  const std::uint32_t first = at.x * row_threads + thread_index();
  if (width % 8 == 0) { // rows are 16-byte aligned then
    for (std::uint32_t i = first * 8; i < width; i += stripes * row_threads * 8) {
      float g[8];
      float u[8];
      load8(gate + i, g);
      load8(up + i, u);
      HFLEX_UNROLLED for (int j = 0; j < 8; ++j) g[j] = swiglu_of(g[j], u[j]);
      store8(to_row + i, g);
    }
    return;
  }
  for (std::uint32_t i = first; i < width; i += stripes * row_threads)
    to_row[i] = to<T>(swiglu_of(to_float(gate[i]), to_float(up[i])));
}

/// x[M][C] = embedding[token]. Grid: M blocks.
template <class T>
HFLEX_GLOBAL(row_threads)
embed(const std::int32_t* tokens, const T* embedding, std::uint32_t width, float* x) {
  const std::uint32_t m = block_position().x;
  const T* from = embedding + static_cast<std::size_t>(tokens[m]) * width;
  for (std::uint32_t i = thread_index(); i < width; i += row_threads) x[std::size_t{m} * width + i] = to_float(from[i]);
}

/// Rows of a matrix that unpack takes: [first, first + count) of the packed one; `first` is a multiple of 64.
struct unpack_rows {
  std::uint32_t first{};
  std::uint32_t count{};
};
inline constexpr std::uint32_t unpack_pairs = 32; ///< input pairs of one block
inline constexpr std::uint32_t unpack_columns = 64;
/// Shared words of one block: a row more than the tile is wide, so that reading across it meets no bank twice.
inline constexpr std::uint32_t unpack_shared_words = unpack_pairs * (unpack_columns + 1);

/// bf16 panels P[ceil(N/64)][ceil(K/2)][64][2] (gpu/kernels/kernels.hpp) become out[count][K] row by row. Grid: (panels
/// of the rows, ceil(pairs / 32)).
template <class T>
HFLEX_GLOBAL(row_threads)
unpack(const std::uint32_t* packed, std::uint32_t k, unpack_rows rows, T* out) {
  const grid_index at = block_position();
  auto* tile = reinterpret_cast<std::uint32_t*>(shared_bytes());
  const std::uint32_t pairs = (k + 1) / 2;
  const std::uint32_t begin = at.y * unpack_pairs;
  const std::uint32_t* panel = packed + (std::size_t{rows.first / unpack_columns} + at.x) * pairs * unpack_columns;
  for (std::uint32_t i = thread_index(); i < unpack_pairs * unpack_columns; i += row_threads) {
    const std::uint32_t pair = begin + i / unpack_columns;
    if (pair < pairs)
      tile[i / unpack_columns * (unpack_columns + 1) + i % unpack_columns] =
          panel[std::size_t{pair} * unpack_columns + i % unpack_columns];
  }
  sync_threads();
  for (std::uint32_t i = thread_index(); i < unpack_pairs * unpack_columns * 2; i += row_threads) {
    const std::uint32_t column = i / (unpack_pairs * 2);
    const std::uint32_t row = at.x * unpack_columns + column;
    const std::uint32_t input = begin * 2 + i % (unpack_pairs * 2);
    if (row >= rows.count || input >= k) continue;
    const std::uint32_t word = tile[i % (unpack_pairs * 2) / 2 * (unpack_columns + 1) + column];
    const bf16 value{static_cast<std::uint16_t>(input % 2 != 0 ? word >> 16U : word & 0xffffU)};
    out[std::size_t{row} * k + input] = to<T>(to_float(value));
  }
}

/// Rows of bf16 (an embedding that is no head) become T. Grid: any number of blocks of row_threads.
template <class T>
HFLEX_GLOBAL(row_threads)
convert(const bf16* from, std::uint64_t count, std::uint32_t blocks, T* out) {
  for (std::uint64_t i = std::uint64_t{block_position().x} * row_threads + thread_index(); i < count;
       i += std::uint64_t{blocks} * row_threads)
    out[i] = to<T>(to_float(from[i]));
}

/// KV rows between one layer's pool and a buffer [2][count][row_quads], K first. Grid: (count, 2) blocks.
template <bool Write>
HFLEX_GLOBAL(row_threads)
move_kv(
    quad* keys, quad* values, const std::uint32_t* slots, std::uint32_t count, std::uint32_t row_quads, quad* buffer) {
  const grid_index at = block_position();
  quad* pool = (at.y == 0 ? keys : values) + std::size_t{slots[at.x]} * row_quads;
  quad* row = buffer + (std::size_t{at.y} * count + at.x) * row_quads;
  for (std::uint32_t i = thread_index(); i < row_quads; i += row_threads) {
    if constexpr (Write)
      pool[i] = row[i];
    else
      row[i] = pool[i];
  }
}

} // namespace hflex::cuda
