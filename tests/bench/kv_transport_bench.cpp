// GB/s of each KV path against memcpy of the same bytes: transfers of 8 layers x 2,048 tokens x 4 KiB (a quarter of
// Llama-3-8B in bf16), sink and source in one process for `local`, in two otherwise. Prints best and median.
#include "gpu/transport/transport.hpp"
#include "tests/support/fake_device.hpp"
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <future>
#include <numeric>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace hflex;

namespace {

constexpr std::uint32_t tokens = 2048;
constexpr std::uint32_t layers = 8; // one quarter of the model at a time keeps two pools in memory
constexpr gpu::kv_geometry geometry{layers, 8, 128, gpu::compute_type::bf16, 16, tokens / 16};
constexpr int runs = 15;
constexpr auto lease = std::chrono::minutes{1};

std::vector<gpu::block_index> whole_table() {
  std::vector<gpu::block_index> table(geometry.blocks);
  std::iota(table.begin(), table.end(), 0U);
  return table;
}

gpu::kv_shape shape() { return {layers, tokens, geometry.token_layer_bytes(), geometry.element}; }

gpu::transport_options only(const std::string& path) {
  gpu::transport_options o;
  o.enable_local = path == "local";
  o.enable_shm = path == "shm";
  o.enable_tcp = path == "tcp";
  return o;
}

void report(const char* what, std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const double gigabytes = static_cast<double>(geometry.pool_bytes()) * 1e-9;
  std::printf("%-8s best %6.2f GB/s   median %6.2f GB/s\n", what, gigabytes / seconds.front(),
      gigabytes / seconds[seconds.size() / 2]);
}

template <class F>
double timed(F f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// One transfer, from open to its acknowledgement; layer by layer as a prefill would push.
void send_once(
    gpu::transport& t, transfer_id id, const std::shared_ptr<test::fake_device>& from, gpu::endpoint_list to) {
  std::promise<bool> delivered;
  t.open(id, 1, shape(), from, whole_table(), std::move(to), lease,
      [&](transfer_id, result<void> r) { delivered.set_value(r.has_value()); });
  for (std::uint32_t layer = 0; layer < layers; ++layer) t.push(id, layer, 0, tokens);
  if (!delivered.get_future().get()) std::abort();
  t.close(id, gpu::transfer_side::source);
}

void expect_once(gpu::transport& t, transfer_id id, const std::shared_ptr<test::fake_device>& to) {
  t.expect(id, 1, shape(), to, whole_table(), lease, {});
}

void run_memcpy() {
  std::vector<std::byte> a(geometry.pool_bytes(), std::byte{1});
  std::vector<std::byte> b(geometry.pool_bytes(), std::byte{2});
  std::vector<double> seconds;
  for (int i = 0; i < runs; ++i) seconds.push_back(timed([&] { std::memcpy(b.data(), a.data(), a.size()); }));
  report("memcpy", seconds);
}

void run_local() {
  auto t = gpu::transport::start(only("local"));
  const auto from = std::make_shared<test::fake_device>(geometry);
  const auto to = std::make_shared<test::fake_device>(geometry);
  std::vector<double> seconds;
  for (std::uint64_t i = 1; i <= runs; ++i) {
    expect_once(**t, {i}, to);
    seconds.push_back(timed([&] { send_once(**t, {i}, from, (*t)->endpoints()); }));
  }
  report("local", seconds);
}

void run_sink(const std::string& path, int line) {
  auto t = gpu::transport::start(only(path));
  const auto to = std::make_shared<test::fake_device>(geometry);
  for (std::uint64_t i = 1; i <= runs; ++i) expect_once(**t, {i}, to);
  const std::string at = (*t)->endpoints().front();
  if (::write(line, at.data(), at.size()) < 0) std::abort();
  char end = 0;
  if (::read(line, &end, 1) < 0) std::abort();
}

void run_wire(const std::string& path) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) std::abort();
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[0]);
    run_sink(path, ends[1]);
    ::_exit(0);
  }
  ::close(ends[1]);
  char at[256];
  const auto n = ::read(ends[0], at, sizeof at);
  if (n <= 0) std::abort();
  {
    auto t = gpu::transport::start(only(path));
    const auto from = std::make_shared<test::fake_device>(geometry);
    std::vector<double> seconds;
    for (std::uint64_t i = 1; i <= runs; ++i)
      seconds.push_back(timed([&] { send_once(**t, {i}, from, {std::string(at, static_cast<std::size_t>(n))}); }));
    report(path.c_str(), seconds);
  }
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
}

} // namespace

int main() {
  std::printf("%u layers x %u tokens x %lu bytes = %.0f MB a transfer, %d transfers\n", layers, tokens,
      static_cast<unsigned long>(geometry.token_layer_bytes()), static_cast<double>(geometry.pool_bytes()) * 1e-6,
      runs);
  run_wire("shm");
  run_wire("tcp");
  run_local();
  run_memcpy();
}
