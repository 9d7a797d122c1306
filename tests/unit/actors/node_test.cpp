#include "actors/node/node.hpp"
#include "tests/unit/actors/effects_of.hpp"
#include <algorithm>

using namespace hflex;
using namespace hflex::node;
using namespace std::chrono_literals;
using hflex::test::all;
using hflex::test::count;
using hflex::test::only;

namespace {

constexpr instance_id i1{1};
constexpr instance_id i2{2};
constexpr instance_id i3{3};
const model_ref austen{"/m/austen", "d1"};

options quick() {
  options o;
  o.name = "gpu-a";
  o.devices = {{"cpu", "Zen", 1000, 1}, {"cpu", "Zen", 1000, 2}};
  o.heartbeat_interval = 100ms;
  o.connect_deadline = 1s;
  o.backoff_min = 100ms;
  o.backoff_max = 1s;
  o.start_deadline = 10s;
  o.spawn_deadline = 1s;
  o.drain_deadline = 5s;
  o.keep_contexts = 60s;
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
  void join_head(std::uint64_t incarnation = 7) {
    if (c.connection() == head_state::disconnected && incarnation == 7) on(begin{});
    on(opened{incarnation});
    on(welcomed{incarnation, {4}, 100ms});
    REQUIRE(c.connection() == head_state::joined);
  }
  /// Brings an instance up to `running` on a fresh context; returns the context.
  context_id run(instance_id id, std::uint32_t device = 0, instance_role role = instance_role::mixed) {
    on(start_instance{id, device, role, austen});
    only<ask_weights>(out);
    auto context = only<create_context>(on(weights_ready{id, "d1"})).context;
    only<spawn_instance>(on(context_ready{context}));
    CHECK(reported() == std::vector<report_state>{});
    on(instance_ready{id});
    CHECK(reported() == std::vector<report_state>{report_state::running});
    return context;
  }
  /// A start that has come to one of the stages before `running`.
  context_id bring_to(instance_state stage, instance_id id = i1) {
    context_id context{};
    on(start_instance{id, 0, instance_role::decode, austen});
    if (stage != instance_state::waiting_weights) {
      context = only<create_context>(on(weights_ready{id, "d1"})).context;
      if (stage == instance_state::spawning) on(context_ready{context});
    }
    REQUIRE(state_of(id) == stage);
    return context;
  }
  std::optional<instance_state> state_of(instance_id id) const {
    for (auto& view : c.instances())
      if (view.instance == id) return view.state;
    return std::nullopt;
  }
  std::vector<report_state> reported() const {
    std::vector<report_state> states;
    for (auto& r : all<report>(out)) states.push_back(r.state);
    return states;
  }
};

bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

} // namespace

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

TEST_CASE("an instance starts by weights, context and actor, in that order") {
  bench b;
  b.join_head();
  b.on(start_instance{i1, 0, instance_role::prefill, austen});
  CHECK(only<report>(b.out).state == report_state::starting);
  CHECK(only<ask_weights>(b.out).model == austen);
  CHECK(b.on(instance_ready{i1}).empty()); // out of turn
  CHECK(b.on(context_ready{{1}}).empty());
  auto made = only<create_context>(b.on(weights_ready{i1, "d1"}));
  CHECK(made.instance == i1);
  CHECK(made.device == 0);
  CHECK(b.on(weights_ready{i1, "d1"}).empty());
  auto spawned = only<spawn_instance>(b.on(context_ready{made.context}));
  CHECK(spawned.role == instance_role::prefill);
  CHECK(spawned.context == made.context);
  CHECK(b.on(context_ready{made.context}).empty());
  auto told = only<report>(b.on(instance_ready{i1}));
  CHECK(told.state == report_state::running);
  CHECK(told.role == instance_role::prefill);
  CHECK(b.c.instances() ==
        std::vector<instance_view>{{i1, instance_state::running, instance_role::prefill, 0, made.context}});
}

TEST_CASE("a role change retires the actor and spawns the new role without touching context or weights") {
  bench b;
  b.join_head();
  auto context = b.run(i1, 0, instance_role::prefill);
  b.on(change_role{i1, instance_role::decode});
  CHECK(only<retire_instance>(b.out).instance == i1);
  CHECK(b.reported() == std::vector<report_state>{report_state::stopping});
  CHECK(b.out.size() == 2 + count<wake_at>(b.out));
  auto spawned = only<spawn_instance>(b.on(instance_stopped{i1}));
  CHECK(spawned.role == instance_role::decode);
  CHECK(spawned.context == context);
  CHECK(b.out.size() == 1 + count<wake_at>(b.out));
  b.on(instance_ready{i1});
  CHECK(only<report>(b.out).role == instance_role::decode);
  CHECK(b.c.contexts() == 1);
}

