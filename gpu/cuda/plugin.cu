// The CUDA plug-in: what of CUDA this machine has. Loaded by gpu/cuda_plugin.cpp; the device context joins it here.
#include "gpu/cuda/plugin_abi.hpp"
#include <cstdio>
#include <cstring>
#include <cuda_runtime.h>
#if defined(HFLEX_WITH_NCCL)
#include <nccl.h>
#endif

namespace {

bool failed(cudaError_t e, const char* what, char* fault, std::size_t fault_bytes) {
  if (e == cudaSuccess) return false;
  std::snprintf(fault, fault_bytes, "%s: %s", what, cudaGetErrorString(e));
  return true;
}

bool describe(int index, hflex_cuda_device& out, char* fault, std::size_t fault_bytes) {
  cudaDeviceProp properties{};
  if (failed(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties", fault, fault_bytes)) return false;
  std::strncpy(out.name, properties.name, sizeof(out.name) - 1);
  out.name[sizeof(out.name) - 1] = '\0';
  out.compute_major = properties.major;
  out.compute_minor = properties.minor;
  std::size_t free_bytes = 0;
  std::size_t all_bytes = 0;
  if (failed(cudaSetDevice(index), "cudaSetDevice", fault, fault_bytes)) return false;
  if (failed(cudaMemGetInfo(&free_bytes, &all_bytes), "cudaMemGetInfo", fault, fault_bytes)) return false;
  out.memory_bytes = all_bytes;
  out.memory_free_bytes = free_bytes;
  return true;
}

} // namespace

extern "C" std::uint32_t hflex_cuda_abi_version() { return hflex_cuda_abi; }

extern "C" int hflex_cuda_devices(hflex_cuda_device* out, int capacity, char* fault, std::size_t fault_bytes) {
  int count = 0;
  if (failed(cudaGetDeviceCount(&count), "no CUDA device", fault, fault_bytes)) return -1;
  for (int i = 0; i < count && i < capacity; ++i)
    if (!describe(i, out[i], fault, fault_bytes)) return -1;
  return count;
}

extern "C" int hflex_cuda_nccl_version() {
#if defined(HFLEX_WITH_NCCL)
  int version = 0;
  return ncclGetVersion(&version) == ncclSuccess ? version : 0;
#else
  return 0;
#endif
}
