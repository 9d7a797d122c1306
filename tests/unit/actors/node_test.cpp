#include "tests/unit/actors/node_bench.hpp"

namespace hflex::node_test {

using namespace hflex::node;
using namespace hflex::node::test;

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

} // namespace hflex::node_test
