// A device context of one element type: KV pool, work space, the compute stream, and captured graphs for batches of
// single tokens. The program's worker thread drives it: launch, poll, collect; KV moves come from any thread.
//
// A bucket's first step runs as it is (kernels are loaded and products planned then), its second is captured, later
// ones launch the graph. When capture fails, steps run ungraphed from then on.
#pragma once
#include "gpu/cuda/context.hpp"
#include "gpu/cuda/copy_lane.cuh"
#include "gpu/cuda/weights.cuh"
#include <atomic>
#include <map>
#include <memory>

namespace hflex::cuda {

template <class T>
class typed_context final : public device_context {
public:
  typed_context(const typed_weights<T>& weights, const hflex_cuda_options& o, fault_box& faults)
      : weights_(weights),
        processors_(processors_of(weights.device, faults)), rules_{o.block_size, o.blocks, weights.shape.group(),
                                                                sizeof(T) == 2, o.max_batched_tokens},
        stream_(faults_), products_(faults_), begin_(faults_, true), end_(faults_, true),
        reads_(weights.device, row_bytes(), faults_), writes_(weights.device, row_bytes(), faults_) {
    allocate();
    make_arrays(o.blocks + 2 * o.max_batched_tokens + weights.max_context / o.block_size);
    if (faults_.bad()) faults.note("device context", faults_.fault().words);
  }
  ~typed_context() override {
    cudaSetDevice(weights_.device);
    cudaStreamSynchronize(stream_.get());
    drop_graphs();
  }

  std::uint64_t bytes() const override { return memory_.bytes() + array_bytes_ + reads_.bytes() + writes_.bytes(); }

  hflex_cuda_status launch(const hflex_cuda_step& step, hflex_cuda_fault& fault) override {
    const step_shape shape = shape_of(rules_, step);
    faults_.clear();
    faults_.check(cudaSetDevice(weights_.device), "cudaSetDevice");
    if (shape.tables > arrays_->tables && !make_arrays(2 * shape.tables)) {
      fault = faults_.fault();
      return hflex_cuda_rejected;
    }
    lay_out(rules_, step, shape, step_arrays::at(arrays_->host, shape.capacity));
    samples_ = 0;
    for (std::uint32_t i = 0; i < step.item_count; ++i) samples_ += step.items[i].sample;
    for (auto& m : marks_) m.step = {step.signal, step.user};
    reports_layers_ = step.wants_layers != 0;

    stream_.record(begin_.get());
    stream_.copy(arrays_->device, arrays_->host, step_arrays::bytes(shape.capacity, shape.tables));
    compute(shape);
    if (samples_ > 0) stream_.copy(host_sampled_, work_.sampled, samples_ * sizeof(std::int32_t));
    stream_.record(end_.get());
    stream_.call(&typed_context::signal, &marks_.back());
    if (!faults_.bad()) return hflex_cuda_ok;
    cudaStreamSynchronize(stream_.get()); // nothing of the step may run on
    fault = faults_.fault();
    return hflex_cuda_failed;
  }

  hflex_cuda_status poll(hflex_cuda_fault& fault) override {
    cudaSetDevice(weights_.device);
    const cudaError_t e = cudaStreamQuery(stream_.get());
    if (e == cudaSuccess) return hflex_cuda_ok;
    if (e == cudaErrorNotReady) return hflex_cuda_busy;
    std::snprintf(fault.words, sizeof fault.words, "step: %s", cudaGetErrorString(e));
    return hflex_cuda_failed;
  }

  hflex_cuda_status collect(std::int32_t* tokens, std::uint64_t& elapsed_ns, hflex_cuda_fault& fault) override {
    float milliseconds = 0.0F;
    faults_.check(cudaSetDevice(weights_.device), "cudaSetDevice");
    // `finished` was signalled behind the last event, so this waits for nothing.
    faults_.check(cudaEventSynchronize(end_.get()), "cudaEventSynchronize");
    faults_.check(cudaEventElapsedTime(&milliseconds, begin_.get(), end_.get()), "cudaEventElapsedTime");
    fault = faults_.fault();
    if (faults_.bad()) return hflex_cuda_failed;
    std::copy_n(host_sampled_, samples_, tokens);
    elapsed_ns = static_cast<std::uint64_t>(static_cast<double>(milliseconds) * 1e6);
    return hflex_cuda_ok;
  }

