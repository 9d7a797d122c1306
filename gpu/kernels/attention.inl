// Attention over paged keys and values with an online softmax (Milakov and Gimelshein, 2018), written once for every
// instruction set. Included by isa_*.cpp inside its own namespace, after rows.inl.
//
// A query row reduces over tiles of 64 positions counted from position 0 of its sequence, and inside a tile position by
// position. Neither the block size nor the rows that share the call change the order, so prefill, chunked prefill and
// decode agree bit for bit. A row never touches a position behind its own (0 * NaN would not be 0).

/// Pointers to one head's rows of a tile of positions, through the block table.
template <class Element>
struct tile_rows_of {
  const Element* row[attention_tile];
};

template <class Element>
HFLEX_INLINE void find_rows(const attention_args& args, const void* pool, std::uint32_t kv_head, std::uint32_t base,
    std::uint32_t count, const Element* padding, tile_rows_of<Element>& rows) {
  const std::size_t token_elements = std::size_t{args.kv_heads} * args.head_dim;
  const auto* head = static_cast<const Element*>(pool) + std::size_t{kv_head} * args.head_dim;
  std::uint32_t block = base / args.block_size; // one division a tile, not one a position
  std::uint32_t offset = base % args.block_size;
  for (std::uint32_t i = 0; i < count; ++block, offset = 0) {
    const std::size_t slot = std::size_t{args.block_table[block]} * args.block_size + offset;
    const std::uint32_t run = args.block_size - offset < count - i ? args.block_size - offset : count - i;
    const Element* row = head + slot * token_elements;
    for (const std::uint32_t end = i + run; i < end; ++i, row += token_elements) rows.row[i] = row;
  }
  for (std::uint32_t i = count; i < attention_tile; ++i) rows.row[i] = padding;
}

