// What the transport's tests share: the two ends of a transfer with known content, completions one can wait for, child
// processes, a client that speaks the frame format by hand, and counts of what this process holds.
#pragma once
#include "gpu/transport/frame.hpp"
#include "gpu/transport/socket.hpp"
#include "gpu/transport/transport.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/fake_device.hpp"
#include <csignal>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <optional>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>

namespace hflex::test {

constexpr auto long_lease = std::chrono::minutes{5};

/// Keeps what a callback was told; any number of threads.
class ending {
public:
  gpu::transfer_callback callback() {
    return [s = state_](transfer_id, result<void> r) {
      const std::lock_guard lock{s->mutex};
      ++s->calls;
      s->last = std::move(r);
      s->changed.notify_all();
    };
  }
  /// The outcome, once it is there; none when it did not come within a minute.
  std::optional<result<void>> wait() {
    std::unique_lock lock{state_->mutex};
    if (!state_->changed.wait_for(lock, std::chrono::minutes{1}, [&] { return state_->calls > 0; }))
      return std::nullopt;
    return state_->last;
  }
  bool ok() {
    const auto r = wait();
    if (r && !*r) UNSCOPED_INFO(r->error().message);
    return r && r->has_value();
  }
  bool failed(errc code) {
    const auto r = wait();
    if (r && !*r) UNSCOPED_INFO(r->error().message);
    return r && !*r && r->error().code == code;
  }
  /// What it failed with; empty when it did not.
  std::string message() {
    const auto r = wait();
    return r && !*r ? r->error().message : std::string{};
  }
  int calls() const {
    const std::lock_guard lock{state_->mutex};
    return state_->calls;
  }

private:
  struct state {
    std::mutex mutex;
    std::condition_variable changed;
    int calls{0};
    result<void> last;
  };
  std::shared_ptr<state> state_{std::make_shared<state>()};
};

/// One side's context and block table.
struct kv_end {
  std::shared_ptr<fake_device> device;
  std::vector<gpu::block_index> table;
};

constexpr std::uint32_t test_layers = 3;

/// A pool a little larger than needed and a shuffled table over it.
inline kv_end make_end(std::uint32_t tokens, std::uint32_t block_size, std::uint32_t seed, std::uint32_t head_dim = 24,
    gpu::compute_type element = gpu::compute_type::bf16) {
  const std::uint32_t blocks = (tokens + block_size - 1) / block_size;
  kv_end end;
  end.device =
      std::make_shared<fake_device>(gpu::kv_geometry{test_layers, 2, head_dim, element, block_size, blocks + 3});
  end.device->fill(seed);
  end.table.resize(blocks + 3);
  std::iota(end.table.begin(), end.table.end(), 0U);
  std::mt19937 random{seed};
  std::shuffle(end.table.begin(), end.table.end(), random);
  end.table.resize(blocks);
  return end;
}

inline gpu::kv_shape shape_of(const kv_end& end, std::uint32_t tokens) {
  return {test_layers, tokens, end.device->kv().token_layer_bytes(), end.device->kv().element};
}

inline bool same_content(const kv_end& a, const kv_end& b, std::uint32_t tokens) {
  for (std::uint32_t layer = 0; layer < test_layers; ++layer)
    for (std::uint32_t t = 0; t < tokens; ++t)
      if (a.device->token(layer, a.table, t) != b.device->token(layer, b.table, t)) return false;
  return true;
}

/// Pushes every row once: chunks of odd sizes, one after the other through the layers.
inline void push_all(gpu::transport& t, transfer_id id, std::uint32_t tokens) {
  std::uint32_t size = 1;
  for (std::uint32_t begin = 0; begin < tokens; size = size * 2 + 1) {
    const std::uint32_t count = std::min(size, tokens - begin);
    for (std::uint32_t layer = 0; layer < test_layers; ++layer) t.push(id, layer, begin, count);
    begin += count;
  }
}

inline gpu::transport_options only(const std::string& path) {
  gpu::transport_options o;
  o.enable_local = path == "local";
  o.enable_shm = path == "shm";
  o.enable_tcp = path == "tcp";
  return o;
}

inline std::unique_ptr<gpu::transport> started(const gpu::transport_options& options) {
  auto t = gpu::transport::start(options);
  REQUIRE(t.has_value());
  return std::move(*t);
}

/// Two transports that know one way to each other; for "local" they are one.
struct transport_pair {
  explicit transport_pair(const std::string& path) : transport_pair{only(path)} {}
  explicit transport_pair(const gpu::transport_options& options) : first{started(options)} {
    if (!options.enable_local) second = started(options);
  }
  gpu::transport& source() { return *first; }
  gpu::transport& sink() { return second ? *second : *first; }
  std::unique_ptr<gpu::transport> first;
  std::unique_ptr<gpu::transport> second;
};

inline std::string endpoint_of(const gpu::transport& t, const std::string& path) {
  for (const auto& e : t.endpoints())
    if (e.rfind(path + ":", 0) == 0) return e;
  return {};
}

inline std::size_t open_descriptors() {
  std::size_t n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator{"/proc/self/fd"}) ++n;
  return n;
}
inline std::size_t mapped_rings() {
  std::ifstream maps{"/proc/self/maps"};
  std::size_t n = 0;
  for (std::string line; std::getline(maps, line);) n += line.find("hflex-ring") != std::string::npos ? 1 : 0;
  return n;
}

