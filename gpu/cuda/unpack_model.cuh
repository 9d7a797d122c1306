// Brings a packed weight region (gpu/model/packed_model.hpp) to a device, row by row as matrix libraries want it. The
// host keeps one sealed region for all: CPU contexts, neighbours that ask for it, and every device. A checkpoint could
// be read a second time instead, but the region is already in memory and already checked against its digest, and
// unpacking on the device costs less than the copy that brings the panels there.
//
// `Memory` gives floats(count) and elements(count): device memory; stage(bytes): the next piece of the region, copied
// to the device, valid until the next call; and launch as forward.cuh's Stream. Errors are the Memory's to remember.
#pragma once
#include "gpu/cuda/forward.cuh"
#include "gpu/model/tensor_kind.hpp"

namespace hflex::cuda {

inline constexpr std::size_t stage_bytes = std::size_t{32} << 20U;

template <class T, class Memory>
class model_unpacker {
public:
  model_unpacker(const hflex_cuda_model& model, Memory& memory) : model_(model), memory_(memory) {}

  model_weights<T> run() {
    model_weights<T> out;
    out.layers.resize(model_.layers);
    for (std::uint32_t i = 0; i < model_.tensor_count; ++i) take(model_.tensors[i], out);
    if (out.embedding == nullptr) out.embedding = out.head;
    return out;
  }

private:
  using kind = gpu::tensor_kind;

  void take(const hflex_cuda_tensor& t, model_weights<T>& out) {
    layer_weights<T>& layer = out.layers[t.layer];
    switch (static_cast<kind>(t.kind)) {
    case kind::embedding:
      out.embedding = rows(t);
      break;
    case kind::final_norm:
      out.final_norm = vector(t);
      break;
    case kind::attn_norm:
      layer.attn_norm = vector(t);
      break;
    case kind::qkv:
      layer.qkv = matrix(t);
      break;
    case kind::o:
      layer.o = matrix(t);
      break;
    case kind::mlp_norm:
      layer.mlp_norm = vector(t);
      break;
    case kind::gate_up:
      layer.gate_up = gate_up(t);
      break;
    case kind::down:
      layer.down = matrix(t);
      break;
    case kind::head:
      out.head = matrix(t);
      break;
    case kind::qkv_bias:
      layer.qkv_bias = vector(t);
      break;
    case kind::q_norm:
      layer.q_norm = vector(t);
      break;
    case kind::k_norm:
      layer.k_norm = vector(t);
      break;
    }
  }

  const unsigned char* source(const hflex_cuda_tensor& t) const {
    return static_cast<const unsigned char*>(model_.region) + t.offset;
  }

  /// Norms are one row, biases one column.
  float* vector(const hflex_cuda_tensor& t) {
    const std::size_t count = std::size_t{t.rows} * t.columns;
    float* out = memory_.floats(count);
    memory_.copy(out, source(t), count * sizeof(float));
    return out;
  }

  T* rows(const hflex_cuda_tensor& t) {
    const std::size_t count = std::size_t{t.rows} * t.columns;
    T* out = memory_.elements(count);
    constexpr std::size_t piece = stage_bytes / sizeof(bf16);
    for (std::size_t first = 0; first < count; first += piece) {
      const std::size_t some = std::min(piece, count - first);
      const void* staged = memory_.stage(source(t) + first * sizeof(bf16), some * sizeof(bf16));
      const auto blocks =
          static_cast<std::uint32_t>(std::min<std::size_t>(4096, (some + row_threads - 1) / row_threads));
      memory_.launch(convert<T>, {blocks, 1, 1}, row_threads, 0, static_cast<const bf16*>(staged), std::uint64_t{some},
          blocks, out + first);
    }
    return out;
  }

  T* matrix(const hflex_cuda_tensor& t) {
    T* out = memory_.elements(std::size_t{t.rows} * t.columns);
    unpack_range(t, 0, t.rows, out);
    return out;
  }

  /// The packed gate is padded to whole panels before up begins; here they touch.
  T* gate_up(const hflex_cuda_tensor& t) {
    const std::uint32_t width = model_.intermediate;
    T* out = memory_.elements(std::size_t{2} * width * t.columns);
    unpack_range(t, 0, width, out);
    unpack_range(t, t.rows / 2, width, out + std::size_t{width} * t.columns);
    return out;
  }

  /// Rows [first, first + count), `first` at the beginning of a panel.
  void unpack_range(const hflex_cuda_tensor& t, std::uint32_t first, std::uint32_t count, T* out) {
    const std::uint32_t pairs = (t.columns + 1) / 2;
    const std::size_t panel_bytes = std::size_t{pairs} * unpack_columns * sizeof(std::uint32_t);
    const auto most = static_cast<std::uint32_t>(std::max<std::size_t>(1, stage_bytes / panel_bytes)) * unpack_columns;
    for (std::uint32_t row = 0; row < count; row += most) {
      const std::uint32_t some = std::min(most, count - row);
      const std::uint32_t panels = (some + unpack_columns - 1) / unpack_columns;
      const void* staged =
          memory_.stage(source(t) + (first + row) / unpack_columns * panel_bytes, panels * panel_bytes);
      memory_.launch(unpack<T>, {panels, (pairs + unpack_pairs - 1) / unpack_pairs, 1}, row_threads,
          unpack_shared_words * sizeof(std::uint32_t), static_cast<const std::uint32_t*>(staged), t.columns,
          unpack_rows{0, some}, out + std::size_t{row} * t.columns);
    }
  }

  const hflex_cuda_model& model_;
  Memory& memory_;
};

} // namespace hflex::cuda
