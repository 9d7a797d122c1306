#include "tools/bench/weights_loads.hpp"
#include "gpu/region_memory.hpp"
#include "gpu/transport/socket.hpp"
#include "gpu/transport/transport.hpp"
#include <algorithm>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <future>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <thread>

namespace hflex::bench {
namespace {

constexpr std::size_t block = 1U << 20U;

double ms_since(wall_clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(wall_clock::now() - begin).count();
}

/// The fastest of some: others use the machine, too.
template <class F>
double best_ms(std::uint32_t repeats, const F& run) {
  double best = 0;
  for (std::uint32_t i = 0; i < repeats; ++i) {
    const double ms = run();
    if (best == 0 || ms < best) best = ms;
  }
  return best;
}

/// Anonymous memory, untouched until it is written.
class fresh_memory {
public:
  explicit fresh_memory(std::uint64_t bytes)
      : bytes_(bytes), at_(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {}
  fresh_memory(const fresh_memory&) = delete;
  fresh_memory& operator=(const fresh_memory&) = delete;
  ~fresh_memory() {
    if (at_ != MAP_FAILED) ::munmap(at_, bytes_);
  }
  std::byte* data() const { return at_ == MAP_FAILED ? nullptr : static_cast<std::byte*>(at_); }

private:
  std::uint64_t bytes_;
  void* at_;
};

/// A blocking stream over loopback, as fast as it goes.
double tcp_ms(const std::byte* from, std::byte* to, std::uint64_t bytes) {
  auto bound = gpu::listen_tcp("127.0.0.1", 0);
  if (!bound) return 0;
  const auto colon = bound->address.rfind(':');
  const auto port = static_cast<std::uint16_t>(std::stoi(bound->address.substr(colon + 1)));
  const auto wait = [](int fd, short what) {
    pollfd p{fd, what, 0};
    ::poll(&p, 1, 10'000);
  };
  std::thread sender([&] {
    auto out = gpu::dial_tcp("127.0.0.1", port);
    if (!out) return;
    wait(out->get(), POLLOUT);
    for (std::uint64_t done = 0; done < bytes;) {
      const auto some = ::send(out->get(), from + done, std::min<std::uint64_t>(block, bytes - done), MSG_NOSIGNAL);
      if (some > 0)
        done += static_cast<std::uint64_t>(some);
      else
        wait(out->get(), POLLOUT);
    }
  });
  wait(bound->socket.get(), POLLIN);
  gpu::unique_fd in{::accept4(bound->socket.get(), nullptr, nullptr, SOCK_CLOEXEC)};
  const auto begun = wall_clock::now();
  for (std::uint64_t done = 0; done < bytes;) {
    const auto some = ::recv(in.get(), to + done, std::min<std::uint64_t>(block, bytes - done), 0);
    if (some <= 0) break;
    done += static_cast<std::uint64_t>(some);
  }
  const auto ms = ms_since(begun);
  sender.join();
  return ms;
}

/// What a serving engine does: one thread reads the file into memory, then makes and packs its tensors from there.
result<double> engine_ms(const std::string& dir) {
  const auto path = dir + "/model.safetensors";
  std::error_code failed;
  const auto bytes = std::filesystem::file_size(path, failed);
  if (failed) return fail(errc::reject, "{}: one file of safetensors is what this bench reads", path);
  const auto begun = wall_clock::now();
  fresh_memory memory(bytes);
  const gpu::unique_fd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (!file || memory.data() == nullptr) return fail(errc::reject, "{}: cannot be read", path);
  for (std::uint64_t done = 0; done < bytes;) {
    const auto some = ::read(file.get(), memory.data() + done, std::min<std::uint64_t>(block, bytes - done));
    if (some <= 0) return fail(errc::reject, "{}: cannot be read", path);
    done += static_cast<std::uint64_t>(some);
  }
  auto packed = gpu::load_weights(dir, {}, {1});
  if (!packed) return pass(packed.error());
  return ms_since(begun);
}

result<double> loader_ms(const std::string& dir) {
  const auto begun = wall_clock::now();
  auto packed = gpu::load_weights(dir, {});
  if (!packed) return pass(packed.error());
  return ms_since(begun);
}

using region_ptr = std::shared_ptr<const gpu::weight_region>;

/// From one transport to another, by the descriptor or by TCP; `touch`: and every page read once.
result<double> move_ms(const region_ptr& region, bool network, bool touch) {
  auto giver = gpu::transport::start({});
  auto taker = gpu::transport::start({});
  if (!giver || !taker) return fail(errc::retry, "no transport");
  (*giver)->offer_weights(region);
  (*giver)->grant_weights(region->digest(), 1, patience);
  std::promise<result<region_ptr>> done;
  auto answer = done.get_future();
  const auto begun = wall_clock::now();
  const auto take = [&](result<region_ptr> r) { done.set_value(std::move(r)); };
  if (network)
    (*taker)->pull_weights((*giver)->endpoints(), region->digest(), 1, patience, {{}, {}, take});
  else
    (*taker)->fetch_weights((*giver)->endpoints(), region->digest(), patience, take);
  auto got = answer.get();
  if (!got) return pass(got.error());
  if (touch) {
    std::uint64_t sum = 0;
    for (std::uint64_t i = 0; i < (*got)->bytes(); i += 4096) sum += static_cast<std::uint64_t>((*got)->data()[i]);
    if (sum == 0) return fail(errc::fatal, "weights of zeros");
  }
  return ms_since(begun);
}

} // namespace

result<weights_ceilings> measure_ceilings(std::uint64_t bytes) {
  fresh_memory from(bytes);
  fresh_memory warm(bytes);
  if (from.data() == nullptr || warm.data() == nullptr) return fail(errc::retry, "no memory for the bench");
  std::memset(from.data(), 1, bytes);
  std::memset(warm.data(), 2, bytes);
  const auto gb_s = [&](double ms) { return static_cast<double>(bytes) / ms / 1e6; };
  weights_ceilings most;
  const auto copy = [&](std::byte* to) {
    const auto begun = wall_clock::now();
    std::memcpy(to, from.data(), bytes);
    return ms_since(begun);
  };
  most.memcpy_gb_s = gb_s(best_ms(5, [&] { return copy(warm.data()); }));
  most.tcp_gb_s = gb_s(best_ms(5, [&] { return tcp_ms(from.data(), warm.data(), bytes); }));
  most.fresh_gb_s = gb_s(best_ms(3, [&] {
    fresh_memory to(bytes);
    return copy(to.data());
  }));
  most.tcp_fresh_gb_s = gb_s(best_ms(3, [&] {
    fresh_memory to(bytes);
    return tcp_ms(from.data(), to.data(), bytes);
  }));
  return most;
}

bool drop_from_page_cache(const std::string& dir) {
  bool gone = true;
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator{dir, failed}) {
    const gpu::unique_fd file{::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC)};
    struct stat status {};
    if (!file || ::fstat(file.get(), &status) != 0 || status.st_size == 0) continue;
    ::fdatasync(file.get());
    ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
    const auto bytes = static_cast<std::size_t>(status.st_size);
    void* at = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file.get(), 0);
    if (at == MAP_FAILED) continue;
    std::vector<unsigned char> here((bytes + 4095) / 4096);
    ::mincore(at, bytes, here.data());
    ::munmap(at, bytes);
    const auto left = std::count_if(here.begin(), here.end(), [](auto page) { return (page & 1U) != 0; });
    gone = gone && static_cast<std::size_t>(left) * 20 < here.size() + 20; // a few pages of read-ahead do not matter
  }
  return gone && !failed;
}

