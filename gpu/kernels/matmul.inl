// Matrix products, written once for every instruction set. Included by isa_*.cpp inside its own namespace, after the
// vector type `vf`, its operations and HFLEX_INLINE / HFLEX_KERNEL (which carry the target attribute).
//
// One output element is one chain of fused multiply-adds over k = 0, 1, 2, ... in one lane, whatever the tile's shape:
// that is what makes results independent of the batch. A product that is added to what is there continues its chain.

/// f32 activations, bf16 weights widened to f32.
struct op_widen {
  using x_type = float;
  using w_type = std::uint16_t;
  struct operand {
    vf even, odd;
  };
  static constexpr std::uint32_t column_elements = 2; ///< of one pair
  static HFLEX_INLINE operand load(const w_type* row, int j, std::uint32_t = 0) {
    operand w;
    v_widen_pairs(row + j * lanes * 2, w.even, w.odd);
    return w;
  }
  static HFLEX_INLINE operand load_even(const w_type* row, int j) { return {load(row, j).even, v_zero()}; }
  static HFLEX_INLINE vf step(vf acc, const x_type* x, const operand& w) {
    acc = v_fma(v_set1(x[0]), w.even, acc);
    return v_fma(v_set1(x[1]), w.odd, acc);
  }
};

/// f32 activations, f32 second operand laid out [K/2][2][columns] (attention in f32 mode).
struct op_f32 {
  using x_type = float;
  using w_type = float;
  using operand = op_widen::operand;
  static constexpr std::uint32_t column_elements = 1;
  static HFLEX_INLINE operand load(const w_type* row, int j, std::uint32_t columns) {
    return {v_load(row + j * lanes), v_load(row + columns + j * lanes)};
  }
  static HFLEX_INLINE operand load_even(const w_type* row, int j) { return {v_load(row + j * lanes), v_zero()}; }
  static HFLEX_INLINE vf step(vf acc, const x_type* x, const operand& w) { return op_widen::step(acc, x, w); }
};

/// Rows x (Vecs * lanes) outputs of one panel, starting at column `first_vec * lanes`. Lines: cache lines from `ahead`
/// on that are fetched by the way, for each pair.
template <class Op, int Rows, int Vecs, int Lines>
HFLEX_INLINE void matmul_tile(const typename Op::x_type* x, std::size_t x_stride, const typename Op::w_type* panel,
    int first_vec, std::uint32_t pairs, float* y, std::size_t y_stride, bool accumulate, const std::byte* ahead) {
  vf acc[Rows][Vecs];
  HFLEX_UNROLL for (int r = 0; r < Rows; ++r) {
    HFLEX_UNROLL for (int j = 0; j < Vecs; ++j) {
      acc[r][j] = accumulate ? v_load(y + r * y_stride + (first_vec + j) * lanes) : v_zero();
    }
  }
  for (std::uint32_t pair = 0; pair < pairs; ++pair) {
    if constexpr (operands_first(Rows)) {
      typename Op::operand w[Vecs];
      HFLEX_UNROLL for (int j = 0; j < Vecs; ++j) { w[j] = Op::load(panel, first_vec + j); }
      HFLEX_UNROLL for (int r = 0; r < Rows; ++r) {
        HFLEX_UNROLL for (int j = 0; j < Vecs; ++j) { acc[r][j] = Op::step(acc[r][j], x + r * x_stride, w[j]); }
      }
    } else {
      HFLEX_UNROLL for (int j = 0; j < Vecs; ++j) {
        const typename Op::operand w = Op::load(panel, first_vec + j);
        HFLEX_UNROLL for (int r = 0; r < Rows; ++r) { acc[r][j] = Op::step(acc[r][j], x + r * x_stride, w); }
      }
    }
    x += 2;
    panel += panel_columns * 2;
    HFLEX_UNROLL for (int line = 0; line < Lines; ++line) { __builtin_prefetch(ahead + line * 64, 0, 2); }
    ahead += Lines * 64;
  }
  HFLEX_UNROLL for (int r = 0; r < Rows; ++r) {
    HFLEX_UNROLL for (int j = 0; j < Vecs; ++j) { v_store(y + r * y_stride + (first_vec + j) * lanes, acc[r][j]); }
  }
}

/// All 64 columns of a panel for exactly `rows` <= Rows rows, in strips that fit the register file.
template <class Op, int Rows, int Lines>
HFLEX_INLINE void matmul_strips(std::uint32_t rows, const typename Op::x_type* x, std::size_t x_stride,
    const typename Op::w_type* panel, std::uint32_t pairs, float* y, std::size_t y_stride, bool accumulate,
    const std::byte* ahead) {
  if (rows == Rows) {
    constexpr int vecs = strip_vecs(Rows);
    matmul_tile<Op, Rows, vecs, Lines>(x, x_stride, panel, 0, pairs, y, y_stride, accumulate, ahead);
    for (int v = vecs; v < static_cast<int>(panel_columns) / lanes; v += vecs)
      matmul_tile<Op, Rows, vecs, 0>(x, x_stride, panel, v, pairs, y, y_stride, accumulate, nullptr);
  } else if constexpr (Rows > 1) {
    matmul_strips<Op, Rows - 1, Lines>(rows, x, x_stride, panel, pairs, y, y_stride, accumulate, ahead);
  }
}

/// Any number of rows, in tiles of nearly equal height (8 rows are 4 + 4, not 6 + 2).
template <class Op>
HFLEX_KERNEL void matmul_rows(std::uint32_t rows, const typename Op::x_type* x, std::size_t x_stride,
    const typename Op::w_type* panel, std::uint32_t pairs, float* y, std::size_t y_stride, bool accumulate) {
  for (std::uint32_t tiles = (rows + tile_rows - 1) / tile_rows; tiles > 0; --tiles) {
    const std::uint32_t height = (rows + tiles - 1) / tiles;
    matmul_strips<Op, tile_rows, 0>(height, x, x_stride, panel, pairs, y, y_stride, accumulate, nullptr);
    x += height * x_stride;
    y += height * y_stride;
    rows -= height;
  }
}

