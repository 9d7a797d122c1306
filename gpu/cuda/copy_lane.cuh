// KV rows between a pool and host memory: a stream of its own with pinned staging, so that a hand-over neither waits
// for the compute stream nor makes it wait. One lane for each direction; any thread.
#pragma once
#include "gpu/cuda/stream.cuh"
#include <cstring>
#include <mutex>

namespace hflex::cuda {

class copy_lane {
public:
  /// `row_bytes`: one token's keys of one layer, a multiple of 16.
  copy_lane(int device, std::size_t row_bytes, fault_box& faults)
      : device_(device), row_bytes_(row_bytes), stream_(faults_),
        rows_(static_cast<std::uint32_t>(std::max<std::size_t>(1, staging_bytes / (2 * row_bytes)))) {
    host_ = memory_.pinned<std::byte>(2 * rows_ * row_bytes_, faults);
    staging_ = memory_.device<std::byte>(2 * rows_ * row_bytes_, faults);
    host_slots_ = memory_.pinned<std::uint32_t>(rows_, faults);
    slots_ = memory_.device<std::uint32_t>(rows_, faults);
    if (faults_.bad()) faults.note("copy stream", faults_.fault().words);
  }
  std::uint64_t bytes() const { return memory_.bytes(); }

  /// keys, values: the first row of the layer in the pool. host: [2][count][row_bytes].
  template <bool Write>
  hflex_cuda_status move(void* keys, void* values, const std::uint32_t* slots, std::uint32_t count, std::byte* host,
      hflex_cuda_fault& fault) {
    const std::lock_guard lock(mutex_);
    faults_.clear();
    faults_.check(cudaSetDevice(device_), "cudaSetDevice");
    for (std::uint32_t first = 0; first < count && !faults_.bad(); first += rows_)
      move_some<Write>(keys, values, slots + first, std::min(rows_, count - first), host + first * row_bytes_,
          std::size_t{count} * row_bytes_);
    fault = faults_.fault();
    return faults_.bad() ? hflex_cuda_failed : hflex_cuda_ok;
  }

private:
  static constexpr std::size_t staging_bytes = std::size_t{4} << 20U;

  /// `side_bytes`: from a token's keys to its values on the host.
  template <bool Write>
  void move_some(void* keys, void* values, const std::uint32_t* slots, std::uint32_t count, std::byte* host,
      std::size_t side_bytes) {
    const std::size_t bytes = count * row_bytes_;
    std::memcpy(host_slots_, slots, count * sizeof *slots);
    stream_.copy(slots_, host_slots_, count * sizeof *slots);
    if constexpr (Write) {
      std::memcpy(host_, host, bytes);
      std::memcpy(host_ + bytes, host + side_bytes, bytes);
      stream_.copy(staging_, host_, 2 * bytes);
    }
    stream_.launch(move_kv<Write>, {count, 2, 1}, row_threads, 0, static_cast<quad*>(keys), static_cast<quad*>(values),
        slots_, count, static_cast<std::uint32_t>(row_bytes_ / sizeof(quad)), reinterpret_cast<quad*>(staging_));
    if constexpr (!Write) stream_.copy(host_, staging_, 2 * bytes);
    stream_.wait();
    if constexpr (!Write) {
      if (faults_.bad()) return;
      std::memcpy(host, host_, bytes);
      std::memcpy(host + side_bytes, host_ + bytes, bytes);
    }
  }

  std::mutex mutex_;
  const int device_;
  const std::size_t row_bytes_;
  fault_box faults_; ///< of the call in progress
  device_stream stream_;
  memory_owner memory_;
  const std::uint32_t rows_; ///< that the staging holds
  std::byte* host_{};
  std::byte* staging_{};
  std::uint32_t* host_slots_{};
  std::uint32_t* slots_{};
};

} // namespace hflex::cuda