result<std::vector<load_point>> measure_loads(
    const std::string& dir, std::uint32_t repeats, std::shared_ptr<const gpu::weight_region>& region) {
  auto loaded = gpu::load_weights(dir, {});
  if (!loaded) return pass(loaded.error());
  region = *loaded;
  std::vector<load_point> points;
  std::string fault;
  const auto add = [&](const std::string& way, std::uint32_t times, const auto& run, bool cold) {
    load_point p{way, 0, 0, {}};
    p.ms = best_ms(times, [&]() -> double {
      if (cold && !drop_from_page_cache(dir)) p.note = "the page cache could not be dropped";
      auto ms = run();
      if (!ms) fault = ms.error().message;
      return ms ? *ms : 1.0;
    });
    p.gb_s = static_cast<double>(region->bytes()) / p.ms / 1e6;
    points.push_back(std::move(p));
  };
  add(
      "engine's way, disk cold", repeats, [&] { return engine_ms(dir); }, true);
  add(
      "engine's way, disk warm", repeats, [&] { return engine_ms(dir); }, false);
  add(
      "disk cold", repeats, [&] { return loader_ms(dir); }, true);
  add(
      "disk warm", repeats, [&] { return loader_ms(dir); }, false);
  add(
      "shared memory", repeats + 2, [&] { return move_ms(region, false, false); }, false);
  add(
      "shared memory, every page touched", repeats + 2, [&] { return move_ms(region, false, true); }, false);
  add(
      "TCP over loopback", repeats + 2, [&] { return move_ms(region, true, false); }, false);
  if (!fault.empty()) return fail(errc::retry, "{}", fault);
  return points;
}

} // namespace hflex::bench
