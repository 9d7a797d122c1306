// Attention of single tokens over their paged keys and values: flash decoding (Dao et al., 2023), with the context
// split between blocks and an online softmax in each. Also the f32 path of prefill, where every token is such a row.
//
// A team of lanes holds one KV row (8 elements a lane), read once for all the query heads of its group. Teams take four
// positions at a time, and are merged at the end: lanes, warps, and by combine_splits the splits of the context.
// CPU twin: gpu/kernels/attention.inl; tolerance 2e-5 (f32), one rounding of T beyond that else.
//
// Shape letters: H query heads, G key/value heads, D head_dim (a multiple of 16, at most 256), S splits.
#pragma once
#include "gpu/cuda/kernels/numbers.cuh"
#include <cfloat>
#include <cmath>

namespace hflex::cuda {

/// What both attention kernels read. Pools are one layer's [blocks][block_size][G][D].
template <class T>
struct attention_view {
  const T* q{}; ///< [rows][q_stride], query head h at h * D; rotated, not scaled
  std::uint32_t q_stride{};
  T* out{}; ///< [rows][out_stride], laid out like q
  std::uint32_t out_stride{};
  const T* keys{};
  const T* values{};
  const std::uint32_t* tables{}; ///< the items' block tables, one after the other
  std::uint32_t block_size{};
  std::uint32_t kv_heads{};
  std::uint32_t head_dim{};
  std::uint32_t group{};   ///< query heads per key/value head
  float scale{};           ///< 1 / sqrt(D)
  std::uint32_t splits{1}; ///< of the context, decode only

  /// Element of the first key (or value) of `kv_head` at a position of the sequence whose table begins at `table`.
  HFLEX_DEVICE std::size_t at(std::uint32_t table, std::uint32_t position, std::uint32_t kv_head) const {
    const std::size_t block = tables[table + position / block_size];
    return ((block * block_size + position % block_size) * kv_heads + kv_head) * head_dim;
  }
};

/// One row of the scalar path.
struct attend_row {
  std::uint32_t row{};      ///< of q and out
  std::uint32_t position{}; ///< sees [0, position]
  std::uint32_t table{};    ///< first entry of its table
};

inline constexpr float log2_e = 1.44269504F;
inline constexpr int decode_threads = 128;
inline constexpr int decode_unroll = 4; ///< positions a team has in flight

/// Floats of one (row, head, split) in the partial results: D sums, then maximum and total.
constexpr std::uint32_t partial_floats(std::uint32_t head_dim) { return head_dim + 2; }
template <int Heads>
constexpr std::size_t decode_shared_bytes(std::uint32_t head_dim) {
  return std::size_t{decode_threads / 32} * Heads * partial_floats(head_dim) * sizeof(float);
}

/// Softmax so far of one head: exponents are base 2, and `maximum` starts so low that nothing is left of it.
struct running_softmax {
  float maximum{-FLT_MAX};
  float total{0.0F};
  float sums[8]{};

