// Strangers and peers that break the rules, speaking raw bytes: they harm their own connection or transfer and nothing
// else.
#include "gpu/transport/ring.hpp"
#include "tests/support/spin.hpp"
#include "tests/support/transport_kit.hpp"
#include <fcntl.h>
#include <sys/mman.h>

namespace hflex::transport_hostile_test {

using namespace hflex::test;
using gpu::frame_type;

namespace {

constexpr std::uint32_t tokens = 40;

/// A sink that expects transfer 1 with key 7, by socket only.
struct sink_fixture {
  explicit sink_fixture(const std::string& path) : transport{started(only(path))}, to{make_end(tokens, 8, 2)} {
    transport->expect(id, 7, shape_of(to, tokens), to.device, to.table, long_lease, received.callback());
  }
  raw_client client() const { return raw_client::dial(transport->endpoints().front()); }
  std::unique_ptr<gpu::transport> transport;
  kv_end to;
  transfer_id id{1};
  ending received;
};

std::vector<std::byte> rows_of(const kv_end& end, std::uint32_t layer, std::uint32_t begin, std::uint32_t count) {
  std::vector<std::byte> out(count * end.device->kv().token_layer_bytes());
  REQUIRE(end.device->read_kv(layer, end.table, begin, count, out));
  return out;
}

/// Runs one good transfer; whatever strangers do, it must work.
bool good_transfer_works(gpu::transport& sink, const std::string& path, transfer_id id) {
  auto source = started(only(path));
  const kv_end from = make_end(tokens, 16, 5);
  const kv_end to = make_end(tokens, 8, 6);
  ending received;
  ending delivered;
  sink.expect(id, 3, shape_of(to, tokens), to.device, to.table, long_lease, received.callback());
  source->open(
      id, 3, shape_of(from, tokens), from.device, from.table, sink.endpoints(), long_lease, delivered.callback());
  push_all(*source, id, tokens);
  return received.ok() && delivered.ok() && same_content(from, to, tokens);
}

/// A memfd of `bytes` with `seals`.
gpu::unique_fd memory(std::uint64_t bytes, int seals) {
  gpu::unique_fd fd{::memfd_create("hflex-test", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  REQUIRE(::ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0);
  REQUIRE(::fcntl(fd.get(), F_ADD_SEALS, seals) == 0);
  return fd;
}

gpu::frame_header hello(std::uint64_t ring_bytes) {
  gpu::frame_header h;
  h.type = frame_type::hello;
  h.position = ring_bytes;
  return h;
}

} // namespace

TEST_CASE("rows sent by hand arrive, whatever their order") {
  sink_fixture s{"tcp"};
  auto c = s.client();
  REQUIRE(c.greet());
  c.send(open_frame(s.id, 7, shape_of(s.to, tokens)));
  const kv_end from = make_end(tokens, 16, 1);
  for (std::uint32_t layer = test_layers; layer-- > 0;) {
    const auto late = rows_of(from, layer, 13, tokens - 13);
    c.send(data_frame(s.id, layer, 13, tokens - 13, late), late);
    const auto early = rows_of(from, layer, 0, 13);
    c.send(data_frame(s.id, layer, 0, 13, early), early);
  }
  const auto answer = c.receive();
  REQUIRE(answer);
  CHECK(answer->type == frame_type::delivered);
  CHECK(s.received.ok());
  CHECK(same_content(from, s.to, tokens));
}

TEST_CASE("a corrupted payload is detected and fails the transfer on both ends") {
  sink_fixture s{"tcp"};
  auto c = s.client();
  REQUIRE(c.greet());
  c.send(open_frame(s.id, 7, shape_of(s.to, tokens)));
  auto rows = rows_of(s.to, 0, 0, 5);
  const auto header = data_frame(s.id, 0, 0, 5, rows);
  rows[17] ^= std::byte{4};
  const auto before = s.to.device->token(0, s.to.table, 0);
  c.send(header, rows);
  CHECK(s.received.failed(errc::reroute));
  const auto answer = c.receive();
  REQUIRE(answer);
  CHECK(answer->type == frame_type::failed);
  CHECK(gpu::fault_of(*answer) == gpu::fault::checksum);
  CHECK(s.to.device->token(0, s.to.table, 0) == before);
  CHECK(good_transfer_works(*s.transport, "tcp", {2}));
}

TEST_CASE("a source that hears of a bad checksum fails with reroute") {
  auto listener = gpu::listen_tcp("127.0.0.1", 0);
  REQUIRE(listener);
  auto source = started(only("tcp"));
  const kv_end from = make_end(tokens, 16, 1);
  ending delivered;
  source->open({1}, 1, shape_of(from, tokens), from.device, from.table, {"tcp:" + listener->address}, long_lease,
      delivered.callback());
  auto c = raw_client::accept(listener->socket.get());
  REQUIRE(c.receive()->type == frame_type::hello);
  gpu::frame_header h;
  h.type = frame_type::welcome;
  c.send(h);
  REQUIRE(c.receive()->type == frame_type::open);
  h.type = frame_type::failed;
  h.transfer = {1};
  h.code = static_cast<std::uint32_t>(gpu::fault::checksum);
  c.send(h);
  CHECK(delivered.failed(errc::reroute));
}

TEST_CASE("a sink that acknowledges what was not sent, or talks out of turn, is not believed") {
  for (const auto type : {frame_type::delivered, frame_type::credit, frame_type::welcome, frame_type::data}) {
    auto listener = gpu::listen_tcp("127.0.0.1", 0);
    REQUIRE(listener);
    auto source = started(only("tcp"));
    const kv_end from = make_end(tokens, 16, 1);
    ending delivered;
    source->open({1}, 1, shape_of(from, tokens), from.device, from.table, {"tcp:" + listener->address}, long_lease,
        delivered.callback());
    auto c = raw_client::accept(listener->socket.get());
    gpu::frame_header h;
    h.type = frame_type::welcome;
    c.send(h);
    h.type = type;
    h.transfer = {1};
    c.send(h);
    CHECK(delivered.failed(errc::reject));
  }
}

TEST_CASE("rows that repeat, overlap or do not belong are rejected on both ends") {
  struct bad_rows {
    std::uint32_t layer, begin, count;
    std::uint32_t claimed; // tokens the frame says
  };
  for (const bad_rows& bad :
      {bad_rows{0, 0, 10, 10}, bad_rows{0, 9, 3, 3}, bad_rows{test_layers, 0, 1, 1}, bad_rows{1, tokens, 1, 1},
          bad_rows{1, 0xffffffffU, 1, 1}, bad_rows{1, 0, 2, 3}, bad_rows{1, 0, 1, 0}, bad_rows{1, 1, 1, 0xffffffffU}}) {
    INFO(bad.layer << " " << bad.begin << " " << bad.count << " " << bad.claimed);
    sink_fixture s{"tcp"};
    auto c = s.client();
    REQUIRE(c.greet());
    c.send(open_frame(s.id, 7, shape_of(s.to, tokens)));
    const auto rows = rows_of(s.to, 0, 0, 10);
    c.send(data_frame(s.id, 0, 0, 10, rows), rows);
    const std::vector<std::byte> payload(bad.count * s.to.device->kv().token_layer_bytes());
    c.send(data_frame(s.id, bad.layer, bad.begin, bad.claimed, payload), payload);
    CHECK(s.received.failed(errc::reject));
    const auto answer = c.receive();
    REQUIRE(answer);
    CHECK(answer->type == frame_type::failed);
    CHECK(gpu::fault_of(*answer) == gpu::fault::protocol);
  }
}

TEST_CASE("a stranger with a wrong key or on another connection does not touch a transfer") {
  sink_fixture s{"tcp"};
  auto owner = s.client();
  REQUIRE(owner.greet());
  owner.send(open_frame(s.id, 7, shape_of(s.to, tokens)));
  const auto first = rows_of(s.to, 0, 0, 10);
  owner.send(data_frame(s.id, 0, 0, 10, first), first);
  REQUIRE(s.to.device->wait_for_writes(1));

  auto stranger = s.client();
  REQUIRE(stranger.greet());
  for (const std::uint64_t key : {8U, 7U}) { // even the right key: somebody has come with it
    stranger.send(open_frame(s.id, key, shape_of(s.to, tokens)));
    const auto answer = stranger.receive();
    REQUIRE(answer);
    CHECK(gpu::fault_of(*answer) == gpu::fault::refused);
  }
  const auto rows = rows_of(s.to, 0, 10, 10);
  stranger.send(data_frame(s.id, 0, 10, 10, rows), rows);
  gpu::frame_header failed;
  failed.type = frame_type::failed;
  failed.transfer = s.id;
  stranger.send(failed);
  stranger.send(open_frame({99}, 1, shape_of(s.to, tokens)));
  REQUIRE(stranger.receive()); // all of the above has been seen
  CHECK(s.received.calls() == 0);

  const auto rest = rows_of(s.to, 0, 10, tokens - 10);
  owner.send(data_frame(s.id, 0, 10, tokens - 10, rest), rest);
  for (std::uint32_t layer = 1; layer < test_layers; ++layer) {
    const auto all = rows_of(s.to, layer, 0, tokens);
    owner.send(data_frame(s.id, layer, 0, tokens, all), all);
  }
  CHECK(s.received.ok());
}

TEST_CASE("garbage on either port closes that connection only") {
  for (const std::string path : {"tcp", "shm"}) {
    INFO(path);
    sink_fixture s{path};
    auto source = started(only(path));
    const kv_end from = make_end(tokens, 16, 1);
    source->open(s.id, 7, shape_of(from, tokens), from.device, from.table, s.transport->endpoints(), long_lease, {});
    source->push(s.id, 0, 0, tokens);
    REQUIRE(s.to.device->wait_for_writes(1)); // a transfer is in progress
    std::mt19937 random{4};
    for (int round = 0; round < 60; ++round) {
      auto c = s.client();
      if (round % 2 == 1) REQUIRE(c.greet());
      std::vector<std::byte> bytes(1 + random() % 5000);
      for (auto& b : bytes) b = static_cast<std::byte>(random());
      if (round % 3 == 1 && bytes.size() > gpu::frame_header_bytes) { // a good beginning, then anything
        gpu::frame_header h = hello(0);
        gpu::encode(h, std::span{bytes}.first<gpu::frame_header_bytes>());
        bytes[4 + random() % 60] = static_cast<std::byte>(random());
      }
      c.send_bytes(bytes);
      if (bytes.size() >= 2 * gpu::frame_header_bytes && round % 3 != 1) CHECK(c.hung_up());
    }
    source->push(s.id, 1, 0, tokens);
    source->push(s.id, 2, 0, tokens);
    CHECK(s.received.ok());
    CHECK(same_content(from, s.to, tokens));
  }
}

TEST_CASE("well-formed frames with wild numbers never harm the process") {
  for (const std::string path : {"tcp", "shm"}) {
    INFO(path);
    std::mt19937_64 random{9};
    sink_fixture s{path};
    const auto ring = memory(gpu::min_ring_bytes, F_SEAL_SHRINK);
    for (int round = 0; round < 100; ++round) {
      auto c = s.client();
      if (path == "shm")
        c.send(hello(gpu::min_ring_bytes), {}, ring.get());
      else
        c.send(hello(0));
      REQUIRE(c.receive()->type == frame_type::welcome);
      s.transport->close(s.id, gpu::transfer_side::sink);
      s.transport->expect(s.id, 7, shape_of(s.to, tokens), s.to.device, s.to.table, long_lease, {});
      c.send(open_frame(s.id, 7, shape_of(s.to, tokens)));
      for (int i = 0; i < 20; ++i) {
        const auto wild = [&] { return random() % 3 == 0 ? random() : random() % 64; };
        gpu::frame_header h;
        h.type = static_cast<frame_type>(1 + random() % 9);
        if (random() % 2 == 0) h.type = frame_type::data;
        h.transfer = {1 + random() % 2};
        h.key = wild();
        h.layer = static_cast<std::uint32_t>(wild());
        h.begin = static_cast<std::uint32_t>(wild());
        h.count = static_cast<std::uint32_t>(wild());
        h.code = static_cast<std::uint32_t>(wild());
        h.position = wild();
        h.payload_bytes = wild();
        h.checksum = wild();
        c.send(h);
      }
    }
    CHECK(good_transfer_works(*s.transport, path, {1000}));
  }
}

TEST_CASE("a ring that could fault its reader is not accepted") {
  sink_fixture s{"shm"};
  constexpr auto bytes = gpu::min_ring_bytes;
  const auto refused = [&](int fd, std::uint64_t claimed) {
    auto c = s.client();
    c.send(hello(claimed), {}, fd);
    return c.hung_up();
  };
  CHECK(refused(memory(bytes, F_SEAL_GROW).get(), bytes));          // may shrink under us
  CHECK(refused(memory(bytes - 4096, F_SEAL_SHRINK).get(), bytes)); // is smaller than it says
  CHECK(refused(memory(bytes, F_SEAL_SHRINK).get(), 0));
  CHECK(refused(memory(bytes, F_SEAL_SHRINK).get(), 4096));
  CHECK(refused(memory(bytes, F_SEAL_SHRINK).get(), ~std::uint64_t{0}));
  CHECK(refused(gpu::unique_fd{::open("/dev/zero", O_RDONLY | O_CLOEXEC)}.get(), bytes)); // is no memory at all
  CHECK(refused(-1, bytes));
  const std::size_t before = mapped_rings();
  CHECK(good_transfer_works(*s.transport, "shm", {2}));
  CHECK(spin_until([&] { return mapped_rings() == before; })); // unmapped when the I/O thread sees the hang-up
}

TEST_CASE("positions outside the ring end the connection and its transfer with reject") {
  for (const std::uint64_t position :
      {gpu::min_ring_bytes - 64, gpu::min_ring_bytes * 2 + 64, ~std::uint64_t{0}, ~std::uint64_t{0} - 4096}) {
    INFO(position);
    sink_fixture s{"shm"};
    const auto ring = memory(gpu::min_ring_bytes, F_SEAL_SHRINK);
    auto c = s.client();
    c.send(hello(gpu::min_ring_bytes), {}, ring.get());
    REQUIRE(c.receive()->type == frame_type::welcome);
    c.send(open_frame(s.id, 7, shape_of(s.to, tokens)));
    auto h = data_frame(s.id, 0, 0, 1, {});
    h.payload_bytes = s.to.device->kv().token_layer_bytes();
    h.position = position;
    c.send(h);
    CHECK(s.received.failed(errc::reject));
    CHECK(c.hung_up());
  }
}

TEST_CASE("silent strangers are closed, and as many as may come do not lock the other port") {
  gpu::transport_options options;
  options.enable_local = false;
  auto sink = started(options);
  std::vector<raw_client> strangers;
  for (int i = 0; i < 300; ++i) strangers.push_back(raw_client::dial(endpoint_of(*sink, "tcp")));
  CHECK(good_transfer_works(*sink, "shm", {1}));
  for (auto& s : strangers) CHECK(s.hung_up());
  CHECK(good_transfer_works(*sink, "tcp", {2}));
}

} // namespace hflex::transport_hostile_test
