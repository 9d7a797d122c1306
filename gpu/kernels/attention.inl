// Attention over paged keys and values with an online softmax (Milakov and Gimelshein, 2018), written once for every
// instruction set. Included by isa_*.cpp inside its own namespace, after rows.inl. Keys and values lie in memory as the
// products take them (kv_layout.hpp), so that nothing is transposed or widened by the way.
//
// A query row reduces over tiles of 64 positions counted from position 0 of its sequence, and inside a tile pair by
// pair. Neither the block size nor the rows that share the call change the order, so prefill, chunked prefill and
// decode agree bit for bit: positions that a row may not see have weight 0 and add exactly nothing. What lies behind
// the call's last position is never multiplied (0 * NaN would not be 0).

constexpr std::uint32_t tile_strips = attention_tile / kv_strip;

/// Strips of one head in a tile of positions, through the block table.
template <class Element>
struct tile_of {
  const Element* strip[tile_strips];
};

template <class Element>
HFLEX_INLINE void find_strips(const attention_args& args, const void* side, std::uint32_t kv_head, std::uint32_t base,
    std::uint32_t count, tile_of<Element>& tile) {
  const kv_layout<Element> layout{args.block_size, args.head_dim};
  const std::size_t block_elements = std::size_t{args.block_size} * args.kv_heads * args.head_dim;
  const auto* elements = static_cast<const Element*>(side);
  for (std::uint32_t s = 0; s < tile_strips; ++s) {
    const std::uint32_t at = s * kv_strip < count ? base + s * kv_strip : base; // past the end: any memory that is ours
    tile.strip[s] = elements + args.block_table[at / args.block_size] * block_elements +
                    layout.strip(kv_head, at % args.block_size);
  }
}

/// scores[Rows][Strips * 16] of some strips, from column `first_strip * 16` on.
template <class Op, int Rows, int Strips>
HFLEX_INLINE void score_strips(const typename Op::x_type* query, std::size_t stride,
    const typename Op::w_type* const* keys, std::uint32_t pairs, float* scores) {
  constexpr int vecs = static_cast<int>(kv_strip) / lanes;
  vf acc[Rows][Strips * vecs];
  HFLEX_UNROLL for (int r = 0; r < Rows; ++r) {
    HFLEX_UNROLL for (int j = 0; j < Strips * vecs; ++j) { acc[r][j] = v_zero(); }
  }
  std::size_t at = 0;
  for (std::uint32_t pair = 0; pair < pairs; ++pair, at += 2UL * kv_strip, query += 2) {
    typename Op::operand w[Strips * vecs];
    HFLEX_UNROLL for (int j = 0; j < Strips * vecs; ++j) { w[j] = Op::load(keys[j / vecs] + at, j % vecs, kv_strip); }
    HFLEX_UNROLL for (int r = 0; r < Rows; ++r) {
      HFLEX_UNROLL for (int j = 0; j < Strips * vecs; ++j) {
        acc[r][j] = Op::step(acc[r][j], query + r * stride, w[j]);
      }
    }
  }
  HFLEX_UNROLL for (int r = 0; r < Rows; ++r) {
    HFLEX_UNROLL for (int j = 0; j < Strips * vecs; ++j) {
      v_store(scores + r * attention_tile + j * lanes, acc[r][j]);
    }
  }
}

template <class Op, int Rows, int Vecs>
HFLEX_INLINE void add_pair(
    vf (&acc)[Rows][Vecs], const typename Op::x_type* weights, const typename Op::operand (&w)[Vecs]) {
  HFLEX_UNROLL for (int r = 0; r < Rows; ++r) {
    HFLEX_UNROLL for (int j = 0; j < Vecs; ++j) { acc[r][j] = Op::step(acc[r][j], weights + r * attention_tile, w[j]); }
  }
}