/// Pairs of inputs that all rows go over before the next are touched: 16 KiB of weights, which stay in the first-level
/// cache for every tile of rows.
constexpr std::uint32_t chunk_pairs = 64;

/// One chunk for all rows; meanwhile the next chunk comes in from memory, or the processor would wait for it with idle
/// multipliers and then multiply with an idle memory.
template <class Op>
HFLEX_KERNEL void matmul_chunk(std::uint32_t rows, const typename Op::x_type* x, std::size_t x_stride,
    const typename Op::w_type* chunk, std::uint32_t pairs, float* y, std::size_t y_stride, bool accumulate) {
  const auto* ahead = reinterpret_cast<const std::byte*>(chunk + std::size_t{pairs} * panel_columns * 2);
  const std::uint32_t tiles = (rows + tile_rows - 1) / tile_rows;
  for (std::uint32_t tile = 0; tile < tiles; ++tile) {
    const std::uint32_t height = (rows + tiles - tile - 1) / (tiles - tile);
    // A pair is four lines wide: one tile fetches them all, two tiles two lines each, or four tiles one.
    if (tiles == 1)
      matmul_strips<Op, tile_rows, 4>(height, x, x_stride, chunk, pairs, y, y_stride, accumulate, ahead);
    else if (tiles < 4 && tile < 2)
      matmul_strips<Op, tile_rows, 2>(
          height, x, x_stride, chunk, pairs, y, y_stride, accumulate, ahead + tile * pairs * 128UL);
    else if (tiles >= 4 && tile < 4)
      matmul_strips<Op, tile_rows, 1>(
          height, x, x_stride, chunk, pairs, y, y_stride, accumulate, ahead + tile * pairs * 64UL);
    else
      matmul_strips<Op, tile_rows, 0>(height, x, x_stride, chunk, pairs, y, y_stride, accumulate, nullptr);
    x += height * x_stride;
    y += height * y_stride;
    rows -= height;
  }
}

template <class Op>
HFLEX_KERNEL void matmul_panel(std::uint32_t rows, const typename Op::x_type* x, std::size_t x_stride,
    const typename Op::w_type* panel, std::uint32_t pairs, float* y, std::size_t y_stride, bool accumulate) {
  for (std::uint32_t done = 0; done < pairs; done += chunk_pairs) {
    const std::uint32_t some = pairs - done < chunk_pairs ? pairs - done : chunk_pairs;
    matmul_chunk<Op>(rows, x + done * 2UL, x_stride, panel + std::size_t{done} * panel_columns * 2, some, y, y_stride,
        accumulate || done > 0);
  }
}

template <class Mode>
HFLEX_KERNEL void matmul_kernel(
    const matmul_args& args, std::uint32_t panel, std::uint32_t row_begin, std::uint32_t row_end) {
  const auto* x = static_cast<const typename Mode::activation*>(args.x) + row_begin * args.x_stride;
  float* y = args.y + row_begin * args.y_stride + std::size_t{panel} * panel_columns;
  matmul_panel<typename Mode::weight_op>(
      row_end - row_begin, x, args.x_stride, args.w.panel(panel), args.w.pairs(), y, args.y_stride, args.accumulate);
}

/// As many independent chains as keep two multiply-add units busy; `out` takes their sum, so that nothing is optimised
/// away.
template <class Mode>
HFLEX_KERNEL std::uint64_t spin_kernel(std::uint64_t rounds, float* out) {
  using op = typename Mode::weight_op;
  constexpr int chains = 12;
  alignas(64) typename op::w_type weights[2 * panel_columns] = {};
  const typename op::x_type x[2] = {static_cast<typename op::x_type>(rounds % 2)}; // not known to the compiler
  const typename op::operand w = op::load(weights, 0);
  vf acc[chains];
  HFLEX_UNROLL for (int i = 0; i < chains; ++i) { acc[i] = v_set1(static_cast<float>(i)); }
  for (std::uint64_t round = 0; round < rounds; ++round) {
    HFLEX_UNROLL for (int i = 0; i < chains; ++i) { acc[i] = op::step(acc[i], x, w); }
  }
  vf sum = v_zero();
  HFLEX_UNROLL for (int i = 0; i < chains; ++i) { sum = v_add(sum, acc[i]); }
  v_store(out, sum);
  return std::uint64_t{chains} * lanes * 4; // two products and two sums a lane
}

/// Four streams, which the processor fetches ahead side by side.
HFLEX_KERNEL float read_kernel(const float* values, std::size_t count) {
  constexpr int streams = 4;
  constexpr int line = 16 / lanes; // vectors in a cache line
  vf acc[streams * line];
  HFLEX_UNROLL for (int i = 0; i < streams * line; ++i) { acc[i] = v_zero(); }
  const std::size_t stream = count / streams;
  for (std::size_t at = 0; at < stream; at += 16) {
    HFLEX_UNROLL for (int s = 0; s < streams; ++s) {
      HFLEX_UNROLL for (int j = 0; j < line; ++j) {
        acc[s * line + j] = v_add(acc[s * line + j], v_load(values + s * stream + at + j * lanes));
      }
    }
  }
  vf sum = v_zero();
  HFLEX_UNROLL for (int i = 0; i < streams * line; ++i) { sum = v_add(sum, acc[i]); }
  return v_sum(sum);
}
