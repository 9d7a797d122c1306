// Row-wise kernels (norm, activation function, rotation, conversion) and the compute modes, written once for every
// instruction set. Included by isa_*.cpp inside its own namespace, after matmul.inl.

/// The reference: nothing is rounded but the weights.
struct mode_f32 {
  using activation = float;
  using kv_element = float;
  using weight_op = op_widen;
  using kv_op = op_f32;
  static constexpr compute_type compute = compute_type::f32;
  static HFLEX_INLINE void store(activation* out, vf value) { v_store(out, value); }
  static HFLEX_INLINE void store_kv(kv_element* out, vf value) { v_store(out, value); }
};

/// bf16 activations on a CPU without bf16 dot products: rounded to bf16 but kept as f32, which the f32 kernels take.
struct mode_bf16 {
  using activation = float;
  using kv_element = std::uint16_t;
  using weight_op = op_widen;
  using kv_op = op_widen;
  static constexpr compute_type compute = compute_type::bf16;
  static HFLEX_INLINE void store(activation* out, vf value) { v_store(out, v_round_bf16(value)); }
  static HFLEX_INLINE void store_kv(kv_element* out, vf value) { v_store_bf16(out, value); }
};

/// e^x for |x| <= 87 (clamped there); relative error below 2^-22. x = n ln 2 + r with |r| <= ln 2 / 2, then the Taylor
/// series of e^r up to r^7 (next term < 6e-9). ln 2 is subtracted in two parts so that n ln 2 is exact.
HFLEX_INLINE vf v_exp(vf x) {
  x = v_max(v_min(x, v_set1(87.0F)), v_set1(-87.0F));
  const vf n = v_nearest(v_mul(x, v_set1(1.44269504F)));
  vf r = v_fma(n, v_set1(-0.693359375F), x);
  r = v_fma(n, v_set1(2.12194440e-4F), r);
  vf p = v_set1(1.0F / 5040);
  p = v_fma(p, r, v_set1(1.0F / 720));
  p = v_fma(p, r, v_set1(1.0F / 120));
  p = v_fma(p, r, v_set1(1.0F / 24));
  p = v_fma(p, r, v_set1(1.0F / 6));
  p = v_fma(p, r, v_set1(1.0F / 2));
  p = v_fma(p, r, v_set1(1.0F));
  p = v_fma(p, r, v_set1(1.0F));
  return v_mul(p, v_exp2_int(n));
}

template <class Mode>
HFLEX_KERNEL void rmsnorm_kernel(const float* x, const float* weight, std::uint32_t width, float eps, void* out) {
  const std::uint32_t padded = padded_width(width);
  vf squares = v_zero();
  for (std::uint32_t i = 0; i < padded; i += lanes) {
    const vf v = v_load(x + i);
    squares = v_fma(v, v, squares);
  }
  const vf scale = v_set1(1.0F / std::sqrt(v_sum(squares) / static_cast<float>(width) + eps));
  auto* y = static_cast<typename Mode::activation*>(out);
  for (std::uint32_t i = 0; i < padded; i += lanes)
    Mode::store(y + i, v_mul(v_mul(v_load(x + i), scale), v_load(weight + i)));
}

template <class Mode>
HFLEX_KERNEL void swiglu_kernel(const float* gate, const float* up, std::uint32_t width, void* out) {
  auto* y = static_cast<typename Mode::activation*>(out);
  const vf one = v_set1(1.0F);
  for (std::uint32_t i = 0; i < padded_width(width); i += lanes) {
    const vf g = v_load(gate + i);
    const vf silu = v_div(g, v_add(one, v_exp(v_sub(v_zero(), g))));
    Mode::store(y + i, v_mul(silu, v_load(up + i)));
  }
}

HFLEX_KERNEL void rope_kernel(float* x, std::uint32_t heads, std::uint32_t head_dim, const float* cos_sin) {
  const std::uint32_t half = head_dim / 2;
  float partner[max_head_dim];
  for (std::uint32_t h = 0; h < heads; ++h, x += head_dim) {
    std::memcpy(partner, x + half, half * sizeof(float));
    std::memcpy(partner + half, x, half * sizeof(float));
    for (std::uint32_t i = 0; i < head_dim; i += lanes) {
      const vf turned = v_mul(v_load(partner + i), v_load(cos_sin + head_dim + i));
      v_store(x + i, v_fma(v_load(x + i), v_load(cos_sin + i), turned));
    }
  }
}

/// One position of one head's keys and values, already converted, to its places in the strips.
template <class Element>
HFLEX_INLINE void scatter_kv(const Element* k, const Element* v, const kv_layout<Element>& layout, std::uint32_t p,
    Element* keys, Element* values) {
  const std::uint32_t dim = layout.head_dim;
  if constexpr (sizeof(Element) == 2) {
    for (std::uint32_t i = 0; i < dim; i += 2) std::memcpy(keys + layout.key(p, i), k + i, 2 * sizeof(Element));
    for (std::uint32_t i = 0; i < dim; ++i) values[layout.value(p, i)] = v[i];
  } else {
    for (std::uint32_t i = 0; i < dim; ++i) keys[layout.key(p, i)] = k[i];
    std::memcpy(values + layout.value(p, 0), v, dim * sizeof(Element));
  }
}

template <class Mode>
HFLEX_KERNEL void store_kv_kernel(const kv_store_args& args) {
  using element = typename Mode::kv_element;
  const kv_layout<element> layout{args.block_size, args.head_dim};
  element k[max_head_dim];
  element v[max_head_dim];
  for (std::uint32_t head = 0; head < args.kv_heads; ++head) {
    const std::size_t from = std::size_t{head} * args.head_dim;
    for (std::uint32_t i = 0; i < args.head_dim; i += lanes) {
      Mode::store_kv(k + i, v_load(args.k + from + i));
      Mode::store_kv(v + i, v_load(args.v + from + i));
    }
    const std::size_t strip = layout.strip(head, args.offset);
    scatter_kv<element>(k, v, layout, args.offset % kv_strip, static_cast<element*>(args.keys) + strip,
        static_cast<element*>(args.values) + strip);
  }
}

HFLEX_KERNEL void add_kernel(float* x, const float* y, std::uint32_t width) {
  for (std::uint32_t i = 0; i < padded_width(width); i += lanes) v_store(x + i, v_add(v_load(x + i), v_load(y + i)));
}

HFLEX_KERNEL void norm_heads_kernel(
    float* x, const float* weight, std::uint32_t heads, std::uint32_t head_dim, float eps) {
  for (std::uint32_t h = 0; h < heads; ++h, x += head_dim) {
    vf squares = v_zero();
    for (std::uint32_t i = 0; i < head_dim; i += lanes) squares = v_fma(v_load(x + i), v_load(x + i), squares);
    const vf scale = v_set1(1.0F / std::sqrt(v_sum(squares) / static_cast<float>(head_dim) + eps));
    for (std::uint32_t i = 0; i < head_dim; i += lanes)
      v_store(x + i, v_mul(v_mul(v_load(x + i), scale), v_load(weight + i)));
  }
}
