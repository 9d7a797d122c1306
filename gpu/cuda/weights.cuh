// One model's weights on one device, unpacked once and shared by the contexts that run it.
#pragma once
#include "gpu/cuda/device_memory.cuh"
#include "gpu/cuda/kernels/checksum.cuh"
#include "gpu/cuda/slab.cuh"
#include <list>
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
  std::unique_ptr<device_memory> memory; ///< one slab, as slab.cuh cuts it
};

template <class T>
struct typed_weights final : device_weights {
  model_weights<T> values;
};

/// What model_unpacker needs. A region that is page-locked is copied from where it lies; otherwise two pinned buffers
/// take turns: one is filled while the other is on its way.
template <class T>
class weight_loader : public device_stream {
public:
  weight_loader(std::byte* slab, const hflex_cuda_upload& how, fault_box& faults)
      : device_stream(faults), weights_(slab), how_(how), faults_(faults), done_{{faults, false}, {faults, false}} {
    for (auto& b : buffers_)
      b = {how.locked != 0 ? nullptr : own_.pinned<std::byte>(stage_bytes, faults),
          own_.device<std::byte>(stage_bytes, faults)};
  }

  float* floats(std::size_t count) { return weights_.template take<float>(count); }
  T* elements(std::size_t count) { return weights_.template take<T>(count); }
  /// Of a vector: so little that it needs no pinned buffer, whose turn it would take from a matrix.
  void copy(void* to, const void* from, std::size_t bytes) {
    if (how_.locked == 0) from = bring(vectors_.emplace_back(bytes).data(), from, bytes);
    device_stream::copy(to, from, bytes);
  }
  const void* stage(const void* from, std::size_t bytes) {
    if (bytes > stage_bytes) faults_.note("weights", "one panel is larger than the staging buffer");
    if (faults_.bad()) return nullptr;
    if (how_.locked == 0) {
      from = fill_next(from, bytes);
    } else {
      turn_ ^= 1U; // the stream's order keeps what was launched before off the buffer
    }
    device_stream::copy(buffers_[turn_].device, from, bytes);
    return buffers_[turn_].device;
  }

private:
  struct buffer {
    std::byte* host{};
    std::byte* device{};
  };
  const void* fill_next(const void* from, std::size_t bytes) {
    record(done_[turn_].get()); // what was launched since the last call has read that buffer then
    turn_ ^= 1U;
    faults_.check(cudaEventSynchronize(done_[turn_].get()), "cudaEventSynchronize");
    return bring(buffers_[turn_].host, from, bytes);
  }
  const void* bring(std::byte* to, const void* from, std::size_t bytes) {
    if (!faults_.bad() && how_.copy(how_.user, to, from, bytes) != 0)
      faults_.note("weights", "the rest of them does not come");
    return to;
  }

  slab_cutter weights_;
  const hflex_cuda_upload& how_;
  memory_owner own_;
  fault_box& faults_;
  buffer buffers_[2];
  device_event done_[2];
  unsigned turn_{};
  std::list<std::vector<std::byte>> vectors_; ///< on their way
};

/// What is known of weights before they are anywhere.
template <class T>
std::unique_ptr<typed_weights<T>> describe_weights(const hflex_cuda_model& m, int device, hflex_cuda_element element) {
  auto out = std::make_unique<typed_weights<T>>();
  out->device = device;
  out->element = element;
  out->shape = {m.hidden, m.intermediate, m.layers, m.heads, m.kv_heads, m.head_dim, m.vocab, m.rms_norm_eps};
  out->frequencies.assign(m.rope_frequencies, m.rope_frequencies + m.head_dim / 2);
  out->max_context = m.max_context;
  return out;
}

/// Weights from the host's region, on `device`, which is current. Null when it fails.
template <class T>
std::unique_ptr<device_weights> load_device_weights(const hflex_cuda_model& m, int device, hflex_cuda_element element,
    const hflex_cuda_upload& how, fault_box& faults) {
  auto out = describe_weights<T>(m, device, element);
  out->memory = device_memory::make(slab_bytes<T>(m), device, faults);
  if (out->memory == nullptr) return nullptr;
  weight_loader<T> loader(out->memory->data(), how, faults);
  out->values = model_unpacker<T, weight_loader<T>>(m, loader).run();
  loader.wait();
  if (faults.bad()) return nullptr;
  return out;
}

/// Blocks.
inline std::uint64_t checksum_of(const device_memory& memory, fault_box& faults) {
  memory_owner own;
  device_stream stream(faults);
  std::vector<std::uint64_t> sums(checksum_blocks);
  auto* partial = own.device<std::uint64_t>(checksum_blocks, faults);
  stream.launch(sum_words<std::uint64_t>, {checksum_blocks, 1, 1}, checksum_threads,
      checksum_threads / warp_lanes * sizeof(std::uint64_t), reinterpret_cast<const std::uint64_t*>(memory.data()),
      std::uint64_t{memory.bytes() / sizeof(std::uint64_t)}, partial);
  stream.copy(sums.data(), partial, sums.size() * sizeof(sums[0]));
  stream.wait();
  std::uint64_t sum = 0;
  for (const auto s : sums) sum += s;
  return sum;
}

/// A slab that came from elsewhere becomes weights when it is right.
template <class T>
std::unique_ptr<device_weights> finish_weights(
    const hflex_cuda_model& m, std::unique_ptr<typed_weights<T>> weights, std::uint64_t checksum, fault_box& faults) {
  const auto sum = checksum_of(*weights->memory, faults);
  if (!faults.bad() && sum != checksum) faults.note("weights of another process", "their checksum is wrong");
  if (faults.bad()) return nullptr;
  weights->values = place_model<T>(m, weights->memory->data());
  return weights;
}

/// Weights from the memory that another process, or another device of this one, has them in: used where they are when
/// they are on `device`, copied from device to device otherwise. `device` is current. Null when it fails: they come
/// from the host then.
template <class T>
std::unique_ptr<device_weights> adopt_device_weights(
    const hflex_cuda_model& m, int device, hflex_cuda_element element, const device_share& from, fault_box& faults) {
  auto out = describe_weights<T>(m, device, element);
  if (from.bytes != slab_bytes<T>(m)) {
    faults.note("shared weights", "they are of another size");
    return nullptr;
  }
  auto theirs = device_memory::adopt(from.fd, from.bytes, device, faults);
  if (theirs == nullptr) return nullptr;
  if (from.same_device) {
    out->memory = std::move(theirs);
  } else {
    out->memory = device_memory::make(from.bytes, device, faults);
    if (out->memory == nullptr) return nullptr;
    device_stream stream(faults);
    stream.copy(out->memory->data(), theirs->data(), from.bytes);
    stream.wait();
  }
  return finish_weights<T>(m, std::move(out), from.checksum, faults);
}

/// Weights that `receive` brings from another host. `device` is current. Null when it fails.
template <class T>
std::unique_ptr<device_weights> receive_device_weights(const hflex_cuda_model& m, int device,
    hflex_cuda_element element, const hflex_cuda_ticket& ticket, const receiver& receive, fault_box& faults) {
  auto out = describe_weights<T>(m, device, element);
  if (ticket.bytes != slab_bytes<T>(m)) {
    faults.note("received weights", "they are of another size");
    return nullptr;
  }
  out->memory = device_memory::make(ticket.bytes, device, faults);
  if (out->memory == nullptr) return nullptr;
  receive(out->memory->data(), ticket.bytes);
  if (faults.bad()) return nullptr;
  return finish_weights<T>(m, std::move(out), ticket.checksum, faults);
}

} // namespace hflex::cuda
