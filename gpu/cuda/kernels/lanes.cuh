// What a kernel sees of the machine: thread and block indices, shared memory, barriers, warp exchange, tensor cores,
// asynchronous copies. Every kernel in this folder is written against these names only, so that the same source
// compiles with nvcc and, where there is no GPU, as plain C++ on tests/support/cuda_emulator.cpp, which defines what
// the second half of this file declares. That is how the kernels are tested on machines without a GPU.
//
// All threads of a block reach a barrier, all 32 lanes of a warp a warp operation: no partial masks anywhere.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define HFLEX_GLOBAL(threads) __global__ void __launch_bounds__(threads)
#define HFLEX_DEVICE __device__ __forceinline__
#define HFLEX_BOTH __host__ __device__ __forceinline__
#define HFLEX_UNROLLED _Pragma("unroll")
#else
#include <cstring>
#define HFLEX_GLOBAL(threads) void
#define HFLEX_DEVICE inline
#define HFLEX_BOTH inline
#define HFLEX_UNROLLED
#endif

namespace hflex::cuda {

inline constexpr unsigned warp_lanes = 32;

struct grid_index {
  unsigned x{}, y{}, z{};
};

/// 16 bytes that move as one; the address is a multiple of 16.
struct alignas(16) quad {
  std::uint32_t word[4];
};

#if defined(__CUDACC__)

HFLEX_DEVICE unsigned thread_index() { return threadIdx.x; }
HFLEX_DEVICE grid_index block_position() { return {blockIdx.x, blockIdx.y, blockIdx.z}; }
/// Dynamic shared memory of the block, 16-byte aligned; its contents are garbage at first.
HFLEX_DEVICE unsigned char* shared_bytes() {
  extern __shared__ __align__(16) unsigned char hflex_shared[];
  return hflex_shared;
}
HFLEX_DEVICE void sync_threads() { __syncthreads(); }
HFLEX_DEVICE quad load_quad(const void* from) {
  const uint4 v = *static_cast<const uint4*>(from);
  return {{v.x, v.y, v.z, v.w}};
}
HFLEX_DEVICE void store_quad(void* to, quad v) {
  *static_cast<uint4*>(to) = make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]);
}
template <class T>
HFLEX_DEVICE T shuffle_xor(T value, unsigned mask) {
  return __shfl_xor_sync(0xffffffffU, value, static_cast<int>(mask));
}
template <class T>
HFLEX_DEVICE void add_shared(T* at, T value) {
  atomicAdd(at, value);
}

/// Starts copying 16 bytes from global to shared memory.
HFLEX_DEVICE void copy_async(void* shared, const void* global) {
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}
/// Closes a group of copies of this thread.
HFLEX_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `Pending` groups of this thread are under way; a barrier makes them visible to the others.
template <int Pending>
HFLEX_DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

/// Loads four 8x8 matrices of 16-bit elements; lane l names row l % 8 of matrix l / 8. out[i] holds elements
/// (lane / 4, 2 (lane % 4)) and the next of matrix i; transposed: (2 (lane % 4), lane / 4) and the one below.
template <bool Transposed>
HFLEX_DEVICE void load_matrices(const void* row, std::uint32_t (&out)[4]) {
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (Transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at)
                 : "memory");
}

#else

unsigned thread_index();
grid_index block_position();
unsigned char* shared_bytes();
void sync_threads();
void copy_async(void* shared, const void* global);
void copy_commit();
void copy_groups_wait(int pending);
/// Every lane gives `bytes`; the result holds all 32 lanes' bytes one after the other, valid until the next exchange.
const unsigned char* warp_exchange(const void* mine, std::size_t bytes);

inline unsigned lane_index() { return thread_index() % warp_lanes; }
inline quad load_quad(const void* from) {
  quad v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline void store_quad(void* to, quad v) { std::memcpy(to, &v, sizeof v); }
template <class T>
T shuffle_xor(T value, unsigned mask) {
  T other;
  std::memcpy(&other, warp_exchange(&value, sizeof value) + (lane_index() ^ mask) * sizeof value, sizeof value);
  return other;
}
template <class T>
void add_shared(T* at, T value) {
  *at += value;
}
template <int Pending>
void copy_wait() {
  copy_groups_wait(Pending);
}

template <bool Transposed>
void load_matrices(const void* row, std::uint32_t (&out)[4]) {
  const auto address = reinterpret_cast<std::uintptr_t>(row);
  const unsigned char* all = warp_exchange(&address, sizeof address);
  const auto element = [&](unsigned matrix, unsigned r, unsigned column) {
    std::uintptr_t from = 0;
    std::memcpy(&from, all + (matrix * 8 + r) * sizeof from, sizeof from);
    std::uint16_t value = 0;
    std::memcpy(&value, reinterpret_cast<const unsigned char*>(from) + column * sizeof value, sizeof value);
    return std::uint32_t{value};
  };
  const unsigned major = lane_index() / 4;
  const unsigned minor = lane_index() % 4 * 2;
  for (unsigned i = 0; i < 4; ++i)
    out[i] = Transposed ? element(i, minor, major) | element(i, minor + 1, major) << 16U
                        : element(i, major, minor) | element(i, major, minor + 1) << 16U;
}

#endif

template <class T>
HFLEX_DEVICE T warp_sum(T value) {
  for (unsigned mask = warp_lanes / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

} // namespace hflex::cuda
