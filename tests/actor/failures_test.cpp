// What may break under a job: agents, instances, lines and messages.
#include "tests/support/small_cluster.hpp"

namespace hflex::test::failures_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const std::string prompt = "It was the best of times";

struct two_of_a_kind : small_cluster {
  two_of_a_kind() : small_cluster({{instance_role::mixed, 2}}) {}

  /// Two nodes with an instance each.
  void start() {
    start_head();
    nodes[0] = &start_node("a");
    nodes[1] = &start_node("b");
    until_ready(2);
  }
  /// Where a job runs now.
  std::uint32_t instance_of(std::uint64_t id) {
    auto list =
        ask<msg<s::JobList>>(head.router, msg<s::JobQuery>::make([&](s::JobQuery::Builder out) { out.setId(id); }));
    return list.read()->getJobs()[0].getDecodeInstance();
  }
  std::string node_of(std::uint32_t instance) {
    for (const auto& a : topology().actors)
      if (a.id == to_string(instance_id{instance})) return a.node;
    return {};
  }
  std::string state_of_node(const std::string& id) {
    for (const auto& n : topology().nodes)
      if (n.id == id) return n.state;
    return {};
  }
  test_node& named(const std::string& id) { return *nodes.at(id == "n1" ? 0 : 1); }

  std::array<test_node*, 2> nodes{};
};

} // namespace

TEST_CASE_METHOD(two_of_a_kind, "a job whose agent dies goes on elsewhere with the same tokens") {
  start();
  auto client = start_client();
  auto id = submit(client, prompt, 40);
  until([&] { return client.log->streamed[id].size() >= 10; });
  auto first = instance_of(id);
  kill(named(node_of(first)).agent);
  auto ending = finish(client, id, prompt, 40);
  CHECK(ending.decode_instance != first);
  CHECK(ending.retries == 1);
  CHECK(all_blocks_free());
}

TEST_CASE_METHOD(
    two_of_a_kind, "a job whose instance crashes goes on with the same tokens, and the instance is replaced") {
  start();
  auto client = start_client();
  auto id = submit(client, prompt, 40);
  until([&] { return client.log->streamed[id].size() >= 10; });
  auto first = instance_of(id);
  auto& home = named(node_of(first));
  kill(wires->instances.at(first));
  auto ending = finish(client, id, prompt, 40);
  CHECK(ending.decode_instance != first);
  CHECK(ending.retries == 1);
  until_ready(2);
  CHECK(*home.contexts == 1); // the crashed actor's context served the next one
}

TEST_CASE_METHOD(two_of_a_kind, "a silent agent is suspected, then lost, and welcome again under its name") {
  start();
  auto client = start_client();
  auto id = submit(client, prompt, 450);
  until([&] { return client.log->streamed[id].size() >= 10; });
  auto first = instance_of(id);
  auto silent = node_of(first);
  wires->deaf_to.insert(silent == "n1" ? "a" : "b");
  advance(settings.cluster.core.suspect_after + settings.cluster.core.heartbeat_interval);
  CHECK(state_of_node(silent) == "suspect");
  CHECK(client.log->of(id).empty());
  advance(settings.cluster.core.lost_after - settings.cluster.core.suspect_after);
  CHECK(state_of_node(silent) == "lost");
  auto ending = finish(client, id, prompt, 450);
  CHECK(ending.decode_instance != first);
  wires->deaf_to.clear();
  until([&] { return state_of_node(silent) == "up"; });
  until_ready(2);
  CHECK(*named(silent).loads <= 1);
}

TEST_CASE_METHOD(small_cluster, "the start of a job on an instance that has just ended does not use its attempts up") {
  start_head();
  start_node("a");
  until_ready(1);
  auto client = start_client();
  wires->hold_ends = true; // the news of the end is still on its way: the scheduler goes on placing there
  kill(wires->instances.at(1));
  REQUIRE(wires->held.size() == 1);
  auto id = submit(client, prompt, 4);
  CHECK(client.log->of(id).empty());
  release_ends();
  auto ending = finish(client, id, prompt, 4);
  CHECK(ending.decode_instance != 1);
  CHECK(ending.retries == 1);
}

TEST_CASE_METHOD(small_cluster, "a job whose only instance is gone waits for the next one") {
  start_head();
  auto& first = start_node("a");
  until_ready(1);
  auto client = start_client();
  auto id = submit(client, prompt, 40);
  until([&] { return client.log->streamed[id].size() >= 10; });
  kill(first.agent);
  advance(seconds{2});
  CHECK(client.log->of(id).empty());
  start_node("b");
  finish(client, id, prompt, 40);
}

} // namespace hflex::test::failures_test
