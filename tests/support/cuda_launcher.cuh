// The emulator's names on a real device: the kernel tests are compiled a second time by nvcc, with test data in managed
// memory and every launch waited for. There is one order of threads, the device's.
#pragma once
#include "gpu/cuda/kernels/lanes.cuh"
#include <cuda_runtime.h>
#include <new>
#include <stdexcept>

namespace hflex::test {

enum class thread_order { forward, backward };
inline constexpr thread_order both_orders[] = {thread_order::forward};

struct launch_shape {
  cuda::grid_index grid;
  unsigned threads{};
  std::size_t shared_bytes{};
};

template <class... Parameters, class... Arguments>
void emulate(const launch_shape& shape, thread_order, void (*kernel)(Parameters...), const Arguments&... arguments) {
  kernel<<<dim3(shape.grid.x, shape.grid.y, shape.grid.z), shape.threads, shape.shared_bytes>>>(
      static_cast<Parameters>(arguments)...);
  cudaError_t e = cudaGetLastError();
  if (e == cudaSuccess) e = cudaDeviceSynchronize();
  if (e != cudaSuccess) throw std::runtime_error(cudaGetErrorString(e));
}

/// Memory that host and device see; the host's where there is no device, so that tests get as far as saying so.
template <class T>
struct kernel_allocator {
  using value_type = T;
  kernel_allocator() = default;
  template <class U>
  kernel_allocator(const kernel_allocator<U>&) {}
  T* allocate(std::size_t count) {
    void* at = nullptr;
    if (cudaMallocManaged(&at, count * sizeof(T)) != cudaSuccess) throw std::bad_alloc();
    return static_cast<T*>(at);
  }
  void deallocate(T* at, std::size_t) { cudaFree(at); }
  friend bool operator==(const kernel_allocator&, const kernel_allocator&) { return true; }
};

} // namespace hflex::test
