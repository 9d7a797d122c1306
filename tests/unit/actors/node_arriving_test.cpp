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

} // namespace hflex::node_arriving_test
