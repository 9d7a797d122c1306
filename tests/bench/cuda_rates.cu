#include "gpu/cuda/stream.cuh"
#include "tests/bench/cuda_rates.hpp"
#include <algorithm>
#include <chrono>
#include <fcntl.h>
#include <random>
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

/// A file without a name in the current folder, of `pinned`'s bytes; -1 when it cannot be made.
int unnamed_file(const unsigned char* pinned) {
  const int fd = ::open(".", O_TMPFILE | O_RDWR, 0600);
  for (std::size_t done = 0; fd >= 0 && done < copied_bytes;) {
    const auto wrote = ::write(fd, pinned + done, std::min<std::size_t>(copied_bytes - done, std::size_t{64} << 20U));
    if (wrote <= 0) {
      ::close(fd);
      return -1;
    }
    done += static_cast<std::size_t>(wrote);
  }
  if (fd >= 0) ::fsync(fd); // what is not on the disk cannot be forgotten
  return fd;
}

/// GB/s of the file on its way to the device through two pinned buffers, as weights go; 0 when it cannot be read.
double file_rate(int fd, bool forgotten, unsigned char* device, device_stream& stream, fault_box& faults) {
  constexpr std::size_t half = std::size_t{32} << 20U;
  memory_owner memory;
  auto* pinned = memory.pinned<unsigned char>(2 * half, faults);
  const device_event free_again[2] = {{faults, false}, {faults, false}};
  if (forgotten) ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  const auto begin = std::chrono::steady_clock::now();
  for (std::size_t done = 0, turn = 0; done < copied_bytes && !faults.bad(); done += half, turn ^= 1U) {
    faults.check(cudaEventSynchronize(free_again[turn].get()), "cudaEventSynchronize");
    if (::pread(fd, pinned + turn * half, half, static_cast<off_t>(done)) != static_cast<ssize_t>(half)) return 0.0;
    stream.copy(device + done, pinned + turn * half, half);
    stream.record(free_again[turn].get());
  }
  stream.wait();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return faults.bad() ? 0.0 : static_cast<double>(copied_bytes) / seconds * 1e-9;
}

void measure_file(
    unsigned char* pinned, unsigned char* device, device_stream& stream, fault_box& faults, machine_rates& out) {
  const int fd = unnamed_file(pinned);
  if (fd < 0) {
    std::fprintf(stderr, "no file of %zu bytes can be made in this folder: disk and page cache are not measured\n",
        copied_bytes);
    return;
  }
  out.disk_gbs = file_rate(fd, true, device, stream, faults);
  std::vector<double> cached; // the run before has brought the file back
  for (int i = 0; i < 3; ++i) cached.push_back(file_rate(fd, false, device, stream, faults));
  std::sort(cached.begin(), cached.end());
  out.page_cache_gbs = cached[1];
  ::close(fd);
}

/// Of the size that weights have, and different: a device multiplies equal numbers a tenth faster.
void fill(bf16* at, std::size_t count, device_stream& stream) {
  std::mt19937 random(1);
  std::vector<std::uint32_t> some(std::size_t{1} << 22U);
  for (auto& word : some) word = (random() & 0x80ff80ffU) | 0x3c003c00U;
  for (std::size_t done = 0, piece = 2 * some.size(); done < count; done += piece)
    stream.copy(at + done, some.data(), std::min(piece, count - done) * sizeof(bf16));
  stream.wait();
}

double matrix_rate(device_stream& stream, memory_owner& memory, fault_box& faults) {
  constexpr std::uint32_t m = 8192;
  constexpr std::uint32_t n = 28672;
  constexpr std::uint32_t k = 4096;
  auto* w = memory.device<bf16>(std::size_t{n} * k, faults);
  auto* x = memory.device<bf16>(std::size_t{m} * k, faults);
  auto* y = memory.device<bf16>(std::size_t{m} * n, faults);
  if (faults.bad()) return 0.0;
  fill(w, std::size_t{n} * k, stream);
  fill(x, std::size_t{m} * k, stream);
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
    measure_file(pinned, one, stream, faults, out);
    out.ipc_gbs = peer.copy_rate(one, copied_bytes);
    out.matrix_tflops = matrix_rate(stream, memory, faults);
  }
  if (faults.bad()) std::fprintf(stderr, "rates: %s\n", faults.fault().words);
  return !faults.bad();
}

} // namespace hflex::bench