/// Transposes a tile of keys, as 32-bit words, into out[word][64]: what the score products take as a panel.
template <class Element>
HFLEX_KERNEL void pack_keys(const tile_rows_of<Element>& keys, std::uint32_t head_dim, std::uint32_t* out) {
  const std::uint32_t words = head_dim * static_cast<std::uint32_t>(sizeof(Element)) / 4;
  for (std::uint32_t first = 0; first < attention_tile; first += lanes) {
    std::uint32_t word = 0;
    for (; word + lanes <= words; word += lanes)
      v_transpose(keys.row + first, word, out + std::size_t{word} * attention_tile + first);
    for (; word < words; ++word) {
      for (std::uint32_t i = 0; i < lanes; ++i)
        std::memcpy(out + std::size_t{word} * attention_tile + first + i,
            reinterpret_cast<const std::byte*>(keys.row[first + i]) + std::size_t{word} * 4, 4);
    }
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

/// sums[Rows][Vecs * lanes] += weights[Rows][begin, end) * values, one position after the other.
template <class Mode, int Rows, int Vecs>
HFLEX_INLINE void add_values_tile(const float* weights, const typename Mode::kv_element* const* values,
    std::uint32_t begin, std::uint32_t end, std::uint32_t column, float* sums, std::uint32_t head_dim) {
  vf acc[Rows][Vecs];
  HFLEX_UNROLL for (int r = 0; r < Rows; ++r) {
    HFLEX_UNROLL for (int j = 0; j < Vecs; ++j) { acc[r][j] = v_load(sums + r * head_dim + column + j * lanes); }
  }
  for (std::uint32_t i = begin; i < end; ++i) {
    HFLEX_UNROLL for (int j = 0; j < Vecs; ++j) {
      const vf value = Mode::load_kv(values[i] + column + j * lanes);
      HFLEX_UNROLL for (int r = 0; r < Rows; ++r) {
        acc[r][j] = v_fma(v_set1(weights[r * attention_tile + i]), value, acc[r][j]);
      }
    }
  }
  HFLEX_UNROLL for (int r = 0; r < Rows; ++r) {
    HFLEX_UNROLL for (int j = 0; j < Vecs; ++j) { v_store(sums + r * head_dim + column + j * lanes, acc[r][j]); }
  }
}

template <class Mode, int Rows>
HFLEX_KERNEL void add_values(const float* weights, const typename Mode::kv_element* const* values, std::uint32_t begin,
    std::uint32_t end, float* sums, std::uint32_t head_dim) {
  std::uint32_t column = 0;
  for (; column + 4 * lanes <= head_dim; column += 4 * lanes)
    add_values_tile<Mode, Rows, 4>(weights, values, begin, end, column, sums, head_dim);
  for (; column + 2 * lanes <= head_dim; column += 2 * lanes)
    add_values_tile<Mode, Rows, 2>(weights, values, begin, end, column, sums, head_dim);
  for (; column < head_dim; column += lanes)
    add_values_tile<Mode, Rows, 1>(weights, values, begin, end, column, sums, head_dim);
}

template <class Mode>
HFLEX_INLINE void add_values_rows(std::uint32_t rows, const float* weights,
    const typename Mode::kv_element* const* values, std::uint32_t end, float* sums, std::uint32_t head_dim) {
  switch (rows) {
  case 4:
    add_values<Mode, 4>(weights, values, 0, end, sums, head_dim);
    break;
  case 3:
    add_values<Mode, 3>(weights, values, 0, end, sums, head_dim);
    break;
  case 2:
    add_values<Mode, 2>(weights, values, 0, end, sums, head_dim);
    break;
  default:
    add_values<Mode, 1>(weights, values, 0, end, sums, head_dim);
    break;
  }
}

/// What one call works on; rows are ordered token by token, then head by head of the group.
template <class Mode>
struct attention_call {
  const attention_args& args;
  std::uint32_t position; ///< of the first token
  std::uint32_t rows;
  typename Mode::activation* query;
  std::uint32_t* keys;
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
HFLEX_INLINE void attend_tile(
    const attention_call<Mode>& call, std::uint32_t base, const tile_rows_of<typename Mode::kv_element>& values) {
  const std::uint32_t dim = call.args.head_dim;
  // Tokens before this tile's first position see nothing of it.
  const std::uint32_t first = base > call.position ? (base - call.position) * call.args.group : 0;
  using op = typename Mode::score_op;
  matmul_rows<op>(call.rows - first, call.query + std::size_t{first} * dim, dim,
      reinterpret_cast<const typename op::w_type*>(call.keys), dim / 2, call.scores + first * attention_tile,
      attention_tile, false);
  for (std::uint32_t r = first; r < call.rows; ++r) {
    const float rescale = softmax_tile(
        call.scores + r * attention_tile, call.visible(r, base), call.args.scale, call.maxima[r], call.totals[r]);
    if (rescale == 1.0F) continue;
    float* sums = call.sums + std::size_t{r} * dim;
    for (std::uint32_t i = 0; i < dim; i += lanes) v_store(sums + i, v_mul(v_load(sums + i), v_set1(rescale)));
  }
  for (std::uint32_t r = first; r < call.rows; r += 4) {
    const std::uint32_t height = call.rows - r < 4 ? call.rows - r : 4;
    const float* weights = call.scores + r * attention_tile;
    float* sums = call.sums + std::size_t{r} * dim;
    const std::uint32_t common = call.visible(r, base); // later rows see at least as much
    add_values_rows<Mode>(height, weights, values.row, common, sums, dim);
    for (std::uint32_t i = 1; i < height; ++i)
      if (call.visible(r + i, base) > common)
        add_values<Mode, 1>(weights + i * attention_tile, values.row, common, call.visible(r + i, base),
            sums + std::size_t{i} * dim, dim);
  }
}

template <class Mode>
HFLEX_KERNEL void attention_kernel(const attention_args& args, std::uint32_t kv_head, std::uint32_t position,
    std::uint32_t tokens, std::byte* scratch) {
  using activation = typename Mode::activation;
  using element = typename Mode::kv_element;
  const attention_layout at = layout_attention(args.group, args.head_dim);
  const auto* zeros = reinterpret_cast<const element*>(scratch + at.zeros);
  const std::uint32_t dim = args.head_dim;
  const attention_call<Mode> call{args, position, tokens * args.group,
      reinterpret_cast<activation*>(scratch + at.query), reinterpret_cast<std::uint32_t*>(scratch + at.keys),
      reinterpret_cast<float*>(scratch + at.scores), reinterpret_cast<float*>(scratch + at.sums),
      reinterpret_cast<float*>(scratch + at.maxima), reinterpret_cast<float*>(scratch + at.totals)};
  std::memset(scratch + at.zeros, 0, std::size_t{dim} * sizeof(element));
  std::memset(call.sums, 0, std::size_t{call.rows} * dim * sizeof(float));
  for (std::uint32_t r = 0; r < call.rows; ++r) {
    call.maxima[r] = -FLT_MAX;
    call.totals[r] = 0.0F;
    const float* q = args.q + r / args.group * args.q_stride + (kv_head * args.group + r % args.group) * dim;
    for (std::uint32_t i = 0; i < dim; i += lanes) Mode::store(call.query + std::size_t{r} * dim + i, v_load(q + i));
  }
  const std::uint32_t end = position + tokens;
  for (std::uint32_t base = 0; base < end; base += attention_tile) {
    const std::uint32_t count = end - base < attention_tile ? end - base : attention_tile;
    tile_rows_of<element> rows;
    find_rows(args, args.keys, kv_head, base, count, zeros, rows);
    pack_keys(rows, dim, call.keys);
    find_rows(args, args.values, kv_head, base, count, zeros, rows);
    attend_tile(call, base, rows);
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
      &attention_kernel<Mode>, &add_kernel, &norm_heads_kernel};
}
