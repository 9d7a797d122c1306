// What the hardware can do, measured without our kernels: the yardstick of cuda_bench. Plain types: nvcc compiles the
// other side.
#pragma once
#include <cstddef>

namespace hflex::bench {

struct machine_rates {
  double device_copy_gbs{}; ///< device to device, read and written bytes together
  double h2d_pageable_gbs{};
  double h2d_pinned_gbs{};
  double d2h_pinned_gbs{};
  double page_cache_gbs{}; ///< a file that is in memory, read and copied to the device
  double disk_gbs{};       ///< the same after the system has been asked to forget the file; 0: not measured
  double ipc_gbs{};        ///< out of another process' memory; 0: not measured
  double matrix_tflops{};  ///< bf16 product of 8192 x 4096 by 28672 x 4096, cuBLASLt
};

/// A second process for the measurement between processes; made before this one touches CUDA.
class ipc_peer {
public:
  ipc_peer();
  ~ipc_peer();
  ipc_peer(const ipc_peer&) = delete;
  ipc_peer& operator=(const ipc_peer&) = delete;
  /// Has the peer copy `bytes` from device memory of this process into its own; GB/s, 0 when it cannot.
  double copy_rate(void* device_memory, std::size_t bytes);

private:
  int to_peer_{-1};
  int from_peer_{-1};
  int child_{-1};
};

/// False, with words on standard error, when something fails.
bool measure_rates(ipc_peer& peer, machine_rates& out);

} // namespace hflex::bench