  HFLEX_DEVICE void merge(float other_maximum, float other_total, const float (&other)[8]) {
    const float highest = fmaxf(maximum, other_maximum);
    const float mine = exp2f(maximum - highest);
    const float theirs = exp2f(other_maximum - highest);
    maximum = highest;
    total = total * mine + other_total * theirs;
    HFLEX_UNROLLED for (int i = 0; i < 8; ++i) sums[i] = sums[i] * mine + other[i] * theirs;
  }
};

/// Merges what the teams of a warp hold; every team ends with the same.
template <int Team>
HFLEX_DEVICE void merge_teams(running_softmax& state) {
  for (unsigned mask = Team; mask < warp_lanes; mask *= 2) {
    const float maximum = shuffle_xor(state.maximum, mask);
    const float total = shuffle_xor(state.total, mask);
    float sums[8];
    HFLEX_UNROLLED for (int i = 0; i < 8; ++i) sums[i] = shuffle_xor(state.sums[i], mask);
    state.merge(maximum, total, sums);
  }
}

/// Four positions at once, `first` on: scores, then one rescaling, then the values.
template <class T, int Team, int Heads>
HFLEX_DEVICE void take_positions(const attention_view<T>& a, const attend_row& r, std::uint32_t kv_head,
    std::uint32_t first, std::uint32_t end, std::uint32_t column, const float (&q)[Heads][8],
    running_softmax (&state)[Heads]) {
  float scores[decode_unroll][Heads];
  const bool inside = column < a.head_dim;
  HFLEX_UNROLLED for (int u = 0; u < decode_unroll; ++u) {
    float key[8] = {};
    if (inside && first + u < end) load8(a.keys + a.at(r.table, first + u, kv_head) + column, key);
    HFLEX_UNROLLED for (int h = 0; h < Heads; ++h) {
      float dot = 0.0F;
      HFLEX_UNROLLED for (int i = 0; i < 8; ++i) dot += q[h][i] * key[i];
      for (unsigned mask = Team / 2; mask > 0; mask /= 2) dot += shuffle_xor(dot, mask);
      scores[u][h] = first + u < end ? dot : -FLT_MAX;
    }
  }
  if (first >= end) return; // after the last exchange: lanes of a warp may part here
  HFLEX_UNROLLED for (int h = 0; h < Heads; ++h) {
    float highest = state[h].maximum;
    HFLEX_UNROLLED for (int u = 0; u < decode_unroll; ++u) highest = fmaxf(highest, scores[u][h]);
    const float rescale = exp2f(state[h].maximum - highest);
    state[h].maximum = highest;
    state[h].total *= rescale;
    HFLEX_UNROLLED for (int i = 0; i < 8; ++i) state[h].sums[i] *= rescale;
    HFLEX_UNROLLED for (int u = 0; u < decode_unroll; ++u) {
      scores[u][h] = first + u < end ? exp2f(scores[u][h] - highest) : 0.0F;
      state[h].total += scores[u][h];
    }
  }
  if (!inside) return;
  HFLEX_UNROLLED for (int u = 0; u < decode_unroll; ++u) {
    if (first + u >= end) break;
    float value[8];
    load8(a.values + a.at(r.table, first + u, kv_head) + column, value);
    HFLEX_UNROLLED for (int h = 0; h < Heads; ++h) HFLEX_UNROLLED for (int i = 0; i < 8; ++i) state[h].sums[i] +=
        scores[u][h] * value[i];
  }
}

/// Grid: (rows, G * ceil(group / Heads), S); Team * 8 >= D. With one split the result goes to a.out, else to
/// partial[rows][H][S][D + 2].
template <class T, int Team, int Heads>
HFLEX_GLOBAL(decode_threads)
decode_attention(attention_view<T> a, const attend_row* rows, float* partial) {
  const grid_index at = block_position();
  const std::uint32_t chunks = (a.group + Heads - 1) / Heads;
  const std::uint32_t kv_head = at.y / chunks;
  const std::uint32_t first_head = at.y % chunks * Heads;
  const std::uint32_t heads = a.group - first_head < Heads ? a.group - first_head : Heads;
  const attend_row r = rows[at.x];
  const std::uint32_t column = thread_index() % Team * 8;

  float q[Heads][8] = {};
  const T* query = a.q + std::size_t{r.row} * a.q_stride + (kv_head * a.group + first_head) * a.head_dim;
  HFLEX_UNROLLED for (int h = 0; h < Heads; ++h) {
    if (static_cast<std::uint32_t>(h) >= heads || column >= a.head_dim) continue;
    load8(query + h * a.head_dim + column, q[h]);
    HFLEX_UNROLLED for (int i = 0; i < 8; ++i) q[h][i] *= a.scale * log2_e;
  }

  running_softmax state[Heads];
  constexpr std::uint32_t stride = decode_threads / Team * decode_unroll;
  const std::uint32_t share = (r.position + a.splits) / a.splits; // ceil((position + 1) / splits)
  const std::uint32_t begin = at.z * share;
  const std::uint32_t end = begin + share < r.position + 1 ? begin + share : r.position + 1;
  for (std::uint32_t base = begin; base < end; base += stride)
    take_positions<T, Team, Heads>(a, r, kv_head, base + thread_index() / Team * decode_unroll, end, column, q, state);

  // One team of each warp puts its result into shared memory; then the block merges the warps.
  auto* shared = reinterpret_cast<float*>(shared_bytes());
  const std::uint32_t width = partial_floats(a.head_dim);
  constexpr int warps = decode_threads / static_cast<int>(warp_lanes);
  HFLEX_UNROLLED for (int h = 0; h < Heads; ++h) {
    merge_teams<Team>(state[h]);
    if (thread_index() % warp_lanes >= Team) continue;
    float* mine = shared + (thread_index() / warp_lanes * Heads + h) * width;
    if (column < a.head_dim) HFLEX_UNROLLED for (int i = 0; i < 8; ++i) mine[column + i] = state[h].sums[i];
    if (column == 0) {
      mine[a.head_dim] = state[h].maximum;
      mine[a.head_dim + 1] = state[h].total;
    }
  }
  sync_threads();
  for (std::uint32_t i = thread_index(); i < heads * a.head_dim; i += decode_threads) {
    const std::uint32_t h = i / a.head_dim;
    const std::uint32_t d = i % a.head_dim;
    const float* of_head = shared + h * width;
    float highest = -FLT_MAX;
    for (int w = 0; w < warps; ++w) highest = fmaxf(highest, of_head[w * Heads * width + a.head_dim]);
    float sum = 0.0F;
    float total = 0.0F;
    for (int w = 0; w < warps; ++w) {
      const float* of_warp = of_head + w * Heads * width;
      const float weight = exp2f(of_warp[a.head_dim] - highest);
      sum += of_warp[d] * weight;
      total += of_warp[a.head_dim + 1] * weight;
    }
    const std::uint32_t head = kv_head * a.group + first_head + h;
    if (a.splits == 1) {
      a.out[std::size_t{r.row} * a.out_stride + head * a.head_dim + d] = to<T>(sum / total);
      continue;
    }
    float* part = partial + ((std::size_t{at.x} * a.kv_heads * a.group + head) * a.splits + at.z) * width;
    part[d] = sum;
    if (d == 0) {
      part[a.head_dim] = highest;
      part[a.head_dim + 1] = total;
    }
  }
}

/// Merges the splits of each row and head. Grid: (rows, H).
template <class T>
HFLEX_GLOBAL(decode_threads)
combine_splits(attention_view<T> a, const attend_row* rows, const float* partial) {
  const grid_index at = block_position();
  const std::uint32_t width = partial_floats(a.head_dim);
  const float* parts = partial + (std::size_t{at.x} * a.kv_heads * a.group + at.y) * a.splits * width;
  float highest = -FLT_MAX;
  for (std::uint32_t s = 0; s < a.splits; ++s) highest = fmaxf(highest, parts[s * width + a.head_dim]);
  for (std::uint32_t d = thread_index(); d < a.head_dim; d += decode_threads) {
    float sum = 0.0F;
    float total = 0.0F;
    for (std::uint32_t s = 0; s < a.splits; ++s) {
      const float weight = exp2f(parts[s * width + a.head_dim] - highest);
      sum += parts[s * width + d] * weight;
      total += parts[s * width + a.head_dim + 1] * weight;
    }
    a.out[std::size_t{rows[at.x].row} * a.out_stride + at.y * a.head_dim + d] = to<T>(sum / total);
  }
}

} // namespace hflex::cuda
