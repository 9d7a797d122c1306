// Peers that die or hang: other processes are killed in the middle of a transfer.
#include "tests/support/transport_kit.hpp"

namespace hflex::transport_death_test {

using namespace hflex::test;

namespace {

constexpr std::uint32_t tokens = 200;
constexpr transfer_id id{1};

/// In a child: pushes half of its layers to whom the parent names, then waits to be killed.
void half_a_source(const child_process& parent, const std::string& path) {
  auto t = gpu::transport::start(only(path));
  const kv_end from = make_end(tokens, 16, 1);
  (*t)->open(id, 1, shape_of(from, tokens), from.device, from.table, {parent.hear()}, long_lease, {});
  (*t)->push(id, 0, 0, tokens);
  (*t)->push(id, 1, 0, tokens / 2);
  parent.hear();
  ::_exit(0); // as a crash: nothing is closed in order
}

/// In a child: expects a transfer, says so, and tells when the first rows are in.
void half_a_sink(const child_process& parent, const std::string& path) {
  auto t = gpu::transport::start(only(path));
  const kv_end to = make_end(tokens, 16, 1);
  to.device->on_write = [&] { parent.say("written"); };
  (*t)->expect(id, 1, shape_of(to, tokens), to.device, to.table, long_lease, {});
  parent.say(endpoint_of(**t, path));
  parent.hear();
}

} // namespace

TEST_CASE("a source that is killed ends its sink with reroute, and nothing of its ring stays") {
  for (const std::string path : {"shm", "tcp"}) {
    INFO(path);
    child_process child{[&](const child_process& parent) { half_a_source(parent, path); }};
    auto t = started(only(path));
    const std::size_t descriptors = open_descriptors();
    const kv_end to = make_end(tokens, 8, 2);
    ending received;
    t->expect(id, 1, shape_of(to, tokens), to.device, to.table, long_lease, received.callback());
    child.say(endpoint_of(*t, path));
    REQUIRE(to.device->wait_for_writes(2));
    CHECK(mapped_rings() == (path == "shm" ? 1 : 0));
    CHECK(received.calls() == 0);
    child.kill();
    CHECK(received.failed(errc::reroute));
    CHECK(open_descriptors() == descriptors);
    CHECK(mapped_rings() == 0);
    CHECK(to.device.use_count() == 1);
  }
}

TEST_CASE("a source that exits without a word ends its sink with reroute") {
  child_process child{[&](const child_process& parent) { half_a_source(parent, "shm"); }};
  auto t = started(only("shm"));
  const kv_end to = make_end(tokens, 8, 2);
  ending received;
  t->expect(id, 1, shape_of(to, tokens), to.device, to.table, long_lease, received.callback());
  child.say(endpoint_of(*t, "shm"));
  REQUIRE(to.device->wait_for_writes(2));
  child.say("exit");
  CHECK(received.failed(errc::reroute));
}

TEST_CASE("a sink that is killed ends its source with reroute, and nothing stays") {
  for (const std::string path : {"shm", "tcp"}) {
    INFO(path);
    child_process child{[&](const child_process& parent) { half_a_sink(parent, path); }};
    const std::size_t descriptors = open_descriptors();
    auto t = started(only(path));
    const kv_end from = make_end(tokens, 8, 2);
    ending delivered;
    t->open(id, 1, shape_of(from, tokens), from.device, from.table, {child.hear()}, long_lease, delivered.callback());
    t->push(id, 0, 0, tokens);
    REQUIRE(child.hear() == "written");
    CHECK(delivered.calls() == 0);
    child.kill();
    CHECK(delivered.failed(errc::reroute));
    CHECK(from.device.use_count() == 1);
    t.reset();
    CHECK(open_descriptors() == descriptors);
    CHECK(mapped_rings() == 0);
  }
}

TEST_CASE("a peer that hangs is covered by the lease") {
  for (const std::string path : {"shm", "tcp"}) {
    INFO(path);
    child_process child{[&](const child_process& parent) { half_a_sink(parent, path); }};
    auto t = started(only(path));
    const kv_end from = make_end(tokens, 8, 2);
    ending delivered;
    const std::string sink = child.hear();
    child.stop();
    t->open(id, 1, shape_of(from, tokens), from.device, from.table, {sink}, std::chrono::milliseconds{300},
        delivered.callback());
    push_all(*t, id, tokens);
    CHECK(delivered.failed(errc::retry));
  }
}

TEST_CASE("a peer that never answers the handshake is given up before a long lease ends") {
  child_process child{[&](const child_process& parent) { half_a_sink(parent, "tcp"); }};
  auto t = started(only("tcp"));
  const kv_end from = make_end(tokens, 8, 2);
  ending delivered;
  const std::string sink = child.hear();
  child.stop();
  t->open(id, 1, shape_of(from, tokens), from.device, from.table, {sink}, long_lease, delivered.callback());
  CHECK(delivered.failed(errc::reroute));
}

} // namespace hflex::transport_death_test
