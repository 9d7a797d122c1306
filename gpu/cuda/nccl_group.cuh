// Weights from a device of one host to devices of others by NCCL: a process each, one broadcast, every wait with an
// end. NCCL tells of progress only when it is asked, so waits here poll.
#pragma once
#include "gpu/cuda/stream.cuh"
#include <chrono>
#include <cstring>
#include <nccl.h>
#include <thread>

namespace hflex::cuda {

/// When a wait ends: at a time, or when its owner says so.
class wait_limit {
public:
  explicit wait_limit(const hflex_cuda_patience& p)
      : end_(std::chrono::steady_clock::now() + std::chrono::milliseconds(p.ms)), patience_(p) {}
  bool over(bool meeting) const {
    return std::chrono::steady_clock::now() >= end_ ||
           (patience_.stopped != nullptr && patience_.stopped(patience_.user, meeting ? 1 : 0) != 0);
  }

private:
  std::chrono::steady_clock::time_point end_;
  hflex_cuda_patience patience_;
};

/// One communicator for one broadcast. The device is current throughout.
class nccl_group {
public:
  nccl_group(const hflex_cuda_ticket& ticket, const wait_limit& limit, fault_box& faults)
      : limit_(limit), faults_(faults) {
    ncclUniqueId id;
    static_assert(sizeof id == sizeof ticket.id);
    std::memcpy(&id, ticket.id, sizeof id);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    settle(ncclCommInitRankConfig(&group_, static_cast<int>(ticket.ranks), id, static_cast<int>(ticket.rank), &config),
        "ncclCommInitRank", true);
  }
  nccl_group(const nccl_group&) = delete;
  nccl_group& operator=(const nccl_group&) = delete;
  ~nccl_group() {
    if (group_ == nullptr) return;
    if (!faults_.bad() && settle(ncclCommFinalize(group_), "ncclCommFinalize"))
      ncclCommDestroy(group_);
    else
      ncclCommAbort(group_); // also ends what the stream still waits for
  }

  /// From rank 0's memory into everybody else's. Blocks until it is done.
  void broadcast(void* data, std::size_t bytes, device_stream& stream) {
    if (faults_.bad()) return;
    if (!settle(ncclBroadcast(data, data, bytes, ncclInt8, 0, group_, stream.get()), "ncclBroadcast")) return;
    for (;;) {
      const cudaError_t state = cudaStreamQuery(stream.get());
      if (state == cudaSuccess) return;
      if (state != cudaErrorNotReady) {
        faults_.check(state, "ncclBroadcast");
        return;
      }
      ncclResult_t fault = ncclSuccess;
      if (ncclCommGetAsyncError(group_, &fault) == ncclSuccess && fault != ncclSuccess && fault != ncclInProgress)
        return faults_.note("ncclBroadcast", ncclGetErrorString(fault));
      if (!pause(false)) return faults_.note("ncclBroadcast", "it did not end in time");
    }
  }

private:
  bool pause(bool meeting) const {
    if (limit_.over(meeting)) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    return true;
  }

  /// Waits until what was begun has an outcome. True when it is good.
  bool settle(ncclResult_t state, const char* what, bool meeting = false) {
    while (state == ncclInProgress) {
      if (!pause(meeting)) {
        faults_.note(what, "not all of the others came in time");
        return false;
      }
      if (ncclCommGetAsyncError(group_, &state) != ncclSuccess) state = ncclInternalError;
    }
    if (state != ncclSuccess) faults_.note(what, ncclGetErrorString(state));
    return state == ncclSuccess;
  }

  ncclComm_t group_{};
  const wait_limit& limit_;
  fault_box& faults_;
};

} // namespace hflex::cuda
