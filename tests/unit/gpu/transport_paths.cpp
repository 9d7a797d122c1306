// KV transfers that go well, over every path.
#include "tests/support/transport_kit.hpp"
#include <future>
#include <thread>

namespace hflex::transport_paths_test {

using namespace hflex::test;

namespace {

void transfer_all_sizes(const std::string& path) {
  transport_pair pair{path};
  std::uint64_t number = 0;
  for (const std::uint32_t tokens : {1U, 7U, 63U, 64U, 65U, 333U}) {
    INFO(path << ", " << tokens << " tokens");
    const transfer_id id{++number};
    const kv_end from = make_end(tokens, 16, 1);
    const kv_end to = make_end(tokens, 5, 2);
    ending received;
    ending delivered;
    pair.sink().expect(id, 42, shape_of(to, tokens), to.device, to.table, long_lease, received.callback());
    pair.source().open(id, 42, shape_of(from, tokens), from.device, from.table, pair.sink().endpoints(), long_lease,
        delivered.callback());
    push_all(pair.source(), id, tokens);
    CHECK(received.ok());
    CHECK(delivered.ok());
    CHECK(same_content(from, to, tokens));
    const auto stats = pair.source().stats(id);
    CHECK(stats.path == path);
    CHECK(stats.bytes_total == std::uint64_t{test_layers} * tokens * from.device->kv().token_layer_bytes());
    pair.source().close(id, gpu::transfer_side::source);
    CHECK(pair.source().stats(id).path.empty());
    pair.sink().close(id, gpu::transfer_side::sink);
    CHECK(received.calls() == 1);
    CHECK(delivered.calls() == 1);
  }
}

} // namespace

TEST_CASE("KV arrives byte for byte over the local path, whatever the block sizes and tables of the two ends") {
  transfer_all_sizes("local");
}
TEST_CASE("KV arrives byte for byte over shared memory, whatever the block sizes and tables of the two ends") {
  transfer_all_sizes("shm");
}
TEST_CASE("KV arrives byte for byte over TCP, whatever the block sizes and tables of the two ends") {
  transfer_all_sizes("tcp");
}

TEST_CASE("a link is open before anything is sent, and transfers share it") {
  for (const std::string path : {"local", "shm", "tcp"}) {
    INFO(path);
    transport_pair pair{path};
    std::promise<result<std::string>> opened, again, alone;
    pair.source().link(pair.sink().endpoints(), [&](auto r) { opened.set_value(std::move(r)); });
    const auto first = opened.get_future().get();
    REQUIRE(first);
    CHECK(*first == path);
    const auto before = open_descriptors();
    pair.source().link(pair.sink().endpoints(), [&](auto r) { again.set_value(std::move(r)); });
    CHECK(again.get_future().get().value() == path);
    const kv_end from = make_end(40, 16, 1), to = make_end(40, 16, 2);
    ending received, delivered;
    pair.sink().expect({1}, 9, shape_of(to, 40), to.device, to.table, long_lease, received.callback());
    pair.source().open(
        {1}, 9, shape_of(from, 40), from.device, from.table, pair.sink().endpoints(), long_lease, delivered.callback());
    push_all(pair.source(), {1}, 40);
    CHECK(received.ok());
    CHECK(delivered.ok());
    CHECK(open_descriptors() == before);
    pair.source().unlink(pair.sink().endpoints());
    pair.source().unlink(pair.sink().endpoints());
    pair.source().unlink(pair.sink().endpoints()); // one too many does no harm
    pair.source().link({"tcp:127.0.0.1:1", "nonsense"}, [&](auto r) { alone.set_value(std::move(r)); });
    CHECK(alone.get_future().get().error().code == errc::reroute);
  }
}

TEST_CASE("a transfer many times larger than the ring arrives byte for byte") {
  auto options = only("shm");
  options.ring_bytes = 64U << 10U;
  transport_pair pair{options};
  const std::uint32_t tokens = 1001;
  const kv_end from = make_end(tokens, 16, 1, 250); // 2000 bytes a token: chunks never end where the ring does
  const kv_end to = make_end(tokens, 32, 2, 250);
  ending received;
  ending delivered;
  pair.sink().expect({1}, 9, shape_of(to, tokens), to.device, to.table, long_lease, received.callback());
  pair.source().open({1}, 9, shape_of(from, tokens), from.device, from.table, pair.sink().endpoints(), long_lease,
      delivered.callback());
  for (std::uint32_t layer = 0; layer < test_layers; ++layer) pair.source().push({1}, layer, 0, tokens);
  CHECK(received.ok());
  CHECK(delivered.ok());
  CHECK(same_content(from, to, tokens));
}

TEST_CASE("many transfers share one connection while several threads push") {
  for (const std::string path : {"local", "shm", "tcp"}) {
    INFO(path);
    transport_pair pair{path};
    constexpr std::uint32_t count = 32;
    const std::size_t before = open_descriptors();
    std::vector<kv_end> from;
    std::vector<kv_end> to;
    std::vector<ending> received(count);
    std::vector<ending> delivered(count);
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::uint32_t tokens = 50 + i;
      from.push_back(make_end(tokens, 16, i));
      to.push_back(make_end(tokens, 8, 100 + i));
      pair.sink().expect(
          {i + 1}, i, shape_of(to[i], tokens), to[i].device, to[i].table, long_lease, received[i].callback());
      pair.source().open({i + 1}, i, shape_of(from[i], tokens), from[i].device, from[i].table, pair.sink().endpoints(),
          long_lease, delivered[i].callback());
    }
    std::vector<std::thread> threads;
    for (std::uint32_t t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        for (std::uint32_t i = t; i < count; i += 4) push_all(pair.source(), {i + 1}, 50 + i);
      });
    for (auto& t : threads) t.join();
    for (std::uint32_t i = 0; i < count; ++i) {
      CHECK(received[i].ok());
      CHECK(delivered[i].ok());
      CHECK(same_content(from[i], to[i], 50 + i));
    }
    CHECK(open_descriptors() <= before + 2); // one connection, both of whose ends are ours
  }
}

