// One model's weights on one device, unpacked once and shared by the contexts that run it.
#pragma once
#include "gpu/cuda/stream.cuh"
#include "gpu/cuda/unpack_model.cuh"
#include <cstring>
#include <vector>

namespace hflex::cuda {

/// Weights of any element type.
struct device_weights {
  virtual ~device_weights() = default;
  int device{};
  hflex_cuda_element element{};
  model_shape shape;
  std::vector<float> frequencies; ///< [head_dim / 2]
  std::uint32_t max_context{};
  memory_owner memory;
};

template <class T>
struct typed_weights final : device_weights {
  model_weights<T> values;
};

/// What model_unpacker needs. Two pinned buffers take turns: one is filled while the other is on its way.
template <class T>
class weight_loader : public device_stream {
public:
  weight_loader(memory_owner& weights, fault_box& faults)
      : device_stream(faults), weights_(weights), faults_(faults), done_{{faults, false}, {faults, false}} {
    for (auto& b : buffers_)
      b = {own_.pinned<std::byte>(stage_bytes, faults), own_.device<std::byte>(stage_bytes, faults)};
  }

  float* floats(std::size_t count) { return weights_.device<float>(count, faults_); }
  T* elements(std::size_t count) { return weights_.device<T>(count, faults_); }
  const void* stage(const void* from, std::size_t bytes) {
    if (bytes > stage_bytes) faults_.note("weights", "one panel is larger than the staging buffer");
    if (faults_.bad()) return nullptr;
    record(done_[turn_].get()); // what was launched since the last call has read that buffer then
    turn_ ^= 1U;
    faults_.check(cudaEventSynchronize(done_[turn_].get()), "cudaEventSynchronize");
    if (faults_.bad()) return nullptr;
    std::memcpy(buffers_[turn_].host, from, bytes);
    copy(buffers_[turn_].device, buffers_[turn_].host, bytes);
    return buffers_[turn_].device;
  }

private:
  struct buffer {
    std::byte* host{};
    std::byte* device{};
  };
  memory_owner& weights_;
  memory_owner own_;
  fault_box& faults_;
  buffer buffers_[2];
  device_event done_[2];
  unsigned turn_{};
};

/// Null when it fails.
template <class T>
std::unique_ptr<device_weights> load_device_weights(const hflex_cuda_model& m, fault_box& faults) {
  auto out = std::make_unique<typed_weights<T>>();
  out->shape = {m.hidden, m.intermediate, m.layers, m.heads, m.kv_heads, m.head_dim, m.vocab, m.rms_norm_eps};
  out->frequencies.assign(m.rope_frequencies, m.rope_frequencies + m.head_dim / 2);
  out->max_context = m.max_context;
  weight_loader<T> loader(out->memory, faults);
  out->values = model_unpacker<T, weight_loader<T>>(m, loader).run();
  loader.wait();
  if (faults.bad()) return nullptr;
  return out;
}

} // namespace hflex::cuda