/// sums[Rows][Vecs * lanes] from `column` on += weights * values over the first `count` positions of a tile.
template <class Op, int Rows, int Vecs>
HFLEX_INLINE void add_values(const typename Op::x_type* weights, const typename Op::w_type* const* values,
    std::uint32_t count, std::uint32_t column, std::uint32_t dim, float* sums) {
  vf acc[Rows][Vecs];
  HFLEX_UNROLL for (int r = 0; r < Rows; ++r) {
    HFLEX_UNROLL for (int j = 0; j < Vecs; ++j) { acc[r][j] = v_load(sums + r * dim + column + j * lanes); }
  }
  constexpr std::uint32_t strip_pairs = kv_strip / 2;
  for (std::uint32_t pair = 0; pair < count / 2; ++pair) {
    const auto* row = values[pair / strip_pairs] + std::size_t{pair % strip_pairs} * 2 * dim;
    typename Op::operand w[Vecs];
    HFLEX_UNROLL for (int j = 0; j < Vecs; ++j) { w[j] = Op::load(row + Op::column_elements * column, j, dim); }
    add_pair<Op>(acc, weights + 2UL * pair, w);
  }
  if (count % 2 != 0) { // the other half of the last pair is nobody's
    const std::uint32_t pair = count / 2;
    const auto* row = values[pair / strip_pairs] + std::size_t{pair % strip_pairs} * 2 * dim;
    typename Op::operand w[Vecs];
    HFLEX_UNROLL for (int j = 0; j < Vecs; ++j) { w[j] = Op::load_even(row + Op::column_elements * column, j); }
    add_pair<Op>(acc, weights + 2UL * pair, w);
  }
  HFLEX_UNROLL for (int r = 0; r < Rows; ++r) {
    HFLEX_UNROLL for (int j = 0; j < Vecs; ++j) { v_store(sums + r * dim + column + j * lanes, acc[r][j]); }
  }
}

/// Both products for exactly `rows` <= Rows rows.
template <class Op, int Rows>
HFLEX_INLINE void score_rows(std::uint32_t rows, const typename Op::x_type* query, std::uint32_t dim,
    const tile_of<typename Op::w_type>& keys, float* scores) {
  if (rows == Rows) {
    constexpr int wide = strip_vecs(Rows) * lanes / static_cast<int>(kv_strip);
    constexpr int strips = wide < 1 ? 1 : wide;
    for (int s = 0; s < static_cast<int>(tile_strips); s += strips)
      score_strips<Op, Rows, strips>(query, dim, keys.strip + s, dim / 2, scores + s * static_cast<int>(kv_strip));
  } else if constexpr (Rows > 1) {
    score_rows<Op, Rows - 1>(rows, query, dim, keys, scores);
  }
}

template <class Op, int Rows>
HFLEX_INLINE void value_rows(std::uint32_t rows, const typename Op::x_type* weights, std::uint32_t dim,
    const tile_of<typename Op::w_type>& values, std::uint32_t count, float* sums) {
  if (rows == Rows) {
    constexpr int vecs = strip_vecs(Rows);
    std::uint32_t column = 0;
    for (; column + vecs * lanes <= dim; column += vecs * lanes)
      add_values<Op, Rows, vecs>(weights, values.strip, count, column, dim, sums);
    if constexpr (vecs > 4)
      for (; column + 4 * lanes <= dim; column += 4 * lanes)
        add_values<Op, Rows, 4>(weights, values.strip, count, column, dim, sums);
    if constexpr (vecs > 2)
      for (; column + 2 * lanes <= dim; column += 2 * lanes)
        add_values<Op, Rows, 2>(weights, values.strip, count, column, dim, sums);
    for (; column < dim; column += lanes) add_values<Op, Rows, 1>(weights, values.strip, count, column, dim, sums);
  } else if constexpr (Rows > 1) {
    value_rows<Op, Rows - 1>(rows, weights, dim, values, count, sums);
  }
}

/// One row's scores of a tile become weights exp(scale * (score - maximum)); returns the factor for what was summed
/// before.
HFLEX_INLINE float softmax_tile(float* scores, std::uint32_t count, float scale, float& maximum, float& total) {
  for (std::uint32_t i = count; i < attention_tile; ++i) scores[i] = -FLT_MAX;
  vf highest = v_load(scores);
  for (std::uint32_t i = lanes; i < attention_tile; i += lanes) highest = v_max(highest, v_load(scores + i));
  const float previous = maximum;
  const float tile_maximum = v_highest(highest);
  if (tile_maximum > maximum) maximum = tile_maximum;
  const vf shift = v_set1(maximum);
  const vf factor = v_set1(scale);
  for (std::uint32_t i = 0; i < attention_tile; i += lanes)
    v_store(scores + i, v_exp(v_mul(v_sub(v_load(scores + i), shift), factor)));
  for (std::uint32_t i = count; i < attention_tile; ++i) scores[i] = 0.0F;
  vf sum = v_zero();
  for (std::uint32_t i = 0; i < attention_tile; i += lanes) sum = v_add(sum, v_load(scores + i));
  float carry[lanes];
  v_store(carry, v_exp(v_set1((previous - maximum) * scale)));
  const float rescale = previous == -FLT_MAX ? 0.0F : carry[0];
  total = total * rescale + v_sum(sum);
  return rescale;
}

/// What one call works on; rows are ordered token by token, then head by head of the group.
template <class Mode>
struct attention_call {
  const attention_args& args;
  std::uint32_t position; ///< of the first token
  std::uint32_t rows;
  typename Mode::activation* query;
  typename Mode::activation* weights;
  float* scores;
  float* sums;
  float* maxima;
  float* totals;

