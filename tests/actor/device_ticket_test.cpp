// Newcomers on another host whose devices take weights from a device there, while the host's copy still comes.
#include "tests/support/small_cluster.hpp"

namespace hflex::test::device_ticket_test {
namespace {

const std::string prompt = "Call me Ishmael";

/// A newcomer on another host, the host's copy of whose weights waits.
struct newcomer_elsewhere : small_cluster {
  newcomer_elsewhere() : small_cluster({{instance_role::mixed, 2}}) {}
  void begin() {
    start_head();
    start_node("a", 1, "this host");
    until_ready(1);
    net->pulls_wait = true;
    b = &start_node("b", 1, "that host");
    advance(std::chrono::milliseconds{100});
    REQUIRE(net->waiting_pulls.size() == 1);
  }
  test_node* b{};
};

} // namespace

TEST_CASE_METHOD(
    newcomer_elsewhere, "with a ticket a device serves before the host has its copy, and keeps on without") {
  devices->kind = "gpu/bf16";
  begin();
  until_ready(2);
  REQUIRE(devices->asked.size() == 1);
  CHECK(devices->asked[0].find(" gpu/bf16") != std::string::npos);
  CHECK(devices->tickets == std::vector<std::size_t>{0, 7});
  CHECK(*b->contexts == 1);
  auto client = start_client();
  std::set<std::uint32_t> used;
  std::map<std::uint64_t, std::string> jobs;
  for (int i = 0; i < 6; ++i) jobs[submit(client, prompt + std::to_string(i), 12)] = prompt + std::to_string(i);
  for (const auto& [id, text] : jobs) used.insert(finish(client, id, text, 12).prefill_instance);
  CHECK(used == std::set<std::uint32_t>{1, 2}); // as good as any other

  SECTION("the copy comes") {
    end_pull({});
    CHECK(*b->loads == 0);
    until([&] {
      const auto nodes = topology().nodes;
      return std::all_of(nodes.begin(), nodes.end(), [](const auto& n) { return n.weights_bytes == 1000; });
    });
  }
  SECTION("the copy's source dies: the disk is read, and nobody notices") {
    net->pulls_wait = false;
    end_pull(fail(errc::reroute, "the holder is gone"));
    advance(std::chrono::milliseconds{100});
    CHECK(*b->loads == 1);
  }
  CHECK(count_instances("ready") == 2);
  CHECK(*b->contexts == 1);
  const auto id = submit(client, prompt, 12);
  finish(client, id, prompt, 12);
}

TEST_CASE_METHOD(newcomer_elsewhere, "a device that is given no ticket waits for the host's copy") {
  SECTION("because no device has them") {
    devices->kind = "gpu/bf16";
    devices->give = false;
  }
  SECTION("because it is none that takes weights from others") {}
  const auto asked = devices->kind.empty() ? 0U : 1U;
  begin();
  CHECK(devices->asked.size() == asked);
  CHECK(count_instances("ready") == 1);
  end_pull({});
  until_ready(2);
  CHECK(devices->tickets == std::vector<std::size_t>{0, 0});
}

TEST_CASE("newcomers on several hosts are given tickets of one group, while their copies come in a chain") {
  small_cluster c({{instance_role::mixed, 3}});
  c.devices->kind = "gpu/bf16";
  c.start_head();
  c.start_node("a", 1, "this host");
  c.until_ready(1);
  c.net->pulls_wait = true;
  c.start_node("b", 1, "that host");
  c.start_node("c", 1, "another host");
  c.until_ready(3);
  CHECK(c.net->waiting_pulls.size() == 2); // neither host has its copy
  CHECK(c.devices->asked.size() == 1);
  CHECK(c.devices->tickets == std::vector<std::size_t>{0, 7, 8});
}

} // namespace hflex::test::device_ticket_test