TEST_CASE("rows pushed before the connection is up are sent once it is") {
  transport_pair pair{"tcp"};
  const kv_end from = make_end(100, 16, 1);
  const kv_end to = make_end(100, 16, 2);
  ending received;
  ending blocked;
  from.device->shut_gate(); // holds the source's I/O thread with a first transfer
  pair.sink().expect({1}, 1, shape_of(to, 100), to.device, to.table, long_lease, blocked.callback());
  pair.source().open({1}, 1, shape_of(from, 100), from.device, from.table, pair.sink().endpoints(), long_lease, {});
  push_all(pair.source(), {1}, 100);
  REQUIRE(from.device->wait_for_reads(1));
  const kv_end second = make_end(100, 16, 3);
  pair.sink().expect({2}, 1, shape_of(second, 100), second.device, second.table, long_lease, received.callback());
  pair.source().open({2}, 1, shape_of(from, 100), from.device, from.table, pair.sink().endpoints(), long_lease, {});
  push_all(pair.source(), {2}, 100);
  from.device->open_gate();
  CHECK(received.ok());
  CHECK(blocked.ok());
  CHECK(same_content(from, second, 100));
}

TEST_CASE("the cheapest path that both ends offer is taken, and a dead one is passed over") {
  gpu::transport_options all;
  auto source = started(all);
  auto sink = started(all);
  const kv_end from = make_end(10, 16, 1);
  const kv_end to = make_end(10, 16, 2);
  const auto run = [&](transfer_id id, gpu::endpoint_list ways) {
    ending received;
    sink->expect(id, 1, shape_of(to, 10), to.device, to.table, long_lease, received.callback());
    source->open(id, 1, shape_of(from, 10), from.device, from.table, std::move(ways), long_lease, {});
    push_all(*source, id, 10);
    CHECK(received.ok());
    return source->stats(id).path;
  };
  CHECK(run({1}, sink->endpoints()) == "shm");
  std::string dead = endpoint_of(*sink, "shm");
  dead.back() = dead.back() == '0' ? '1' : '0';
  CHECK(run({2}, {endpoint_of(*sink, "tcp"), dead}) == "tcp");
  CHECK(run({3}, {"shm:another-host:x", "tcp:nonsense", "local:stranger", "", endpoint_of(*sink, "tcp")}) == "tcp");
}

} // namespace hflex::transport_paths_test
