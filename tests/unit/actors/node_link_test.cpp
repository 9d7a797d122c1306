#include "tests/unit/actors/node_bench.hpp"
#include <algorithm>

namespace hflex::node_link_test {

using namespace hflex::node;
using namespace hflex::node::test;

TEST_CASE("an agent connects, joins under its incarnation and beats at the head's interval") {
  bench b;
  CHECK(count<connect>(b.on(begin{})) == 1);
  CHECK(b.c.connection() == head_state::connecting);
  CHECK(only<join>(b.on(opened{7})).incarnation == 7);
  CHECK(b.c.connection() == head_state::joining);
  CHECK(b.on(welcomed{6, {4}, 250ms}).empty()); // meant for an earlier life
  b.on(welcomed{7, {4}, 250ms});
  CHECK(b.c.connection() == head_state::joined);
  CHECK(b.c.id() == node_id{4});
  CHECK(only<heartbeat>(b.out).sequence == 1);
  CHECK(count<heartbeat>(b.on(tick{}, 249ms)) == 0);
  b.on(tick{}, 1ms);
  CHECK(only<heartbeat>(b.out).sequence == 2);
  CHECK(only<heartbeat>(b.out).incarnation == 7);
  CHECK(only<wake_at>(b.out).time == b.now + 250ms);
}

TEST_CASE("each failure to join leads to a back-off and a new connection") {
  bench b;
  b.on(begin{});
  SECTION("refused by the network") { b.on(connect_failed{"no route"}); }
  SECTION("refused by the head") {
    b.on(opened{7});
    b.on(refused{7, "the name is taken"});
    CHECK(count<hang_up>(b.out) == 1);
  }
  SECTION("lost while joining") {
    b.on(opened{7});
    b.on(head_lost{"reset"});
    CHECK(count<hang_up>(b.out) == 1);
  }
  SECTION("never opened") {
    CHECK(b.on(tick{}, 999ms).empty());
    b.on(tick{}, 1ms);
    CHECK(count<hang_up>(b.out) == 1);
  }
  SECTION("never welcomed") {
    b.on(opened{7});
    b.on(tick{}, 1s);
    CHECK(count<hang_up>(b.out) == 1);
  }
  CHECK(b.c.connection() == head_state::disconnected);
  CHECK(count<connect>(b.on(tick{}, 74ms)) == 0);
  CHECK(count<connect>(b.on(tick{}, 26ms)) == 1);
}

TEST_CASE("the back-off doubles up to its limit, with a jitter that the seed decides") {
  auto delays = [](std::uint64_t seed) {
    auto o = quick();
    o.seed = seed;
    bench b{core{o}};
    b.on(begin{});
    std::vector<duration> found;
    for (int i = 0; i < 8; ++i) {
      b.on(connect_failed{"no route"});
      auto before = b.now;
      while (b.c.connection() == head_state::disconnected) b.on(tick{}, 1ms);
      found.push_back(b.now - before);
    }
    return found;
  };
  auto found = delays(1);
  duration full = 100ms;
  for (auto d : found) {
    CHECK(d <= full);
    CHECK(d >= full * 3 / 4);
    full = std::min<duration>(full * 2, 1s);
  }
  CHECK(found == delays(1));
  CHECK(found != delays(2));
}

TEST_CASE("a connection that opens too late is closed again") {
  bench b;
  b.on(begin{});
  b.on(tick{}, 1s);
  CHECK(count<hang_up>(b.on(opened{7})) == 1);
  CHECK(b.c.connection() == head_state::disconnected);
}

TEST_CASE("a lost head ends all work, and its return finds the contexts warm") {
  bench b;
  b.join_head();
  b.run(i1, 0);
  b.run(i2, 1);
  b.on(stop_instance{i2});
  b.on(start_instance{i3, 1, instance_role::mixed, austen}); // waits for weights
  b.on(head_lost{"connection reset"});
  CHECK(count<hang_up>(b.out) == 1);
  auto killed = all<kill_instance>(b.out);
  REQUIRE(killed.size() == 2);
  CHECK(killed[0].instance == i1);
  CHECK(only<cancel_weights>(b.out).instance == i3);
  CHECK(b.reported().empty()); // there is nobody to hear
  CHECK(count<release_context>(b.out) == 0);
  b.on(instance_stopped{i1});
  b.on(instance_stopped{i2});
  CHECK(b.c.instances().empty());

  CHECK(count<connect>(b.on(tick{}, 100ms)) == 1);
  auto again = only<join>(b.on(opened{8}));
  CHECK(again.incarnation == 8);
  REQUIRE(again.warm.size() == 2);
  CHECK(again.warm[0].device == 0);
  CHECK(again.warm[0].model == austen);
  b.on(welcomed{8, {4}, 100ms});
  CHECK(only<heartbeat>(b.out).sequence == 1);
  b.on(start_instance{{9}, 0, instance_role::mixed, austen});
  CHECK(count<spawn_instance>(b.out) == 1);
}

TEST_CASE("contexts do not outlast a head that stays away") {
  bench b;
  b.join_head();
  b.run(i1);
  b.on(head_lost{"connection reset"});
  b.on(instance_stopped{i1});
  b.on(tick{}, 60s);
  CHECK(count<release_context>(b.out) == 1);
  CHECK(b.c.contexts() == 0);
}

TEST_CASE("a shutdown drains, frees and says goodbye, and a second one hurries") {
  bench b;
  b.join_head();
  b.run(i1, 0);
  b.run(i2, 1);
  b.on(stop_instance{i2});
  b.on(instance_stopped{i2}); // leaves an idle context
  b.on(shut_down{});
  CHECK(only<retire_instance>(b.out).instance == i1);
  CHECK(count<release_context>(b.out) == 1);
  CHECK(count<leave>(b.out) == 0);
  b.on(start_instance{i3, 1, instance_role::mixed, austen});
  CHECK(only<report>(b.out).reason == "the node is shutting down");
  SECTION("drained") {}
  SECTION("hurried") { CHECK(count<kill_instance>(b.on(shut_down{})) == 1); }
  b.on(instance_stopped{i1});
  CHECK(b.reported() == std::vector<report_state>{report_state::stopped});
  CHECK(count<release_context>(b.out) == 1);
  CHECK(only<leave>(b.out).incarnation == 7);
  CHECK(count<hang_up>(b.out) == 1);
  CHECK(b.c.done());
  CHECK(b.on(tick{}, 1h).empty());
}

TEST_CASE("a shutdown without a head ends at once and does not connect again") {
  bench b;
  b.on(begin{});
  b.on(connect_failed{"no route"});
  b.on(shut_down{});
  CHECK(b.c.done());
  CHECK(count<connect>(b.on(tick{}, 1h)) == 0);
}

} // namespace hflex::node_link_test
