// Transfers that end badly: leases, deaths, refusals, bounds, close. Each side hears of it exactly once and nothing
// stays behind.
#include "tests/support/transport_kit.hpp"
#include <thread>

namespace hflex::transport_failure_test {

using namespace hflex::test;
using gpu::transfer_side;

namespace {

/// Both ends of one transfer of `tokens` tokens between two transports of one path.
struct one_transfer {
  explicit one_transfer(const std::string& path, std::uint32_t count = 100)
      : pair{path}, tokens{count}, from{make_end(count, 16, 1)}, to{make_end(count, 8, 2)} {}
  void expect(duration lease = long_lease) {
    pair.sink().expect(id, 7, shape_of(to, tokens), to.device, to.table, lease, received.callback());
  }
  void open(duration lease = long_lease, std::uint64_t key = 7) {
    pair.source().open(
        id, key, shape_of(from, tokens), from.device, from.table, pair.sink().endpoints(), lease, delivered.callback());
  }
  transport_pair pair;
  std::uint32_t tokens;
  kv_end from;
  kv_end to;
  transfer_id id{1};
  ending received;
  ending delivered;
};

const std::vector<std::string> all_paths{"local", "shm", "tcp"};

} // namespace

TEST_CASE("a lease that ends at the sink ends both sides with retry") {
  for (const auto& path : all_paths) {
    INFO(path);
    one_transfer t{path};
    t.expect(std::chrono::milliseconds{50});
    t.open();
    t.pair.source().push(t.id, 0, 0, 10);
    CHECK(t.received.failed(errc::retry));
    // A lease that ended before the source came is a refusal to it.
    const auto heard = t.delivered.wait();
    REQUIRE(heard);
    REQUIRE(!*heard);
    CHECK((heard->error().code == errc::retry || heard->error().code == errc::reroute));
  }
}

TEST_CASE("a lease that ends at the source ends both sides with retry") {
  for (const auto& path : all_paths) {
    INFO(path);
    one_transfer t{path};
    t.expect();
    t.open(std::chrono::milliseconds{200});
    t.pair.source().push(t.id, 0, 0, 10);
    REQUIRE(t.to.device->wait_for_writes(1));
    CHECK(t.delivered.failed(errc::retry));
    CHECK(t.received.failed(errc::retry));
  }
}

TEST_CASE("an uninvited source is refused and harms nobody") {
  for (const auto& path : all_paths) {
    INFO(path);
    one_transfer t{path};
    t.open(); // nothing is expected yet
    CHECK(t.delivered.failed(errc::reroute));
    t.pair.source().close(t.id, transfer_side::source);
    t.expect();
    t.delivered = {};
    t.open(long_lease, 8); // wrong key
    push_all(t.pair.source(), t.id, t.tokens);
    CHECK(t.delivered.failed(errc::reroute));
    t.pair.source().close(t.id, transfer_side::source);
    CHECK(t.received.calls() == 0);
    t.delivered = {};
    t.open();
    push_all(t.pair.source(), t.id, t.tokens);
    CHECK(t.delivered.ok());
    CHECK(t.received.ok());
    CHECK(same_content(t.from, t.to, t.tokens));
  }
}

TEST_CASE("ends that disagree on the shape both hear a reject") {
  one_transfer t{"tcp"};
  t.expect();
  auto shape = shape_of(t.from, t.tokens);
  --shape.tokens;
  t.pair.source().open(
      t.id, 7, shape, t.from.device, t.from.table, t.pair.sink().endpoints(), long_lease, t.delivered.callback());
  CHECK(t.received.failed(errc::reject));
  CHECK(t.delivered.failed(errc::reject));
}

TEST_CASE("rows of f16 do not become bf16: both ends hear a reject that says so, and nothing is written") {
  for (const auto& path : all_paths) {
    INFO(path);
    one_transfer t{path};
    t.from = make_end(t.tokens, 16, 1, 24, gpu::compute_type::f16);
    const auto before = t.to.device->token(0, t.to.table, 0);
    t.expect();
    t.pair.source().open(t.id, 7, shape_of(t.from, t.tokens), t.from.device, t.from.table, t.pair.sink().endpoints(),
        long_lease, t.delivered.callback());
    push_all(t.pair.source(), t.id, t.tokens);
    CHECK(t.received.message().find("of f16: expected") != std::string::npos);
    CHECK(t.delivered.message().find("differs in shape or element type") != std::string::npos);
    CHECK(t.to.device->token(0, t.to.table, 0) == before);
  }
}

TEST_CASE("impossible transfers are rejected at once") {
  one_transfer t{"local"};
  const auto rejected = [&](gpu::kv_shape shape, std::vector<gpu::block_index> table) {
    ending in;
    ending out;
    t.pair.sink().expect({5}, 1, shape, t.to.device, table, long_lease, in.callback());
    t.pair.source().open({5}, 1, shape, t.to.device, table, t.pair.sink().endpoints(), long_lease, out.callback());
    return in.failed(errc::reject) && out.failed(errc::reject);
  };
  const auto good = shape_of(t.to, t.tokens);
  CHECK(rejected({0, good.tokens, good.token_layer_bytes, good.element}, t.to.table));
  CHECK(rejected({good.layers + 1, good.tokens, good.token_layer_bytes, good.element}, t.to.table));
  CHECK(rejected({good.layers, 0, good.token_layer_bytes, good.element}, t.to.table));
  CHECK(rejected({good.layers, good.tokens, good.token_layer_bytes - 1, good.element}, t.to.table));
  CHECK(rejected({good.layers, good.tokens, good.token_layer_bytes, gpu::compute_type::f16}, t.to.table));
  CHECK(rejected(good, {0}));
  auto outside = t.to.table;
  outside.back() = t.to.device->kv().blocks;
  CHECK(rejected(good, outside));
  t.expect();
  ending twice;
  t.pair.sink().expect(t.id, 7, good, t.to.device, t.to.table, long_lease, twice.callback());
  CHECK(twice.failed(errc::reject));
}

TEST_CASE("a row pushed twice fails its transfer with reject on both sides") {
  for (const auto& path : all_paths) {
    INFO(path);
    one_transfer t{path};
    t.expect();
    t.open();
    t.pair.source().push(t.id, 1, 10, 20);
    t.pair.source().push(t.id, 1, 29, 2);
    CHECK(t.received.failed(errc::reject));
    CHECK(t.delivered.failed(errc::reject));
  }
}

TEST_CASE("pushing rows that the transfer does not have fails it") {
  one_transfer t{"shm"};
  t.expect();
  t.open();
  t.pair.source().push(t.id, 0, t.tokens - 1, 2);
  CHECK(t.delivered.failed(errc::reject));
  CHECK(t.received.failed(errc::reroute));
}

TEST_CASE("a device that fails ends both sides") {
  for (const auto& path : all_paths) {
    INFO(path);
    {
      one_transfer t{path};
      t.from.device->fail_accesses();
      t.expect();
      t.open();
      push_all(t.pair.source(), t.id, t.tokens);
      CHECK(t.delivered.failed(errc::fatal));
      CHECK(t.received.failed(errc::reroute));
    }
    one_transfer t{path};
    t.to.device->fail_accesses();
    t.expect();
    t.open();
    push_all(t.pair.source(), t.id, t.tokens);
    CHECK(t.received.failed(errc::fatal));
    CHECK(t.delivered.failed(errc::reroute));
  }
}

TEST_CASE("more queued bytes than a peer may have fail the transfer with retry and free the queue") {
  auto options = only("tcp");
  const kv_end from = make_end(100, 16, 1);
  const std::uint64_t row = from.device->kv().token_layer_bytes();
  options.max_queued_bytes = 100 * row;
  transport_pair pair{options};
  const kv_end to = make_end(100, 16, 2);
  const auto open = [&](transfer_id id, ending& received, ending& delivered) {
    pair.sink().expect(id, 1, shape_of(to, 100), to.device, to.table, long_lease, received.callback());
    pair.source().open(
        id, 1, shape_of(from, 100), from.device, from.table, pair.sink().endpoints(), long_lease, delivered.callback());
  };
  ending received[3];
  ending delivered[3];
  from.device->shut_gate();
  open({1}, received[0], delivered[0]);
  pair.source().push({1}, 0, 0, 1);
  REQUIRE(from.device->wait_for_reads(1)); // the I/O thread is held: what is pushed now stays queued
  open({2}, received[1], delivered[1]);
  pair.source().push({1}, 1, 0, 60); // together with the row that is being read: 61
  pair.source().push({2}, 0, 0, 40); // 101: one too many, whichever transfer had the others
  from.device->open_gate();
  CHECK(delivered[1].failed(errc::retry));
  // The other transfer goes on, and there is room again.
  pair.source().push({1}, 0, 1, 99);
  REQUIRE(to.device->wait_for_writes(3));
  pair.source().push({1}, 1, 60, 40);
  REQUIRE(to.device->wait_for_writes(4));
  pair.source().push({1}, 2, 0, 100);
  CHECK(delivered[0].ok());
  CHECK(received[0].ok());
  CHECK(same_content(from, to, 100));
}

TEST_CASE("open transfers are bounded") {
  auto options = only("local");
  options.max_transfers = 2;
  auto t = started(options);
  const kv_end end = make_end(10, 16, 1);
  ending received[3];
  for (std::uint64_t i = 0; i < 3; ++i)
    t->expect({i + 1}, 1, shape_of(end, 10), end.device, end.table, long_lease, received[i].callback());
  CHECK(received[2].failed(errc::retry));
  CHECK(received[0].calls() == 0);
  CHECK(received[1].calls() == 0);
}

TEST_CASE("closing one side tells the other, and only the other") {
  for (const auto& path : all_paths) {
    INFO(path);
    for (const auto side : {transfer_side::source, transfer_side::sink}) {
      one_transfer t{path};
      t.expect();
      t.open();
      t.pair.source().push(t.id, 0, 0, 10);
      REQUIRE(t.to.device->wait_for_writes(1));
      const bool at_source = side == transfer_side::source;
      (at_source ? t.pair.source() : t.pair.sink()).close(t.id, side);
      CHECK((at_source ? t.received : t.delivered).failed(errc::reroute));
      CHECK((at_source ? t.delivered : t.received).calls() == 0);
    }
  }
}

TEST_CASE("no callback and no block access follows a close, under load") {
  for (const auto& path : all_paths) {
    INFO(path);
    transport_pair pair{path};
    std::mt19937 random{11};
    for (std::uint64_t i = 1; i <= 60; ++i) {
      const std::uint32_t tokens = 400;
      const kv_end from = make_end(tokens, 16, 1, 64);
      const kv_end to = make_end(tokens, 8, 2, 64);
      ending received;
      ending delivered;
      pair.sink().expect({i}, 1, shape_of(to, tokens), to.device, to.table, long_lease, received.callback());
      pair.source().open({i}, 1, shape_of(from, tokens), from.device, from.table, pair.sink().endpoints(), long_lease,
          delivered.callback());
      std::thread pusher{[&] { push_all(pair.source(), {i}, tokens); }};
      if (i % 3 != 0) to.device->wait_for_writes(static_cast<int>(random() % 6));
      pair.source().close({i}, transfer_side::source);
      from.device->take_back();
      const int told_source = delivered.calls();
      pair.sink().close({i}, transfer_side::sink);
      to.device->take_back();
      const int told_sink = received.calls();
      pusher.join();
      CHECK(from.device.use_count() == 1);
      CHECK(to.device.use_count() == 1);
      CHECK(from.device->late_accesses() == 0);
      CHECK(to.device->late_accesses() == 0);
      CHECK(delivered.calls() == told_source);
      CHECK(received.calls() == told_sink);
    }
  }
}

TEST_CASE("a callback may close transfers, open new ones and push") {
  transport_pair pair{"local"};
  const kv_end from = make_end(20, 16, 1);
  const kv_end to = make_end(20, 16, 2);
  gpu::transport& t = pair.source();
  ending last;
  ending never;
  const auto begin = [&](transfer_id id, gpu::transfer_callback on_received, gpu::transfer_callback on_delivered) {
    t.expect(id, 1, shape_of(to, 20), to.device, to.table, long_lease, std::move(on_received));
    t.open(id, 1, shape_of(from, 20), from.device, from.table, t.endpoints(), long_lease, std::move(on_delivered));
  };
  begin({2}, never.callback(), never.callback());
  begin({1}, {}, [&](transfer_id id, result<void>) {
    t.close(id, transfer_side::source);
    t.close({2}, transfer_side::source);
    t.close({2}, transfer_side::sink);
    begin({3}, never.callback(), never.callback()); // closed before the I/O thread has even seen it
    t.close({3}, transfer_side::source);
    t.close({3}, transfer_side::sink);
    begin({1}, {}, last.callback());
    push_all(t, {1}, 20);
  });
  push_all(t, {1}, 20);
  CHECK(last.ok());
  CHECK(never.calls() == 0);
}

TEST_CASE("a transport that ends completes what is open and gives everything back") {
  const std::size_t descriptors = open_descriptors();
  for (const auto& path : all_paths) {
    INFO(path);
    one_transfer t{path};
    t.expect();
    t.open();
    t.pair.source().push(t.id, 0, 0, 10);
    REQUIRE(t.to.device->wait_for_writes(1));
    t.pair.first.reset();
    CHECK(t.delivered.calls() == 1);
    CHECK(t.delivered.failed(errc::reroute));
    CHECK(t.received.failed(errc::reroute));
    t.pair.second.reset();
    CHECK(t.from.device.use_count() == 1);
    CHECK(t.to.device.use_count() == 1);
  }
  CHECK(open_descriptors() == descriptors);
  CHECK(mapped_rings() == 0);
}

TEST_CASE("options out of range are rejected") {
  const auto rejected = [](auto change) {
    gpu::transport_options o;
    change(o);
    const auto t = gpu::transport::start(o);
    return !t && t.error().code == errc::reject;
  };
  CHECK(rejected([](auto& o) { o.ring_bytes = 1000; }));
  CHECK(rejected([](auto& o) { o.ring_bytes = std::uint64_t{1} << 40U; }));
  CHECK(rejected([](auto& o) { o.listen_host = "0.0.0.0"; }));
  CHECK(rejected([](auto& o) { o.listen_host = "::"; }));
  CHECK(rejected([](auto& o) { o.listen_host = "192.0.2.1"; })); // not ours: TEST-NET-1
}

} // namespace hflex::transport_failure_test
