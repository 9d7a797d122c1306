// Causal attention of a chunk of tokens over paged keys and values on tensor cores: FlashAttention-2 (Dao, 2023) with
// 16-bit elements, f32 sums and softmax. The heads of a group share the keys: a tile's 64 rows are tokens by heads, as
// on the CPU (gpu/kernels/attention.inl, its twin; tolerance: two roundings of T). f32 takes decode_attention instead.
//
// Keys arrive while the previous tile's values are multiplied, values while the scores are computed.
//
// Shape letters: H query heads, G key/value heads, D head_dim (a multiple of 16), Dim: D rounded up to an instance.
#pragma once
#include "gpu/cuda/kernels/decode_attention.cuh"

namespace hflex::cuda {

inline constexpr int prefill_threads = 128;
inline constexpr std::uint32_t prefill_rows = 64; ///< of a tile: 16 for each warp

/// Tokens [position, position + tokens) of one item; tokens * group <= prefill_rows.
struct prefill_tile {
  std::uint32_t row{};      ///< of the first token in q and out
  std::uint32_t position{}; ///< of that token in its sequence
  std::uint32_t tokens{};
  std::uint32_t table{}; ///< first entry of the item's block table
};

/// A row of shared memory is 16 bytes longer than it needs to be: the eight rows of a matrix then lie in different
/// banks.
constexpr int prefill_stride(int dim) { return dim + 8; }
constexpr std::size_t prefill_shared_bytes(int dim, int tile) {
  return std::size_t{2} * static_cast<std::size_t>(tile) * static_cast<std::size_t>(prefill_stride(dim)) * 2;
}

/// Starts bringing positions [base, base + Tile) of a pool to shared memory; beyond `end` and beyond D come zeros.
template <class T, int Dim, int Tile>
HFLEX_DEVICE void load_kv_tile(const attention_view<T>& a, const T* pool, const prefill_tile& tile,
    std::uint32_t kv_head, std::uint32_t base, std::uint32_t end, T* shared) {
  constexpr int pieces = Dim / 8;
  for (int i = static_cast<int>(thread_index()); i < Tile * pieces; i += prefill_threads) {
    const std::uint32_t position = base + static_cast<std::uint32_t>(i / pieces);
    const std::uint32_t column = static_cast<std::uint32_t>(i % pieces) * 8;
    T* at = shared + i / pieces * prefill_stride(Dim) + column;
    if (position < end && column < a.head_dim)
      copy_async(at, pool + a.at(tile.table, position, kv_head) + column);
    else
      store_quad(at, quad{});
  }
  copy_commit();
}

/// The query rows of a warp as fragments: 16 rows by Dim.
template <class T, int Dim>
HFLEX_DEVICE void load_queries(const attention_view<T>& a, const prefill_tile& tile, std::uint32_t kv_head,
    std::uint32_t first_row, std::uint32_t (&q)[Dim / 16][4]) {
  const std::uint32_t column = thread_index() % 4 * 2;
  HFLEX_UNROLLED for (int half = 0; half < 2; ++half) {
    const std::uint32_t r = first_row + half * 8;
    const T* from = a.q + std::size_t{tile.row + r / a.group} * a.q_stride +
                    (kv_head * a.group + r % a.group) * a.head_dim + column;
    HFLEX_UNROLLED for (int k = 0; k < Dim / 16; ++k) {
      const bool inside = r < tile.tokens * a.group && static_cast<std::uint32_t>(k * 16) < a.head_dim;
      HFLEX_UNROLLED for (int side = 0; side < 2; ++side) {
        const T* at = from + k * 16 + side * 8;
        q[k][half + side * 2] = inside ? std::uint32_t{at[0].bits} | std::uint32_t{at[1].bits} << 16U : 0U;
      }
    }
  }
}

/// scores[16][Tile] = q K^T
template <class T, int Dim, int Tile>
HFLEX_DEVICE void score_tile(const T* keys, const std::uint32_t (&q)[Dim / 16][4], float (&scores)[Tile / 8][4]) {
  const unsigned lane = thread_index() % warp_lanes;
  const T* mine = keys + static_cast<int>(lane / 16 * 8 + lane % 8) * prefill_stride(Dim) + lane / 8 % 2 * 8;
  HFLEX_UNROLLED for (int n = 0; n < Tile / 8; ++n) HFLEX_UNROLLED for (int i = 0; i < 4; ++i) scores[n][i] = 0.0F;
  HFLEX_UNROLLED for (int k = 0; k < Dim / 16; ++k) {
    HFLEX_UNROLLED for (int n = 0; n < Tile / 16; ++n) {
      std::uint32_t b[4];
      load_matrices<false>(mine + n * 16 * prefill_stride(Dim) + k * 16, b);
      multiply_add<T>(scores[2 * n], q[k], b[0], b[1]);
      multiply_add<T>(scores[2 * n + 1], q[k], b[2], b[3]);
    }
  }
}

/// sums[16][Dim] += weights V
template <class T, int Dim, int Tile>
HFLEX_DEVICE void add_values(const T* values, const float (&weights)[Tile / 8][4], float (&sums)[Dim / 8][4]) {
  const unsigned lane = thread_index() % warp_lanes;
  const T* mine = values + static_cast<int>(lane % 16) * prefill_stride(Dim) + lane / 16 * 8;
  HFLEX_UNROLLED for (int k = 0; k < Tile / 16; ++k) {
    const float(&low)[4] = weights[2 * k];
    const float(&high)[4] = weights[2 * k + 1];
    const std::uint32_t a[4] = {
        pack2<T>(low[0], low[1]), pack2<T>(low[2], low[3]), pack2<T>(high[0], high[1]), pack2<T>(high[2], high[3])};
    HFLEX_UNROLLED for (int n = 0; n < Dim / 16; ++n) {
      std::uint32_t b[4];
      load_matrices<true>(mine + k * 16 * prefill_stride(Dim) + n * 16, b);
      multiply_add<T>(sums[2 * n], a, b[0], b[1]);
      multiply_add<T>(sums[2 * n + 1], a, b[2], b[3]);
    }
  }
}

/// One row of a lane's fragments (half 0: row lane / 4, half 1: eight below): scores become weights.
template <int Dim, int Tile>
HFLEX_DEVICE void softmax_row(int half, std::uint32_t base, std::uint32_t last, float scale,
    float (&scores)[Tile / 8][4], float (&sums)[Dim / 8][4], float& maximum, float& total) {
  const std::uint32_t column = base + thread_index() % 4 * 2;
  float highest = maximum;
  HFLEX_UNROLLED for (int n = 0; n < Tile / 8; ++n) {
    HFLEX_UNROLLED for (int i = 0; i < 2; ++i) {
      float& score = scores[n][half * 2 + i];
      score = column + n * 8 + i <= last ? score * scale : -FLT_MAX;
      highest = fmaxf(highest, score);
    }
  }
  highest = fmaxf(highest, shuffle_xor(highest, 1)); // four lanes hold a row
  highest = fmaxf(highest, shuffle_xor(highest, 2));
  const float rescale = exp2f(maximum - highest);
  maximum = highest;
  total *= rescale;
  HFLEX_UNROLLED for (int n = 0; n < Dim / 8; ++n) {
    sums[n][half * 2] *= rescale;
    sums[n][half * 2 + 1] *= rescale;
  }
  HFLEX_UNROLLED for (int n = 0; n < Tile / 8; ++n) {
    HFLEX_UNROLLED for (int i = 0; i < 2; ++i) {
      float& score = scores[n][half * 2 + i];
      score = column + n * 8 + i <= last ? exp2f(score - highest) : 0.0F;
      total += score;
    }
  }
}

/// Grid: (tiles, G); shared memory: prefill_shared_bytes. Position 0 is in the first tile of every row, so no row is
/// without a maximum; rows that pad the 64 see what the last one sees and are not stored.
template <class T, int Dim, int Tile>
HFLEX_GLOBAL(prefill_threads)
prefill_attention(attention_view<T> a, const prefill_tile* tiles) {
  const prefill_tile tile = tiles[block_position().x];
  const std::uint32_t kv_head = block_position().y;
  const std::uint32_t end = tile.position + tile.tokens;
  const std::uint32_t first_row = thread_index() / warp_lanes * 16 + thread_index() % warp_lanes / 4;
  T* keys = reinterpret_cast<T*>(shared_bytes());
  T* values = keys + Tile * prefill_stride(Dim);

  load_kv_tile<T, Dim, Tile>(a, a.keys, tile, kv_head, 0, end, keys);
  std::uint32_t q[Dim / 16][4];
  load_queries<T, Dim>(a, tile, kv_head, first_row, q);
  float sums[Dim / 8][4] = {};
  float maximum[2] = {-FLT_MAX, -FLT_MAX};
  float total[2] = {};
  for (std::uint32_t base = 0; base < end; base += Tile) {
    copy_wait<0>();
    sync_threads(); // the keys are here, and all are done with the values of the last turn
    load_kv_tile<T, Dim, Tile>(a, a.values, tile, kv_head, base, end, values);
    float scores[Tile / 8][4];
    score_tile<T, Dim, Tile>(keys, q, scores);
    copy_wait<0>();
    sync_threads(); // the values are here, and all are done with the keys
    if (base + Tile < end) load_kv_tile<T, Dim, Tile>(a, a.keys, tile, kv_head, base + Tile, end, keys);
    HFLEX_UNROLLED for (int half = 0; half < 2; ++half) {
      const std::uint32_t token = (first_row + half * 8) / a.group;
      const std::uint32_t last = tile.position + (token < tile.tokens ? token : tile.tokens - 1);
      softmax_row<Dim, Tile>(half, base, last, a.scale * log2_e, scores, sums, maximum[half], total[half]);
    }
    add_values<T, Dim, Tile>(values, scores, sums);
  }
  HFLEX_UNROLLED for (int half = 0; half < 2; ++half) { // four lanes hold a row
    total[half] += shuffle_xor(total[half], 1);
    total[half] += shuffle_xor(total[half], 2);
  }
  HFLEX_UNROLLED for (int half = 0; half < 2; ++half) {
    const std::uint32_t r = first_row + half * 8;
    if (r >= tile.tokens * a.group) continue;
    T* out = a.out + std::size_t{tile.row + r / a.group} * a.out_stride +
             (kv_head * a.group + r % a.group) * a.head_dim + thread_index() % 4 * 2;
    HFLEX_UNROLLED for (int n = 0; n < Dim / 8; ++n) {
      if (static_cast<std::uint32_t>(n * 8) >= a.head_dim) break;
      out[n * 8] = to<T>(sums[n][half * 2] / total[half]);
      out[n * 8 + 1] = to<T>(sums[n][half * 2 + 1] / total[half]);
    }
  }
}

} // namespace hflex::cuda
