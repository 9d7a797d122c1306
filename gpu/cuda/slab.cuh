// Where a model's tensors lie in one piece of device memory. One piece, so that one descriptor shares all of it, and
// the same places for the same model and element type, so that a process can use what another one unpacked.
#pragma once
#include "gpu/cuda/unpack_model.cuh"

namespace hflex::cuda {

/// Hands out the slab's memory from its beginning; counts it, when there is none yet.
class slab_cutter {
public:
  static constexpr std::size_t alignment = 256; ///< what matrix libraries and wide loads like best

  explicit slab_cutter(std::byte* base) : base_(reinterpret_cast<std::uintptr_t>(base)) {}
  template <class T>
  T* take(std::size_t count) {
    const std::uintptr_t at = base_ + used_;
    used_ += (count * sizeof(T) + alignment - 1) / alignment * alignment;
    return reinterpret_cast<T*>(at);
  }
  std::size_t used() const { return used_; } ///< bytes, a multiple of `alignment`

private:
  std::uintptr_t base_;
  std::size_t used_{0};
};

/// A model_unpacker's memory that moves nothing.
template <class T>
class placing_memory {
public:
  explicit placing_memory(std::byte* base) : cutter_(base) {}
  float* floats(std::size_t count) { return cutter_.template take<float>(count); }
  T* elements(std::size_t count) { return cutter_.template take<T>(count); }
  const void* stage(const void*, std::size_t) { return nullptr; }
  void copy(void*, const void*, std::size_t) {}
  template <class... Parameters, class... Arguments>
  void launch(void (*)(Parameters...), grid_index, unsigned, std::size_t, const Arguments&...) {}
  std::size_t used() const { return cutter_.used(); }

private:
  slab_cutter cutter_;
};

/// The tensors of a slab at `base` that is filled already. Reads only the model's shape.
template <class T>
model_weights<T> place_model(const hflex_cuda_model& model, std::byte* base) {
  placing_memory<T> memory(base);
  return model_unpacker<T, placing_memory<T>>(model, memory).run();
}

/// Bytes of a model's slab.
template <class T>
std::size_t slab_bytes(const hflex_cuda_model& model) {
  placing_memory<T> memory(nullptr);
  model_unpacker<T, placing_memory<T>>(model, memory).run();
  return memory.used();
}

} // namespace hflex::cuda
