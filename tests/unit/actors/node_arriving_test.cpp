// Instances that start before all of their weights are there: how the node core takes the rest, or that it never came.
#include "tests/unit/actors/node_bench.hpp"

namespace hflex::node_arriving_test {

using namespace hflex::node;
using namespace hflex::node::test;

namespace {

/// An instance up to a stage, on a context whose weights are still arriving.
struct early : bench {
  context_id bring(instance_state stage) {
    join_head();
    on(start_instance{i1, 0, instance_role::mixed, austen});
    const auto context = only<create_context>(on(weights_arriving{i1, "d1"})).context;
    if (stage == instance_state::creating_context) return context;
    only<spawn_instance>(on(context_ready{context}));
    if (stage == instance_state::spawning) return context;
    on(instance_ready{i1});
    CHECK(reported() == std::vector<report_state>{report_state::running});
    return context;
  }
};

} // namespace

TEST_CASE("an instance whose weights are arriving gets its context, its actor and its work before they are whole") {
  early b;
  const auto context = b.bring(instance_state::running);
  CHECK(b.on(weights_arriving{i1, "d1"}).empty());
  b.on(weights_ready{i1, "d1"});
  CHECK(b.reported().empty());
  CHECK(count<create_context>(b.out) == 0);
  // From now on it is one like any other: its context stays warm.
  b.on(stop_instance{i1, true});
  b.on(instance_stopped{i1});
  CHECK(count<release_context>(b.out) == 0);
  CHECK(count<cancel_weights>(b.out) == 0);
  CHECK(only<spawn_instance>(b.on(start_instance{i2, 0, instance_role::mixed, austen})).context == context);
}

TEST_CASE("an instance that stops before its weights are whole takes its context along, and nobody waits for them") {
  for (const auto stage : {instance_state::creating_context, instance_state::spawning, instance_state::running}) {
    early b;
    const auto context = b.bring(stage);
    b.on(stop_instance{i1, false});
    if (stage != instance_state::creating_context) {
      CHECK(count<release_context>(b.out) == 0); // the actor may be in a step
      b.on(instance_stopped{i1});
    }
    CHECK(only<release_context>(b.out).context == context);
    CHECK(only<cancel_weights>(b.out).instance == i1);
    CHECK(only<report>(b.out).state == report_state::stopped);
    CHECK(b.c.contexts() == 0);
    b.on(weights_ready{i1, "d1"}); // too late
    CHECK(b.c.contexts() == 0);
  }
}

TEST_CASE("an instance whose weights never come whole fails, whatever it is doing") {
  for (const auto stage : {instance_state::creating_context, instance_state::spawning, instance_state::running}) {
    early b;
    const auto context = b.bring(stage);
    b.on(weights_failed{i1, "no source is left"});
    CHECK(only<report>(b.out).state == report_state::failed);
    CHECK(only<report>(b.out).reason == "no source is left");
    if (stage != instance_state::creating_context) {
      CHECK(only<kill_instance>(b.out).instance == i1);
      CHECK(b.on(weights_failed{i1, "again"}).empty());
      b.on(instance_died{i1, "killed"});
      CHECK(b.reported().empty()); // told already
    }
    CHECK(only<release_context>(b.out).context == context);
    CHECK(b.c.contexts() == 0);
    CHECK(b.c.instances().empty());
  }
}

TEST_CASE("a role change keeps a context whose weights are arriving") {
  early b;
  const auto context = b.bring(instance_state::running);
  b.on(change_role{i1, instance_role::decode});
  CHECK(only<spawn_instance>(b.on(instance_stopped{i1})).context == context);
  b.on(instance_ready{i1});
  b.on(weights_failed{i1, "no source is left"});
  CHECK(only<kill_instance>(b.out).instance == i1);
}

TEST_CASE("arriving weights of another digest than the order's are refused, and their arrival is not waited for") {
  bench b;
  b.join_head();
  b.on(start_instance{i1, 0, instance_role::mixed, austen});
  b.on(weights_arriving{i1, "d2"});
  CHECK(only<report>(b.out).state == report_state::failed);
  CHECK(only<cancel_weights>(b.out).instance == i1);
  CHECK(b.c.instances().empty());
}

namespace {

/// An instance on a device that takes weights from others by ticket.
struct with_ticket : bench {
  with_ticket() : bench{core{gpu()}} {
    join_head();
    on(start_instance{i1, 0, instance_role::mixed, austen});
    on(source_named{i1, true});
  }
  static options gpu() {
    auto o = quick();
    o.devices[0].kind = "cuda";
    return o;
  }
  /// Its context, which the device of another host fills.
  context_id begin() {
    CHECK(on(ticket_came{i1}).empty());
    const auto made = only<create_context>(on(weights_arriving{i1, "d1"}));
    CHECK(made.base == weights_base::ticket);
    return made.context;
  }
};

} // namespace

TEST_CASE("a context begins by ticket when both the ticket and the weights' head are there, whichever comes first") {
  with_ticket b;
  SECTION("the ticket") {
    CHECK(b.on(ticket_came{i1}).empty());
    b.on(weights_arriving{i1, "d1"});
  }
  SECTION("the head") {
    CHECK(b.on(weights_arriving{i1, "d1"}).empty()); // a GPU does not serve while they come to the host
    b.on(ticket_came{i1});
  }
  CHECK(only<create_context>(b.out).base == weights_base::ticket);
  CHECK(b.state_of(i1) == instance_state::creating_context);
  CHECK(b.on(ticket_came{i1}).empty()); // once
  CHECK(b.on(weights_arriving{i1, "d1"}).empty());
}

TEST_CASE("a ticket ends with its source, and the head unless another host goes on with what came") {
  with_ticket b;
  SECTION("the ticket of a source that was left is void") {
    b.on(ticket_came{i1});
    b.on(source_named{i1, true});
    CHECK(b.on(weights_arriving{i1, "d1"}).empty());
    CHECK(count<create_context>(b.on(ticket_came{i1})) == 1);
  }
  SECTION("another host goes on") {
    b.on(weights_arriving{i1, "d1"});
    b.on(source_named{i1, true});
    CHECK(count<create_context>(b.on(ticket_came{i1})) == 1);
  }
  SECTION("the disk begins anew") {
    b.on(weights_arriving{i1, "d1"});
    b.on(source_named{i1, false});
    CHECK(b.on(ticket_came{i1}).empty());
    CHECK(only<create_context>(b.on(weights_ready{i1, "d1"})).base == weights_base::whole);
  }
  SECTION("neither is for an instance that is not here") {
    b.on(stop_instance{i1});
    CHECK(b.on(weights_arriving{i1, "d1"}).empty());
    CHECK(b.on(ticket_came{i1}).empty());
    CHECK(b.on(source_named{i1, true}).empty());
  }
}

TEST_CASE("an instance whose device has its weights by ticket does not need the host's copy") {
  with_ticket b;
  const auto context = b.begin();
  SECTION("before the device has them, it does") {
    b.on(weights_failed{i1, "no source is left"});
    CHECK(only<report>(b.out).state == report_state::failed);
    CHECK(only<release_context>(b.out).context == context);
  }
  SECTION("afterwards nothing happens when the last source fails") {
    b.on(context_ready{context});
    b.on(instance_ready{i1});
    CHECK(b.on(source_named{i1, false}).empty());
    CHECK(b.on(weights_failed{i1, "no source is left"}).empty());
    CHECK(b.c.wants_weights(i1)); // for those that start after it
    CHECK(b.state_of(i1) == instance_state::running);
    b.on(stop_instance{i1, false});
    b.on(instance_stopped{i1});
    CHECK(only<release_context>(b.out).context == context); // nobody could start on it without a copy
  }
  SECTION("the copy makes it one like any other") {
    b.on(context_ready{context});
    b.on(instance_ready{i1});
    b.on(weights_ready{i1, "d1"});
    CHECK(!b.c.wants_weights(i1));
    b.on(stop_instance{i1, true});
    b.on(instance_stopped{i1});
    CHECK(count<release_context>(b.out) == 0);
  }
}

TEST_CASE("who serves with a part of the weights fails when no host goes on with them") {
  early b;
  b.bring(instance_state::running);
  CHECK(b.on(source_named{i1, true}).empty());
  CHECK(b.c.wants_weights(i1));
  b.on(source_named{i1, false});
  CHECK(only<kill_instance>(b.out).instance == i1);
  CHECK(says(only<report>(b.out).reason, "no host gives the rest"));
  CHECK(!b.c.wants_weights(i1));
}

TEST_CASE("only an instance that prefills on a CPU, where it is switched on, begins with a part of its weights") {
  auto o = quick();
  auto role = instance_role::mixed;
  SECTION("not on a GPU") { o.devices[0].kind = "cuda"; }
  SECTION("not where it is off") { o.serve_while_loading = false; }
  SECTION("not to decode only") { role = instance_role::decode; }
  bench b{core{o}};
  b.join_head();
  b.on(start_instance{i1, 0, role, austen});
  CHECK(b.on(weights_arriving{i1, "d1"}).empty());
  CHECK(only<create_context>(b.on(weights_ready{i1, "d1"})).base == weights_base::whole);
}

} // namespace hflex::node_arriving_test
