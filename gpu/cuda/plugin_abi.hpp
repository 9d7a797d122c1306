// What the CUDA plug-in and the program agree on: plain C, so that they may come from different compilers.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

constexpr std::uint32_t hflex_cuda_abi = 1;

struct hflex_cuda_device { // NOLINT(readability-identifier-naming)
  char name[128];
  std::int32_t compute_major;
  std::int32_t compute_minor;
  std::uint64_t memory_bytes;
  std::uint64_t memory_free_bytes;
};

/// Version of this interface; checked before anything else.
using hflex_cuda_abi_version_fn = std::uint32_t();
/// Fills `out` with up to `capacity` devices and returns how many there are; -1 with words in `fault` when CUDA cannot
/// be used.
using hflex_cuda_devices_fn = int(hflex_cuda_device* out, int capacity, char* fault, std::size_t fault_bytes);
/// NCCL's version number (22809 = 2.28.9), 0 without NCCL.
using hflex_cuda_nccl_version_fn = int();
}