  /// Positions of the tile at `base` that row `r` may see.
  HFLEX_INLINE std::uint32_t visible(std::uint32_t r, std::uint32_t base) const {
    const std::uint32_t end = position + r / args.group + 1;
    return end - base < attention_tile ? end - base : attention_tile;
  }
};

template <class Mode>
HFLEX_INLINE void attend_tile(const attention_call<Mode>& call, std::uint32_t base,
    const tile_of<typename Mode::kv_element>& keys, const tile_of<typename Mode::kv_element>& values) {
  using op = typename Mode::kv_op;
  const std::uint32_t dim = call.args.head_dim;
  // Tokens before this tile's first position see nothing of it.
  const std::uint32_t first = base > call.position ? (base - call.position) * call.args.group : 0;
  std::uint32_t height = 0;
  for (std::uint32_t row = first; row < call.rows; row += height) {
    height = call.rows - row < tile_rows ? call.rows - row : tile_rows;
    score_rows<op, tile_rows>(height, call.query + std::size_t{row} * dim, dim, keys, call.scores);
    for (std::uint32_t r = 0; r < height; ++r) {
      float* scores = call.scores + r * attention_tile;
      const float rescale = softmax_tile(
          scores, call.visible(row + r, base), call.args.scale, call.maxima[row + r], call.totals[row + r]);
      for (std::uint32_t i = 0; i < attention_tile; i += lanes)
        Mode::store(call.weights + r * attention_tile + i, v_load(scores + i));
      if (rescale == 1.0F) continue;
      float* sums = call.sums + std::size_t{row + r} * dim;
      for (std::uint32_t i = 0; i < dim; i += lanes) v_store(sums + i, v_mul(v_load(sums + i), v_set1(rescale)));
    }
    // The last row sees most; what the others may not see has weight 0.
    value_rows<op, tile_rows>(
        height, call.weights, dim, values, call.visible(row + height - 1, base), call.sums + std::size_t{row} * dim);
  }
}

template <class Mode>
HFLEX_KERNEL void attention_kernel(const attention_args& args, std::uint32_t kv_head, std::uint32_t position,
    std::uint32_t tokens, std::byte* scratch) {
  using activation = typename Mode::activation;
  const attention_layout at = layout_attention(args.group, args.head_dim);
  const std::uint32_t dim = args.head_dim;
  const attention_call<Mode> call{args, position, tokens * args.group,
      reinterpret_cast<activation*>(scratch + at.query), reinterpret_cast<activation*>(scratch + at.weights),
      reinterpret_cast<float*>(scratch + at.scores), reinterpret_cast<float*>(scratch + at.sums),
      reinterpret_cast<float*>(scratch + at.maxima), reinterpret_cast<float*>(scratch + at.totals)};
  std::memset(call.sums, 0, std::size_t{call.rows} * dim * sizeof(float));
  for (std::uint32_t r = 0; r < call.rows; ++r) {
    call.maxima[r] = -FLT_MAX;
    call.totals[r] = 0.0F;
    const float* q = args.q + r / args.group * args.q_stride + (kv_head * args.group + r % args.group) * dim;
    for (std::uint32_t i = 0; i < dim; i += lanes) Mode::store(call.query + std::size_t{r} * dim + i, v_load(q + i));
  }
  const std::uint32_t end = position + tokens;
  for (std::uint32_t base = 0; base < end; base += attention_tile) {
    tile_of<typename Mode::kv_element> keys;
    tile_of<typename Mode::kv_element> values;
    find_strips(args, args.keys, kv_head, base, end - base, keys);
    find_strips(args, args.values, kv_head, base, end - base, values);
    attend_tile(call, base, keys, values);
  }
  for (std::uint32_t r = 0; r < call.rows; ++r) {
    auto* out = static_cast<activation*>(args.out) + r / args.group * args.out_stride +
                (kv_head * args.group + r % args.group) * dim;
    const vf inverse = v_set1(1.0F / call.totals[r]);
    for (std::uint32_t i = 0; i < dim; i += lanes)
      Mode::store(out + i, v_mul(v_load(call.sums + std::size_t{r} * dim + i), inverse));
  }
}

template <class Mode>
kernel_set kernels_of(std::string_view isa) {
  return {isa, Mode::compute, sizeof(typename Mode::activation), sizeof(typename Mode::kv_element),
      &matmul_kernel<Mode>, &rmsnorm_kernel<Mode>, &swiglu_kernel<Mode>, &rope_kernel, &store_kv_kernel<Mode>,
      &spin_kernel<Mode>, &read_kernel, &attention_kernel<Mode>, &add_kernel, &norm_heads_kernel};
}