TEST_CASE("a role change to the present role is confirmed, one at the wrong time is rejected") {
  bench b;
  b.join_head();
  b.run(i1, 0, instance_role::decode);
  b.on(change_role{i1, instance_role::decode});
  CHECK(only<report>(b.out).state == report_state::running);
  CHECK(b.out.size() == 1);
  b.on(change_role{i1, instance_role::mixed});
  b.on(change_role{i1, instance_role::prefill});
  CHECK(only<report>(b.out).state == report_state::rejected);
  CHECK(says(only<report>(b.out).reason, "i1 is changing_role"));
}

TEST_CASE("unknown instances and devices are answered with what is wrong") {
  bench b;
  b.join_head();
  auto reason = [&] {
    auto r = only<report>(b.out);
    CHECK(r.state == report_state::rejected);
    return r.reason;
  };
  b.on(stop_instance{i3});
  CHECK(reason() == "i3 is not on this node");
  b.on(change_role{i3, instance_role::mixed});
  CHECK(reason() == "i3 is not on this node");
  b.on(start_instance{i1, 2, instance_role::mixed, austen});
  CHECK(reason() == "device 2 is unknown; gpu-a has 2 devices, counted from 0");
  b.on(start_instance{i1, 0, instance_role::mixed, {}});
  CHECK(reason() == "no model is named");
  b.run(i1);
  b.on(start_instance{i1, 1, instance_role::mixed, austen});
  CHECK(reason() == "i1 is here already: running");
  b.on(start_instance{i2, 0, instance_role::mixed, austen});
  CHECK(reason() == "device 0 has no free slot: 1 of 1 in use");
  CHECK(b.on(instance_stopped{i3}).empty());
  CHECK(b.on(instance_died{i3, "?", false}).empty());
  CHECK(b.on(weights_failed{i3, "?"}).empty());
}

TEST_CASE("a device takes as many instances as it has slots, coming ones counted") {
  bench b;
  b.join_head();
  b.on(start_instance{i1, 1, instance_role::mixed, austen});
  b.on(start_instance{i2, 1, instance_role::mixed, austen});
  CHECK(b.reported() == std::vector<report_state>{report_state::starting});
  b.on(start_instance{i3, 1, instance_role::mixed, austen});
  CHECK(b.reported() == std::vector<report_state>{report_state::rejected});
}

TEST_CASE("a stop drains first, then keeps the context warm for the next instance of the model") {
  bench b;
  b.join_head();
  auto context = b.run(i1);
  b.on(stop_instance{i1});
  CHECK(only<retire_instance>(b.out).instance == i1);
  b.on(instance_stopped{i1});
  CHECK(b.reported() == std::vector<report_state>{report_state::stopped});
  CHECK(count<release_context>(b.out) == 0);
  b.on(start_instance{i2, 0, instance_role::decode, {"/elsewhere", "d1"}}, 59s);
  CHECK(count<ask_weights>(b.out) == 0);
  CHECK(only<spawn_instance>(b.out).context == context);
}

TEST_CASE("an idle context goes when its time is over or another model needs its slot") {
  bench b;
  b.join_head();
  auto context = b.run(i1);
  b.on(stop_instance{i1, false});
  CHECK(only<kill_instance>(b.out).instance == i1);
  b.on(instance_stopped{i1});
  SECTION("its time is over") {
    CHECK(count<release_context>(b.on(tick{}, 59999ms)) == 0);
    CHECK(only<release_context>(b.on(tick{}, 1ms)).context == context);
  }
  SECTION("another model") {
    b.on(start_instance{i2, 0, instance_role::mixed, {"/m/austen", "d2"}});
    CHECK(only<release_context>(b.out).context == context);
    CHECK(only<ask_weights>(b.out).model.digest == "d2");
  }
  CHECK(b.c.contexts() == 0);
}

TEST_CASE("a stop during a start ends it at whatever stage it is") {
  bench b;
  b.join_head();
  SECTION("waiting for weights") {
    b.bring_to(instance_state::waiting_weights);
    b.on(stop_instance{i1});
    CHECK(only<cancel_weights>(b.out).instance == i1);
    CHECK(b.reported() == std::vector<report_state>{report_state::stopped});
    CHECK(b.on(weights_ready{i1, "d1"}).empty());
  }
  SECTION("creating its context, which is then warm") {
    auto context = b.bring_to(instance_state::creating_context);
    b.on(stop_instance{i1});
    CHECK(b.reported() == std::vector<report_state>{report_state::stopped});
    CHECK(count<spawn_instance>(b.on(context_ready{context})) == 0);
    CHECK(only<spawn_instance>(b.on(start_instance{i2, 0, instance_role::mixed, austen})).context == context);
  }
  SECTION("spawning: the actor must end before its context is free") {
    b.bring_to(instance_state::spawning);
    b.on(stop_instance{i1});
    CHECK(only<kill_instance>(b.out).instance == i1);
    CHECK(b.reported().empty());
    CHECK(b.on(instance_ready{i1}).empty());
    b.on(start_instance{i2, 0, instance_role::mixed, austen});
    CHECK(b.reported() == std::vector<report_state>{report_state::rejected});
    b.on(instance_stopped{i1});
    CHECK(b.reported() == std::vector<report_state>{report_state::stopped});
  }
  CHECK_FALSE(b.state_of(i1));
}

