// Matrix products, written once for every instruction set. Included by isa_*.cpp inside its own namespace, after the
// vector type `vf`, its operations and HFLEX_INLINE / HFLEX_KERNEL (which carry the target attribute).
//
// One output element is one chain of fused multiply-adds over k = 0, 1, 2, ... in one lane, whatever the tile's shape:
// that is what makes results independent of the batch.

/// f32 activations, bf16 weights widened to f32.
struct op_widen {
  using x_type = float;
  using w_type = std::uint16_t;
  struct operand {
    vf even, odd;
  };
  static HFLEX_INLINE operand load(const w_type* row, int j) {
    operand w;
    v_widen_pairs(row + j * lanes * 2, w.even, w.odd);
    return w;
  }
  static HFLEX_INLINE vf step(vf acc, const x_type* x, const operand& w) {
    acc = v_fma(v_set1(x[0]), w.even, acc);
    return v_fma(v_set1(x[1]), w.odd, acc);
  }
};

/// f32 activations, f32 second operand laid out [K/2][2][64] (attention scores in f32 mode).
struct op_f32 {
  using x_type = float;
  using w_type = float;
  using operand = op_widen::operand;
  static HFLEX_INLINE operand load(const w_type* row, int j) {
    return {v_load(row + j * lanes), v_load(row + panel_columns + j * lanes)};
  }
  static HFLEX_INLINE vf step(vf acc, const x_type* x, const operand& w) { return op_widen::step(acc, x, w); }
};

/// Rows x (Vecs * lanes) outputs of one panel, starting at column `first_vec * lanes`.
template <class Op, int Rows, int Vecs>
HFLEX_INLINE void matmul_tile(const typename Op::x_type* x, std::size_t x_stride, const typename Op::w_type* panel,
    int first_vec, std::uint32_t pairs, float* y, std::size_t y_stride, bool accumulate) {
  vf acc[Rows][Vecs];
  HFLEX_UNROLL for (int r = 0; r < Rows; ++r) {
    HFLEX_UNROLL for (int j = 0; j < Vecs; ++j) { acc[r][j] = v_zero(); }
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
  }
  HFLEX_UNROLL for (int r = 0; r < Rows; ++r) {
    HFLEX_UNROLL for (int j = 0; j < Vecs; ++j) {
      float* out = y + r * y_stride + (first_vec + j) * lanes;
      v_store(out, accumulate ? v_add(v_load(out), acc[r][j]) : acc[r][j]);
    }
  }
}

/// All 64 columns of a panel for exactly `rows` <= Rows rows, in strips that fit the register file.
template <class Op, int Rows>
HFLEX_INLINE void matmul_strips(std::uint32_t rows, const typename Op::x_type* x, std::size_t x_stride,
    const typename Op::w_type* panel, std::uint32_t pairs, float* y, std::size_t y_stride, bool accumulate) {
  if (rows == Rows) {
    constexpr int vecs = strip_vecs(Rows);
    for (int v = 0; v < static_cast<int>(panel_columns) / lanes; v += vecs)
      matmul_tile<Op, Rows, vecs>(x, x_stride, panel, v, pairs, y, y_stride, accumulate);
  } else if constexpr (Rows > 1) {
    matmul_strips<Op, Rows - 1>(rows, x, x_stride, panel, pairs, y, y_stride, accumulate);
  }
}

/// Any number of rows, in tiles of nearly equal height (8 rows are 4 + 4, not 6 + 2).
template <class Op>
HFLEX_KERNEL void matmul_rows(std::uint32_t rows, const typename Op::x_type* x, std::size_t x_stride,
    const typename Op::w_type* panel, std::uint32_t pairs, float* y, std::size_t y_stride, bool accumulate) {
  for (std::uint32_t tiles = (rows + tile_rows - 1) / tile_rows; tiles > 0; --tiles) {
    const std::uint32_t height = (rows + tiles - 1) / tiles;
    matmul_strips<Op, tile_rows>(height, x, x_stride, panel, pairs, y, y_stride, accumulate);
    x += height * x_stride;
    y += height * y_stride;
    rows -= height;
  }
}

template <class Mode>
HFLEX_KERNEL void matmul_kernel(
    const matmul_args& args, std::uint32_t panel, std::uint32_t row_begin, std::uint32_t row_end) {
  const auto* x = static_cast<const typename Mode::activation*>(args.x) + row_begin * args.x_stride;
  float* y = args.y + row_begin * args.y_stride + std::size_t{panel} * panel_columns;
  matmul_rows<typename Mode::weight_op>(
      row_end - row_begin, x, args.x_stride, args.w.panel(panel), args.w.pairs(), y, args.y_stride, args.accumulate);
}
