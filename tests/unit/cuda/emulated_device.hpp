// The CUDA forward pass on the emulator: the demo model's weights unpacked by the real kernel, steps laid out by the
// real layout, the real launch sequence; only the products are plain loops instead of a library's.
#pragma once
#include "gpu/cuda/forward.cuh"
#include "gpu/cuda/model_source.hpp"
#include "gpu/cuda/unpack_model.cuh"
#include "tests/unit/cuda/cuda_fixture.cuh"
#include "tests/unit/gpu/engine_fixture.hpp"
#include <cstring>
#include <list>

namespace hflex::test {

/// Stream and memory in one.
class emulated_stream {
public:
  explicit emulated_stream(thread_order order) : order_(order) {}

  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), cuda::grid_index grid, unsigned threads, std::size_t shared,
      const Arguments&... arguments) {
    emulate({grid, threads, shared}, order_, kernel, static_cast<Parameters>(arguments)...);
  }
  template <class T>
  void multiply(const cuda::product<T>& p) {
    for (std::uint32_t r = 0; r < p.rows; ++r)
      for (std::uint32_t n = 0; n < p.n; ++n) {
        float sum = 0.0F;
        for (std::uint32_t k = 0; k < p.k; ++k)
          sum += cuda::to_float(p.x[std::size_t{r} * p.k + k]) * cuda::to_float(p.w[std::size_t{n} * p.k + k]);
        const std::size_t at = std::size_t{r} * p.n + n;
        if (p.adds)
          static_cast<float*>(p.y)[at] += sum;
        else if (p.wide)
          static_cast<float*>(p.y)[at] = sum;
        else
          static_cast<T*>(p.y)[at] = cuda::to<T>(sum);
      }
  }
  void layer_done(std::uint32_t layer) { layers.push_back(layer); }

  void* allocate(std::size_t bytes) {
    memory_.emplace_back(bytes, std::byte{0xff}); // NaNs: what nobody wrote must not matter
    return memory_.back().data();
  }
  float* floats(std::size_t count) { return static_cast<float*>(allocate(count * sizeof(float))); }
  const void* stage(const void* from, std::size_t bytes) {
    staged_.assign(static_cast<const std::byte*>(from), static_cast<const std::byte*>(from) + bytes);
    return staged_.data();
  }
  void copy(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }

  std::vector<std::uint32_t> layers;

private:
  thread_order order_;
  std::list<std::vector<std::byte>> memory_;
  std::vector<std::byte> staged_;
};

template <class T>
struct emulated_memory : emulated_stream {
  using emulated_stream::emulated_stream;
  T* elements(std::size_t count) { return static_cast<T*>(allocate(count * sizeof(T))); }
};

template <class T>
class emulated_device {
public:
  static constexpr std::uint32_t blocks = 64;
  static constexpr std::uint32_t block_size = 16;
  static constexpr std::uint32_t max_rows = 300;
  static constexpr std::uint32_t processors = 8;

  explicit emulated_device(thread_order order = thread_order::forward,
      const std::shared_ptr<const gpu::weight_region>& weights = demo_weights())
      : memory_(order), source_(*weights),
        weights_(cuda::model_unpacker<T, emulated_memory<T>>(source_.model, memory_).run()) {
    const auto& c = source_.config;
    shape_ = {c.hidden, c.intermediate, c.layers, c.heads, c.kv_heads, c.head_dim, c.vocab, c.rms_norm_eps};
    rules_ = {block_size, blocks, shape_.group(), sizeof(T) == 2, max_rows};
    const cuda::work_sizes n(shape_, max_rows, processors);
    work_ = {memory_.floats(n.x), memory_.elements(n.normed), memory_.elements(n.qkv), memory_.elements(n.attended),
        memory_.floats(n.cos_sin), memory_.elements(n.gate_up), memory_.elements(n.activated), memory_.floats(n.logits),
        memory_.floats(n.partial), static_cast<std::int32_t*>(memory_.allocate(n.sampled * sizeof(std::int32_t))),
        memory_.floats(shape_.head_dim / 2),
        memory_.elements(
            std::size_t{shape_.layers} * 2 * (blocks + 1) * block_size * shape_.kv_heads * shape_.head_dim)};
    std::copy(source_.frequencies.begin(), source_.frequencies.end(), work_.inverse_frequency);
  }

  /// Runs a step; one token per item that samples.
  tokens run(const std::vector<gpu::step_item>& items, bool wants_layers = false) {
    std::vector<hflex_cuda_item> flat;
    for (const auto& i : items)
      flat.push_back({i.tokens.data(), static_cast<std::uint32_t>(i.tokens.size()), i.position, i.block_table.data(),
          static_cast<std::uint32_t>((i.position + i.tokens.size() + block_size - 1) / block_size), i.sample ? 1U : 0U,
          i.sampling.temperature, i.sampling.top_p, i.sampling.top_k, i.output_index, i.sampling.seed});
    const hflex_cuda_step step{
        flat.data(), static_cast<std::uint32_t>(flat.size()), wants_layers ? 1U : 0U, nullptr, nullptr};
    last_shape = cuda::shape_of(rules_, step);
    std::vector<std::uint64_t> arrays(cuda::step_arrays::bytes(last_shape.capacity, last_shape.tables) / 8 + 1);
    const auto in = cuda::step_arrays::at(arrays.data(), last_shape.capacity);
    cuda::lay_out(rules_, step, last_shape, in);
    memory_.layers.clear();
    cuda::forward<T, emulated_memory<T>>(shape_, weights_, work_, rules_, processors, memory_).run(last_shape, in);
    const auto sampled = std::count_if(items.begin(), items.end(), [](const auto& i) { return i.sample; });
    return tokens(work_.sampled, work_.sampled + sampled);
  }
  /// Logits of the step's sampled row `row`.
  std::span<const float> logits(std::size_t row) const { return {work_.logits + row * shape_.vocab, shape_.vocab}; }
  const std::vector<std::uint32_t>& layers() const { return memory_.layers; }

  cuda::step_shape last_shape;

private:
  emulated_memory<T> memory_;
  gpu::cuda_model_source source_;
  cuda::model_weights<T> weights_;
  cuda::model_shape shape_;
  cuda::layout_rules rules_;
  cuda::work_space<T> work_;
};

} // namespace hflex::test