  hflex_cuda_status read_kv(std::uint32_t layer, const std::uint32_t* slots, std::uint32_t count, void* out,
      hflex_cuda_fault& fault) override {
    forward_type pass = make_pass();
    return reads_.template move<false>(
        pass.keys(layer), pass.values(layer), slots, count, static_cast<std::byte*>(out), fault);
  }
  hflex_cuda_status write_kv(std::uint32_t layer, const std::uint32_t* slots, std::uint32_t count, const void* in,
      hflex_cuda_fault& fault) override {
    forward_type pass = make_pass();
    return writes_.template move<true>(pass.keys(layer), pass.values(layer), slots, count,
        static_cast<std::byte*>(const_cast<void*>(in)), fault); // read only: one staging routine serves both directions
  }

  /// What forward.cuh asks of a stream.
  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), grid_index grid, unsigned threads, std::size_t shared,
      const Arguments&... arguments) {
    stream_.launch(kernel, grid, threads, shared, arguments...);
  }
  void multiply(const product<T>& p) { products_.run(p, stream_.get()); }
  void layer_done(std::uint32_t layer) {
    if (reports_layers_) stream_.call(&typed_context::signal, &marks_[layer]);
  }

private:
  using forward_type = forward<T, typed_context>;

  /// What a host function is told: the step's signal and its argument.
  struct mark {
    struct {
      hflex_cuda_signal* signal{};
      void* user{};
    } step;
    std::uint32_t layer{};
  };
  struct graph {
    cudaGraphExec_t executable{};
    bool seen{};
  };
  /// A step's arrays, on the device and where they are laid out, with so many entries of block tables.
  struct array_room {
    memory_owner memory;
    unsigned char* device{};
    unsigned char* host{};
    std::uint32_t tables{};
  };

  static int processors_of(int device, fault_box& faults) {
    int count = 0;
    faults.check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
    return std::max(1, count);
  }
  std::size_t row_bytes() const { return std::size_t{weights_.shape.kv_heads} * weights_.shape.head_dim * sizeof(T); }

  static void CUDART_CB signal(void* at) {
    const auto& m = *static_cast<const mark*>(at);
    m.step.signal(m.step.user, m.layer);
  }

  void allocate() {
    const model_shape& m = weights_.shape;
    const work_sizes n(m, rules_.max_rows, static_cast<std::uint32_t>(processors_));
    const std::size_t kv =
        std::size_t{m.layers} * 2 * (std::size_t{rules_.blocks} + 1) * rules_.block_size * m.kv_heads * m.head_dim;
    work_.x = memory_.device<float>(n.x, faults_);
    work_.normed = memory_.device<T>(n.normed, faults_);
    work_.qkv = memory_.device<T>(n.qkv, faults_);
    work_.attended = memory_.device<T>(n.attended, faults_);
    work_.cos_sin = memory_.device<float>(n.cos_sin, faults_);
    work_.gate_up = memory_.device<T>(n.gate_up, faults_);
    work_.activated = memory_.device<T>(n.activated, faults_);
    work_.logits = memory_.device<float>(n.logits, faults_);
    work_.partial = memory_.device<float>(n.partial, faults_);
    work_.sampled = memory_.device<std::int32_t>(n.sampled, faults_);
    work_.inverse_frequency = memory_.device<float>(m.head_dim / 2, faults_);
    work_.kv = memory_.device<T>(kv, faults_);
    host_sampled_ = memory_.pinned<std::int32_t>(n.sampled, faults_);
    if (faults_.bad()) return;
    // Products read rows up to a round number: those that nobody writes are zeros, not what was there before.
    zero(work_.x, n.x * sizeof(float));
    zero(work_.normed, n.normed * sizeof(T));
    zero(work_.attended, n.attended * sizeof(T));
    zero(work_.activated, n.activated * sizeof(T));
    zero(work_.kv, kv * sizeof(T));
    const auto& frequencies = weights_.frequencies;
    stream_.copy(work_.inverse_frequency, frequencies.data(), frequencies.size() * sizeof(float));
    stream_.wait();
    for (std::uint32_t layer = 0; layer < m.layers; ++layer) marks_.push_back({{}, layer});
    marks_.push_back({{}, hflex_cuda_finished});
  }

  /// Room for more block tables than there was; false when there is no memory for it, and then nothing has changed. How
  /// many a step has is not bounded by the pool: sequences with a prefix in common share its blocks.
  bool make_arrays(std::uint32_t tables) {
    auto room = std::make_unique<array_room>();
    const std::size_t bytes = step_arrays::bytes(rules_.max_rows, tables);
    room->device = room->memory.template device<unsigned char>(bytes, faults_);
    room->host = room->memory.template pinned<unsigned char>(bytes, faults_);
    room->tables = tables;
    if (faults_.bad()) return false;
    drop_graphs(); // they read the arrays where they lay
    arrays_ = std::move(room);
    array_bytes_ = bytes;
    return true;
  }

  void drop_graphs() {
    for (auto& [bucket, g] : graphs_)
      if (g.executable != nullptr) cudaGraphExecDestroy(g.executable);
    graphs_.clear();
  }

  void zero(void* at, std::size_t bytes) {
    if (!faults_.bad()) faults_.check(cudaMemsetAsync(at, 0, bytes, stream_.get()), "cudaMemsetAsync");
  }

  forward_type make_pass() {
    return forward_type(weights_.shape, weights_.values, work_, rules_, static_cast<std::uint32_t>(processors_), *this);
  }

  /// Runs the pass or its graph.
  void compute(const step_shape& shape) {
    const step_arrays in = step_arrays::at(arrays_->device, shape.capacity);
    if (!shape.padded || !graphs_work_) {
      make_pass().run(shape, in);
      return;
    }
    graph& g = graphs_[shape.rows];
    if (g.executable == nullptr && g.seen) capture(g, shape, in);
    if (g.executable == nullptr)
      make_pass().run(shape, in);
    else if (!faults_.bad())
      faults_.check(cudaGraphLaunch(g.executable, stream_.get()), "cudaGraphLaunch");
    g.seen = true;
  }

  void capture(graph& g, const step_shape& shape, const step_arrays& in) {
    if (faults_.bad()) return;
    cudaGraph_t captured = nullptr;
    faults_.check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    make_pass().run(shape, in);
    const cudaError_t ended = cudaStreamEndCapture(stream_.get(), &captured);
    if (!faults_.bad() && faults_.check(ended, "cudaStreamEndCapture"))
      faults_.check(cudaGraphInstantiate(&g.executable, captured, 0), "cudaGraphInstantiate");
    if (captured != nullptr) cudaGraphDestroy(captured);
    if (!faults_.bad()) return;
    faults_.clear(); // the work is still to be done: without a graph
    cudaGetLastError();
    g.executable = nullptr;
    graphs_work_ = false;
  }

  const typed_weights<T>& weights_;
  const int processors_;
  const layout_rules rules_;
  fault_box faults_; ///< of the step in progress
  device_stream stream_;
  matrix_products products_;
  device_event begin_;
  device_event end_;
  copy_lane reads_;
  copy_lane writes_;
  memory_owner memory_;
  work_space<T> work_;
  std::unique_ptr<array_room> arrays_;
  std::atomic<std::uint64_t> array_bytes_{0}; ///< asked for by any thread
  std::int32_t* host_sampled_{};
  std::uint32_t samples_{};
  bool reports_layers_{};
  std::vector<mark> marks_; ///< one for each layer, then `finished`
  std::map<std::uint32_t, graph> graphs_;
  bool graphs_work_{true};
};

template <class T>
std::unique_ptr<device_context> make_device_context(
    const device_weights& weights, const hflex_cuda_options& options, fault_box& faults) {
  auto out = std::make_unique<typed_context<T>>(static_cast<const typed_weights<T>&>(weights), options, faults);
  if (faults.bad()) return nullptr;
  return out;
}

template <class T>
context_maker maker_of() {
  return {&load_device_weights<T>, &adopt_device_weights<T>, &receive_device_weights<T>, &make_device_context<T>};
}

} // namespace hflex::cuda