TEST_CASE("a stop during a role change ends the instance once it has drained") {
  bench b;
  b.join_head();
  b.run(i1);
  b.on(change_role{i1, instance_role::decode});
  CHECK(count<retire_instance>(b.on(stop_instance{i1})) == 0); // it drains already
  b.on(instance_stopped{i1});
  CHECK(count<spawn_instance>(b.out) == 0);
  CHECK(b.reported() == std::vector<report_state>{report_state::stopped});
}

TEST_CASE("a stage that outlasts its deadline is reported as failed and torn down") {
  bench b;
  b.join_head();
  auto fault = [&] {
    auto r = only<report>(b.out);
    CHECK(r.state == report_state::failed);
    return r.reason;
  };
  SECTION("weights") {
    b.bring_to(instance_state::waiting_weights);
    b.on(tick{}, 9999ms);
    CHECK(b.reported().empty());
    b.on(tick{}, 1ms);
    CHECK(fault() == "its deadline passed while waiting_weights");
    CHECK(count<cancel_weights>(b.out) == 1);
    CHECK_FALSE(b.state_of(i1));
  }
  SECTION("context") {
    auto context = b.bring_to(instance_state::creating_context);
    b.on(tick{}, 10s);
    CHECK(fault() == "its deadline passed while creating_context");
    CHECK(only<release_context>(b.out).context == context);
    CHECK(b.on(context_ready{context}).empty());
    CHECK(b.c.contexts() == 0);
  }
  SECTION("spawn") {
    b.bring_to(instance_state::spawning);
    b.on(tick{}, 10s);
    CHECK(fault() == "its deadline passed while spawning");
    CHECK(count<kill_instance>(b.out) == 1);
  }
  SECTION("spawn of the new role") {
    b.run(i1);
    b.on(change_role{i1, instance_role::decode});
    b.on(instance_stopped{i1});
    b.on(tick{}, 1s);
    CHECK(fault() == "its deadline passed while spawning");
  }
  SECTION("drain for a role change") {
    b.run(i1);
    b.on(change_role{i1, instance_role::decode});
    b.on(tick{}, 5s);
    CHECK(fault() == "its deadline passed while changing_role");
    CHECK(count<kill_instance>(b.out) == 1);
    b.on(instance_stopped{i1});
    CHECK(count<spawn_instance>(b.out) == 0);
  }
  SECTION("drain for a stop, and an actor that does not die either") {
    b.run(i1);
    b.on(stop_instance{i1});
    b.on(tick{}, 5s);
    CHECK(fault() == "its deadline passed while stopping");
    b.on(tick{}, 1s);
    CHECK(count<kill_instance>(b.out) == 1); // told again, reported once
    CHECK(b.reported().empty());
    b.on(instance_stopped{i1});
    CHECK(b.reported().empty());
    CHECK(b.c.contexts() == 1);
  }
}

TEST_CASE("weights or a context that fail are reported with their cause") {
  bench b;
  b.join_head();
  SECTION("weights") {
    b.bring_to(instance_state::waiting_weights);
    b.on(weights_failed{i1, "no source is left"});
    CHECK(only<report>(b.out).reason == "no source is left");
  }
  SECTION("the wrong weights") {
    b.bring_to(instance_state::waiting_weights);
    b.on(weights_ready{i1, "d9"});
    CHECK(only<report>(b.out).reason == "weights d9 came, d1 wanted");
    CHECK(count<create_context>(b.out) == 0);
  }
  SECTION("context") {
    auto context = b.bring_to(instance_state::creating_context);
    b.on(context_failed{context, "out of memory"});
    CHECK(only<report>(b.out).reason == "out of memory");
    CHECK(count<release_context>(b.out) == 0);
  }
  CHECK(only<report>(b.out).state == report_state::failed);
  CHECK(b.c.instances().empty());
  CHECK(b.c.contexts() == 0);
}

TEST_CASE("a crashed actor leaves its context warm unless the device is at fault") {
  bench b;
  b.join_head();
  auto context = b.run(i1);
  SECTION("the actor") {
    b.on(instance_died{i1, "exception", false});
    CHECK(count<release_context>(b.out) == 0);
    CHECK(b.c.contexts() == 1);
  }
  SECTION("the device") {
    b.on(instance_died{i1, "exception", true});
    CHECK(only<release_context>(b.out).context == context);
  }
  SECTION("an end that nobody asked for") {
    b.on(instance_stopped{i1});
    CHECK(only<report>(b.out).reason == "ended without being asked to");
  }
  CHECK(only<report>(b.out).state == report_state::failed);
  CHECK(b.c.instances().empty());
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
