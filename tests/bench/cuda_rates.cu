#include "gpu/cuda/stream.cuh"
#include "tests/bench/cuda_rates.hpp"
#include <algorithm>
#include <chrono>
#include <sys/wait.h>
#include <unistd.h>

namespace hflex::bench {
namespace {

using namespace hflex::cuda;

constexpr std::size_t copied_bytes = std::size_t{1} << 30U;
constexpr int runs = 7;

/// Median seconds of `work` on the stream; one run more, not counted, goes first.
template <class Work>
double seconds_of(device_stream& stream, fault_box& faults, const Work& work) {
  const device_event begin(faults, true);
  const device_event end(faults, true);
  std::vector<float> milliseconds;
  for (int i = 0; i <= runs && !faults.bad(); ++i) {
    stream.record(begin.get());
    work();
    stream.record(end.get());
    stream.wait();
    float ms = 0.0F;
    faults.check(cudaEventElapsedTime(&ms, begin.get(), end.get()), "cudaEventElapsedTime");
    if (i > 0) milliseconds.push_back(ms);
  }
  if (milliseconds.empty()) return 1.0;
  std::sort(milliseconds.begin(), milliseconds.end());
  return static_cast<double>(milliseconds[milliseconds.size() / 2]) * 1e-3;
}

bool read_all(int fd, void* to, std::size_t bytes) { return ::read(fd, to, bytes) == static_cast<ssize_t>(bytes); }
bool write_all(int fd, const void* from, std::size_t bytes) {
  return ::write(fd, from, bytes) == static_cast<ssize_t>(bytes);
}

/// The peer's life: one handle in, one rate out.
void serve(int in, int out) {
  struct {
    cudaIpcMemHandle_t handle;
    std::size_t bytes;
  } job{};
  if (!read_all(in, &job, sizeof job)) return;
  fault_box faults;
  double rate = 0.0;
  {
    device_stream stream(faults);
    memory_owner memory;
    auto* mine = memory.device<unsigned char>(job.bytes, faults);
    void* theirs = nullptr;
    faults.check(cudaIpcOpenMemHandle(&theirs, job.handle, cudaIpcMemLazyEnablePeerAccess), "cudaIpcOpenMemHandle");
    const double seconds = seconds_of(stream, faults, [&] { stream.copy(mine, theirs, job.bytes); });
    if (!faults.bad()) rate = static_cast<double>(job.bytes) / seconds * 1e-9;
    if (theirs != nullptr) cudaIpcCloseMemHandle(theirs);
  }
  if (faults.bad()) std::fprintf(stderr, "between processes: %s\n", faults.fault().words);
  write_all(out, &rate, sizeof rate);
}

double matrix_rate(device_stream& stream, memory_owner& memory, fault_box& faults) {
  constexpr std::uint32_t m = 8192;
  constexpr std::uint32_t n = 28672;
  constexpr std::uint32_t k = 4096;
  auto* w = memory.device<bf16>(std::size_t{n} * k, faults);
  auto* x = memory.device<bf16>(std::size_t{m} * k, faults);
  auto* y = memory.device<bf16>(std::size_t{m} * n, faults);
  if (faults.bad()) return 0.0;
  faults.check(cudaMemset(w, 0x3c, std::size_t{n} * k * sizeof(bf16)), "cudaMemset");
  faults.check(cudaMemset(x, 0x3c, std::size_t{m} * k * sizeof(bf16)), "cudaMemset");
  matrix_products products(faults);
  const double seconds = seconds_of(stream, faults, [&] {
    products.run(product<bf16>{w, n, k, x, m, y, false, false}, stream.get());
  });
  return 2.0 * m * n * k / seconds * 1e-12;
}

} // namespace

ipc_peer::ipc_peer() {
  int down[2];
  int up[2];
  if (::pipe(down) != 0) return;
  if (::pipe(up) != 0) return;
  child_ = ::fork();
  if (child_ == 0) {
    ::close(down[1]);
    ::close(up[0]);
    serve(down[0], up[1]);
    ::_exit(0);
  }
  ::close(down[0]);
  ::close(up[1]);
  to_peer_ = down[1];
  from_peer_ = up[0];
}

ipc_peer::~ipc_peer() {
  if (to_peer_ >= 0) ::close(to_peer_); // a peer without work ends at that
  if (child_ > 0) ::waitpid(child_, nullptr, 0);
  if (from_peer_ >= 0) ::close(from_peer_);
}

double ipc_peer::copy_rate(void* device_memory, std::size_t bytes) {
  struct {
    cudaIpcMemHandle_t handle;
    std::size_t bytes;
  } job{};
  job.bytes = bytes;
  double rate = 0.0;
  if (child_ <= 0 || cudaIpcGetMemHandle(&job.handle, device_memory) != cudaSuccess) return 0.0;
  if (!write_all(to_peer_, &job, sizeof job) || !read_all(from_peer_, &rate, sizeof rate)) return 0.0;
  return rate;
}

bool measure_rates(ipc_peer& peer, machine_rates& out) {
  fault_box faults;
  device_stream stream(faults);
  memory_owner memory;
  auto* one = memory.device<unsigned char>(copied_bytes, faults);
  auto* two = memory.device<unsigned char>(copied_bytes, faults);
  auto* pinned = memory.pinned<unsigned char>(copied_bytes, faults);
  std::vector<unsigned char> pageable(copied_bytes, 1);
  const auto rate = [&](void* to, const void* from) {
    return static_cast<double>(copied_bytes) /
           seconds_of(stream, faults, [&] { stream.copy(to, from, copied_bytes); }) * 1e-9;
  };
  if (!faults.bad()) {
    out.device_copy_gbs = 2 * rate(two, one);
    out.h2d_pinned_gbs = rate(one, pinned);
    out.d2h_pinned_gbs = rate(pinned, one);
    out.h2d_pageable_gbs = rate(one, pageable.data());
    out.ipc_gbs = peer.copy_rate(one, copied_bytes);
    out.matrix_tflops = matrix_rate(stream, memory, faults);
  }
  if (faults.bad()) std::fprintf(stderr, "rates: %s\n", faults.fault().words);
  return !faults.bad();
}

} // namespace hflex::bench