/// A forked process with a line to it each way. Make it before any thread of the test's.
class child_process {
public:
  template <class F>
  explicit child_process(F body) {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    gpu::unique_fd mine{ends[0]};
    gpu::unique_fd theirs{ends[1]};
    line_ = std::move(pid_ == 0 ? theirs : mine);
    if (pid_ != 0) return;
    body(*this);
    ::_exit(0);
  }
  child_process(const child_process&) = delete;
  child_process& operator=(const child_process&) = delete;
  ~child_process() { kill(); }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  /// As a process that hangs. Waits until it really stands still: the signal alone takes effect later.
  void stop() const {
    int status = 0;
    REQUIRE(::kill(pid_, SIGSTOP) == 0);
    REQUIRE(::waitpid(pid_, &status, WUNTRACED) == pid_);
    REQUIRE(WIFSTOPPED(status));
  }
  void say(const std::string& text) const { // one line
    const std::string line = text + "\n";
    if (::send(line_.get(), line.data(), line.size(), MSG_NOSIGNAL) < 0) return;
  }
  /// The next line of the other process; empty when it is gone.
  std::string hear() const {
    std::string text;
    for (char c = 0; ::read(line_.get(), &c, 1) == 1 && c != '\n';) text += c;
    return text;
  }

private:
  pid_t pid_{-1};
  gpu::unique_fd line_;
};

/// Speaks frames by hand, right or wrong ones.
class raw_client {
public:
  explicit raw_client(gpu::unique_fd socket) : socket_{std::move(socket)} {}
  static raw_client dial(const std::string& endpoint) {
    const auto colon = endpoint.rfind(':');
    auto s = endpoint.rfind("tcp:", 0) == 0 ? gpu::dial_tcp(endpoint.substr(4, colon - 4),
                                                  static_cast<std::uint16_t>(std::stoi(endpoint.substr(colon + 1))))
                                            : gpu::dial_unix(endpoint.substr(colon + 1));
    REQUIRE(s.has_value());
    return raw_client{std::move(*s)};
  }
  static raw_client accept(int listener) {
    pollfd p{listener, POLLIN, 0};
    REQUIRE(::poll(&p, 1, 60'000) == 1);
    gpu::unique_fd s{::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)};
    REQUIRE(static_cast<bool>(s));
    return raw_client{std::move(s)};
  }
  void send(const gpu::frame_header& header, std::span<const std::byte> payload = {}, int fd = -1) {
    std::vector<std::byte> bytes(gpu::frame_header_bytes);
    gpu::encode(header, std::span{bytes}.first<gpu::frame_header_bytes>());
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    send_bytes(bytes, fd);
  }
  /// Stops early when the other side has hung up.
  void send_bytes(std::span<const std::byte> bytes, int fd = -1) {
    while (!bytes.empty()) {
      if (!ready(POLLOUT)) return;
      const auto done = gpu::write_some(socket_.get(), bytes, fd);
      if (done.ended) return;
      if (done.bytes > 0) fd = -1;
      bytes = bytes.subspan(done.bytes);
    }
  }
  /// The next frame (payloads are not expected); none when the other side hangs up.
  std::optional<gpu::frame_header> receive() {
    std::array<std::byte, gpu::frame_header_bytes> bytes{};
    for (std::size_t have = 0; have < bytes.size();) {
      if (!ready(POLLIN)) return std::nullopt;
      const auto got = gpu::read_some(socket_.get(), std::span{bytes}.subspan(have));
      if (got.ended) return std::nullopt;
      have += got.bytes;
    }
    const auto header = gpu::decode(bytes);
    return header ? std::optional{*header} : std::nullopt;
  }
  /// Reads whatever comes until the other side hangs up; false when it does not within a minute.
  bool hung_up() {
    std::array<std::byte, 4096> bytes{};
    while (ready(POLLIN))
      if (gpu::read_some(socket_.get(), bytes).ended) return true;
    return false;
  }
  bool greet() {
    gpu::frame_header hello;
    hello.type = gpu::frame_type::hello;
    send(hello);
    const auto answer = receive();
    return answer && answer->type == gpu::frame_type::welcome;
  }

private:
  bool ready(short what) const {
    pollfd p{socket_.get(), what, 0};
    return ::poll(&p, 1, 60'000) == 1;
  }
  gpu::unique_fd socket_;
};

inline gpu::frame_header open_frame(transfer_id id, std::uint64_t key, const gpu::kv_shape& shape) {
  gpu::frame_header h;
  h.type = gpu::frame_type::open;
  h.transfer = id;
  h.key = key;
  h.layer = shape.layers;
  h.count = shape.tokens;
  h.code = static_cast<std::uint32_t>(shape.element);
  h.position = shape.token_layer_bytes;
  return h;
}
inline gpu::frame_header data_frame(
    transfer_id id, std::uint32_t layer, std::uint32_t begin, std::uint32_t count, std::span<const std::byte> payload) {
  gpu::frame_header h;
  h.type = gpu::frame_type::data;
  h.transfer = id;
  h.layer = layer;
  h.begin = begin;
  h.count = count;
  h.payload_bytes = payload.size();
  h.checksum = gpu::payload_checksum(payload);
  return h;
}

} // namespace hflex::test
