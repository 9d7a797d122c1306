#include "actors/cluster/cluster.hpp"
#include "tests/unit/actors/effects_of.hpp"
#include <algorithm>
#include <random>

namespace hflex::cluster_test {

using namespace hflex::cluster;
using namespace std::chrono_literals;
using hflex::test::all;
using hflex::test::count;
using hflex::test::only;

namespace {

options quick() {
  options o;
  o.heartbeat_interval = 100ms;
  o.suspect_after = 300ms;
  o.lost_after = 1s;
  o.max_nodes = 3;
  o.max_actors = 8;
  o.max_links = 4;
  o.max_events = 6;
  return o;
}

struct bench {
  core c{quick()};
  time_point now{1s};
  std::vector<effect> out{};

  template <class Event>
  std::vector<effect>& on(const Event& e, duration later = {}) {
    now += later;
    out.clear();
    c.on(e, now, out);
    return out;
  }
  node_id join(const std::string& name, std::uint64_t incarnation, const std::string& address = "a:1") {
    return only<welcome>(on(node_joined{name, incarnation, address, {{"cpu", "Zen", 1000, 0}}})).node;
  }
  std::string refusal(const std::string& name, std::uint64_t incarnation, const std::string& address = "a:1") {
    return only<refuse_join>(on(node_joined{name, incarnation, address, {}})).reason;
  }
  void up(std::uint32_t instance, node_id where, instance_role role = instance_role::mixed) {
    on(actor_up{instance_ref({instance}), where, role, 0, "ready"});
  }
  std::string state_of(const std::string& id) {
    for (auto& n : c.topology().nodes)
      if (n.id == id) return n.state;
    return "not there";
  }
};

std::vector<change> changes(const std::vector<effect>& out) {
  std::vector<change> found;
  for (auto& e : all<cluster_event>(out)) found.push_back(e.what);
  return found;
}

bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

} // namespace

TEST_CASE("a node that joins is welcomed with its id, the epoch and the heartbeat interval") {
  bench b;
  b.on(node_joined{"gpu-a", 77, "a:1", {}});
  auto w = only<welcome>(b.out);
  CHECK(w.node == node_id{1});
  CHECK(w.incarnation == 77);
  CHECK(w.epoch == 1);
  CHECK(w.heartbeat_interval == 100ms);
  CHECK(only<wake_at>(b.out).time == b.now + 300ms);
}

TEST_CASE("missed heartbeats make a node suspect, then lost with its instances") {
  bench b;
  auto n = b.join("gpu-a", 1);
  b.up(1, n);
  b.up(2, n);
  auto epoch = b.c.epoch();
  b.on(tick{}, 299ms);
  CHECK(b.state_of("n1") == "up");
  b.on(tick{}, 1ms);
  CHECK(changes(b.out) == std::vector<change>{change::node_suspect});
  CHECK(only<wake_at>(b.out).time == b.now + 700ms);
  CHECK(b.c.epoch() == epoch); // suspicion changes nothing that anyone relies on
  b.on(tick{}, 699ms);
  CHECK(count<node_lost>(b.out) == 0);
  b.on(tick{}, 1ms);
  CHECK(changes(b.out) == std::vector<change>{change::actor_down, change::actor_down, change::node_lost});
  CHECK(all<instance_lost>(b.out)[0].instance == instance_id{1});
  CHECK(all<instance_lost>(b.out)[1].instance == instance_id{2});
  CHECK(only<node_lost>(b.out).reason == "no heartbeat for 1 s");
  CHECK(b.state_of("n1") == "lost");
  CHECK(b.c.topology().actors.empty());
  CHECK(count<wake_at>(b.out) == 0);
  CHECK(b.on(tick{}, 1h).empty());
}

TEST_CASE("a head that was held up itself loses no node whose heartbeats it has not read yet") {
  bench b;
  auto n = b.join("gpu-a", 1);
  b.up(1, n);
  b.on(tick{}, 5s); // due after 300 ms: the beats of the node wait behind it in the same mailbox
  CHECK(changes(b.out) == std::vector<change>{change::node_suspect});
  CHECK(only<wake_at>(b.out).time == b.now + 700ms); // as long as from a suspicion in time
  b.on(heartbeat{n, 1, 1, {}});
  CHECK(changes(b.out) == std::vector<change>{change::node_recovered});
  b.on(tick{}, 300ms);
  CHECK(changes(b.out) == std::vector<change>{change::node_suspect});
  b.on(tick{}, 699ms);
  CHECK(count<node_lost>(b.out) == 0);
  b.on(tick{}, 1ms); // and one that is silent indeed is lost
  CHECK(count<node_lost>(b.out) == 1);
}

TEST_CASE("a heartbeat clears a suspicion and one that is out of order does not count") {
  bench b;
  auto n = b.join("gpu-a", 1);
  b.on(heartbeat{n, 1, 5, {600}}, 100ms);
  CHECK(b.c.topology().nodes[0].devices[0].memory_used_bytes == 600);
  b.on(tick{}, 300ms);
  CHECK(b.state_of("n1") == "suspect");
  CHECK(b.on(heartbeat{n, 1, 5, {700}}).empty());
  b.on(heartbeat{n, 1, 6, {999999}});
  CHECK(changes(b.out) == std::vector<change>{change::node_recovered});
  CHECK(b.state_of("n1") == "up");
  CHECK(b.c.topology().nodes[0].devices[0].memory_used_bytes == 1000); // never more than there is
}

TEST_CASE("a node that joins again under its name keeps its id and first loses what its old life ran") {
  bench b;
  auto n = b.join("gpu-a", 1);
  b.join("gpu-b", 2);
  b.up(1, n);
  b.on(node_joined{"gpu-a", 3, "a:1", {}});
  CHECK(only<welcome>(b.out).node == n);
  CHECK(changes(b.out) == std::vector<change>{change::actor_down, change::node_lost, change::node_joined});
  CHECK(only<instance_lost>(b.out).instance == instance_id{1});
  REQUIRE(std::holds_alternative<welcome>(b.out[b.out.size() - 1]));

  CHECK(b.on(node_down{n, 1, "late word of the old connection"}).empty());
  CHECK(b.state_of("n1") == "up");
}

TEST_CASE("a join that is repeated is welcomed again and changes nothing") {
  bench b;
  b.join("gpu-a", 1);
  CHECK(b.join("gpu-a", 1) == node_id{1});
  CHECK(b.c.epoch() == 1);
}

TEST_CASE("garbage, replaced and dead incarnations are refused with a reason") {
  bench b;
  CHECK(says(b.refusal("gpu-a", 0), "incarnation 0"));
  CHECK(says(b.refusal("", 5), "name"));
  CHECK(says(b.refusal("a\x1b[31m", 5), "control characters"));
  CHECK(says(b.refusal(std::string(1000, 'x'), 5), "1 to 128 bytes"));
  auto n = b.join("gpu-a", 1);
  b.join("gpu-a", 2);
  CHECK(says(b.refusal("gpu-a", 1), "replaced by a newer one"));
  b.on(node_down{n, 2, "connection reset"});
  CHECK(says(b.refusal("gpu-a", 2), "join again with a new one"));
  CHECK(b.join("gpu-a", 3) == n);
  CHECK(b.c.epoch() == 5); // joined, lost, joined, lost, joined
}

TEST_CASE("two hosts cannot share a name, but a silent node's name can be taken over") {
  bench b;
  auto n = b.join("gpu-a", 1, "a:1");
  CHECK(says(b.refusal("gpu-a", 2, "b:1"), "taken by a live node, process 0 at a:1"));
  b.on(tick{}, 300ms);
  CHECK(only<welcome>(b.on(node_joined{"gpu-a", 2, "b:1", {}})).node == n);
}

TEST_CASE("a second agent cannot take a live node's name, but the same agent may come again at once") {
  bench b;
  node_joined first{"gpu-a", 1, "a:1", {}, 100};
  const auto n = only<welcome>(b.on(first)).node;
  const node_joined second{"gpu-a", 2, "a:1", {}, 200};
  CHECK(says(only<refuse_join>(b.on(second)).reason, "taken by a live node, process 100 at a:1"));
  CHECK(b.state_of("n1") == "up");
  first.incarnation = 3;
  CHECK(only<welcome>(b.on(first)).node == n);
  b.on(node_down{n, 3, "connection reset"});
  CHECK(only<welcome>(b.on(second)).node == n); // the first one is gone
}

TEST_CASE("the number of nodes is bounded and the longest gone makes room") {
  bench b;
  b.join("a", 1);
  auto second = b.join("b", 2);
  auto third = b.join("c", 3);
  CHECK(says(b.refusal("d", 4), "3 live nodes, limit 3"));
  b.on(heartbeat{third, 3, 1, {}}, 10ms);
  b.on(node_down{third, 3, "gone"});
  b.on(node_left{second, 2});
  CHECK(b.join("d", 4) == node_id{4});
  CHECK(b.state_of("n3") == "lost");
  CHECK(b.join("b", 5) == node_id{5}); // forgotten: a new id
}

TEST_CASE("a heartbeat from a life that does not count asks for a new join, after a goodbye it does not") {
  bench b;
  auto n = b.join("gpu-a", 1);
  CHECK(only<ask_rejoin>(b.on(heartbeat{n, 9, 1, {}})).incarnation == 9);
  CHECK(only<ask_rejoin>(b.on(heartbeat{{8}, 1, 1, {}})).node == node_id{8});
  b.on(node_left{n, 1});
  CHECK(changes(b.out) == std::vector<change>{change::node_left});
  CHECK(b.on(heartbeat{n, 1, 2, {}}).empty());
  CHECK(b.state_of("n1") == "not there");
}

TEST_CASE("a duty is shown while the role is mixed") {
  bench b;
  const auto duty = [&] { return b.c.topology().actors.at(0).duty; };
  b.on(node_joined{"gpu-a", 1, "a:1", {{"cpu", "Zen", 1000, 0}}});
  b.on(actor_up{instance_ref({1}), {1}, instance_role::mixed, 0, "ready"});
  CHECK(duty().empty());
  b.on(duty_status{{1}, instance_role::decode});
  CHECK(duty() == "decode");
  b.on(role_changed{{1}, instance_role::prefill});
  CHECK(duty().empty());
  b.on(role_changed{{1}, instance_role::mixed});
  CHECK(duty() == "decode");
  b.on(duty_status{{1}, instance_role::mixed});
  CHECK(duty().empty());
}

TEST_CASE("the epoch rises by one with each change and with nothing else") {
  bench b;
  auto expect = [&](std::uint64_t rise, const auto& event) {
    auto before = b.c.epoch();
    b.on(event);
    CHECK(b.c.epoch() == before + rise);
    CHECK(count<cluster_event>(b.out) == rise);
  };
  auto i1 = instance_ref({1});
  auto i2 = instance_ref({2});
  expect(1, node_joined{"gpu-a", 1, "a:1", {{"cpu", "Zen", 1000, 0}}});
  expect(0, heartbeat{{1}, 1, 1, {10}});
  expect(1, actor_up{head_ref(actor_kind::router), {}, {}, {}, "running"});
  expect(1, actor_up{i1, {1}, instance_role::prefill, 0, "starting"});
  expect(0, actor_up{i1, {1}, instance_role::prefill, 0, "starting"});
  expect(1, actor_up{i2, {1}, instance_role::decode, 0, "ready"});
  expect(1, actor_status{{1}, "ready", 1, 2, 100, 50, 3, 4.5});
  expect(0, actor_status{{1}, "ready", 9, 9, 100, 10, 0, 5.5});
  expect(0, actor_status{{7}, "ready", 1, 1, 1, 1, 1, 1});
  expect(0, mailbox_status{head_ref(actor_kind::router), 4});
  expect(1, role_changed{{1}, instance_role::mixed});
  expect(0, role_changed{{1}, instance_role::mixed});
  expect(0, duty_status{{1}, instance_role::prefill});
  expect(0, duty_status{{7}, instance_role::prefill});
  expect(1, link_opened{i1, i2, link_kind::kv, "shm"});
  expect(0, link_opened{i1, i2, link_kind::kv, "shm"});
  expect(0, link_opened{i1, instance_ref({7}), link_kind::kv, "shm"});
  expect(0, link_traffic{i1, i2, link_kind::kv, 4096});
  expect(1, link_opened{i1, i2, link_kind::control, "tcp"});
  expect(1, link_closed{i1, i2, link_kind::control});
  expect(0, link_closed{i1, i2, link_kind::control});
  expect(2, actor_down{i2, "crashed"}); // and the KV link with it
  expect(0, actor_down{i2, "crashed"});
  expect(2, node_left{{1}, 1}); // and i1 with it
}

TEST_CASE("an actor that is malformed, on a node that is out, or one too many is not taken in") {
  bench b;
  b.on(actor_up{instance_ref({}), {}, {}, {}, "ready"});
  b.on(actor_up{{actor_kind::router, {1}, {}}, {}, {}, {}, "ready"});
  CHECK(b.c.topology().actors.empty());
  b.on(actor_up{instance_ref({1}), {4}, {}, {}, "ready"});
  CHECK(only<instance_lost>(b.out).reason == "n4 is not in the cluster");
  auto n = b.join("gpu-a", 1);
  for (std::uint32_t i = 1; i <= 9; ++i) b.up(i, n);
  CHECK(only<instance_lost>(b.out).instance == instance_id{9});
  CHECK(b.c.topology().actors.size() == 8);
}

TEST_CASE("links are bounded and their traffic never shrinks") {
  bench b;
  auto n = b.join("gpu-a", 1);
  for (std::uint32_t i = 1; i <= 6; ++i) b.up(i, n);
  for (std::uint32_t i = 2; i <= 6; ++i)
    b.on(link_opened{instance_ref({1}), instance_ref({i}), link_kind::kv, "local"});
  CHECK(b.c.topology().links.size() == 4);
  b.on(link_traffic{instance_ref({1}), instance_ref({2}), link_kind::kv, 500});
  b.on(link_traffic{instance_ref({1}), instance_ref({2}), link_kind::kv, 400});
  CHECK(b.c.topology().links[0].bytes_total == 500);
}

TEST_CASE("watchers hear once that all of an instance's weights have come") {
  bench b;
  const auto n = b.join("gpu-a", 1);
  b.up(1, n);
  b.up(2, n);
  const auto from = instance_ref({1});
  const auto to = instance_ref({2});
  const auto told = [&](link_kind kind, std::uint64_t bytes, std::uint64_t of) {
    const auto before = b.c.last_sequence();
    b.on(link_traffic{from, to, kind, bytes, of});
    const auto events = b.c.events_after(before).value();
    if (events.empty()) return std::string{};
    CHECK(events.size() == 1);
    CHECK(events[0].subject == "i1 -> i2");
    return std::string{to_string(events[0].what)};
  };
  b.on(link_opened{from, to, link_kind::weights, "tcp"});
  b.on(link_opened{from, to, link_kind::kv, "tcp"});
  CHECK(told(link_kind::weights, 0, 0).empty());
  CHECK(told(link_kind::weights, 999, 1000).empty());
  CHECK(told(link_kind::weights, 1000, 1000) == "weights_arrived");
  CHECK(told(link_kind::weights, 1000, 1000).empty());
  CHECK(told(link_kind::kv, 1000, 1000).empty());
}

TEST_CASE("a watcher that joins late gets what it missed or is told to start afresh") {
  bench b;
  for (std::uint64_t i = 1; i <= 4; ++i) b.join("gpu-a", i); // 7 events, of which 6 are kept
  CHECK(b.c.last_sequence() == 7);
  auto missed = b.c.events_after(5);
  REQUIRE(missed);
  REQUIRE(missed->size() == 2);
  CHECK((*missed)[0].sequence == 6);
  CHECK((*missed)[1].epoch == b.c.epoch());
  CHECK(b.c.events_after(1)->size() == 6);
  CHECK(b.c.events_after(7)->empty());
  CHECK_FALSE(b.c.events_after(0));
  CHECK_FALSE(b.c.events_after(99));
}

TEST_CASE("a snapshot does not depend on the order in which things came up") {
  auto build = [](std::uint32_t seed) {
    bench b;
    b.join("gpu-a", 1);
    b.join("gpu-b", 2);
    std::vector<actor_up> ups;
    for (std::uint32_t i = 1; i <= 4; ++i)
      ups.push_back({instance_ref({i}), {1 + i % 2}, instance_role::mixed, 0, "ready"});
    ups.push_back({head_ref(actor_kind::scheduler), {}, {}, {}, "running"});
    ups.push_back({agent_ref({1}), {1}, {}, {}, "running"});
    std::mt19937 random(seed);
    std::shuffle(ups.begin(), ups.end(), random);
    for (auto& e : ups) b.on(e);
    b.on(link_opened{instance_ref({2}), instance_ref({3}), link_kind::kv, "shm"});
    b.on(link_opened{instance_ref({1}), instance_ref({3}), link_kind::kv, "shm"});
    return b.c.topology();
  };
  auto s = build(1);
  CHECK(s == build(2));
  CHECK(s == build(3));
  std::vector<std::string> ids;
  for (auto& a : s.actors) ids.push_back(a.id);
  CHECK(ids == std::vector<std::string>{"scheduler", "agent-n1", "i1", "i2", "i3", "i4"});
  CHECK(s.actors[2].device == "n2/0");
  CHECK(s.actors[0].node.empty());
  CHECK(s.links[0].from == "i1");
}

} // namespace hflex::cluster_test
