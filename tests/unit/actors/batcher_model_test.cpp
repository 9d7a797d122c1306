// Whatever chunking, preemption, hand-over, migration, failure or cancel of others does, the tokens of each request are
// those of an undisturbed run. A failure prints its seed.
#include "tests/unit/actors/batcher_world.hpp"

namespace hflex::batcher_model_test {

using namespace hflex::instance;
using namespace hflex::instance::testing;

TEST_CASE("alone, an instance gives each request the tokens of an undisturbed run") {
  std::uint64_t preemptions = 0, cached = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    INFO("seed " << seed);
    faults f;
    if (seed % 2 == 0) f.step_fails = 0.02, f.cancels = 0.005;
    world w(seed, {node_options(seed, 1, instance_role::mixed)}, f);
    w.run(40);
    CHECK((f.step_fails > 0 || w.retries == 0));
    CHECK(w.stale_words == 0);
    CHECK((w.cached_tokens > 0) == (seed % 5 != 0));
    preemptions += w.preemptions;
    cached += w.cached_tokens;
  }
  CHECK(preemptions > 100); // or the test has not tested it
  CHECK(cached > 2000);
}

TEST_CASE("a prefill and a decode instance give each request the tokens of an undisturbed run") {
  std::uint64_t handovers = 0, preemptions = 0, cached = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    INFO("seed " << seed);
    faults f;
    f.cancels = seed % 2 == 0 ? 0.003 : 0.0;
    auto source = node_options(seed, 1, instance_role::prefill), sink = node_options(seed, 2, instance_role::decode);
    source.transfer_lease = sink.transfer_lease = 1h;
    world w(seed, {source, sink}, f);
    w.run(40);
    CHECK(w.retries == 0);
    CHECK(w.stale_words == 0); // exactly one terminal word each
    handovers += w.handovers;
    preemptions += w.preemptions;
    cached += w.cached_tokens;
  }
  CHECK(handovers > 500);
  CHECK(preemptions > 50);
  CHECK(cached > 2000);
}

TEST_CASE("sequences that move back and forth while they decode have the tokens of an undisturbed run") {
  std::uint64_t migrations = 0, stays = 0, preemptions = 0, cached = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    INFO("seed " << seed);
    faults f;
    f.migrations = 0.1;
    f.hands_over = 0.0; // two mixed instances can wait for each other's blocks until the lease ends
    f.cancels = seed % 4 == 0 ? 0.003 : 0.0;
    auto one = node_options(seed, 1, instance_role::mixed), two = node_options(seed, 2, instance_role::mixed);
    one.transfer_lease = two.transfer_lease = one.migration_lease = two.migration_lease = 1h;
    world w(seed, {one, two}, f);
    w.run(40);
    CHECK(w.retries == 0);
    CHECK(w.stale_words == 0);
    migrations += w.migrations;
    stays += w.stays;
    preemptions += w.preemptions;
    cached += w.cached_tokens;
  }
  CHECK(migrations > 300);
  CHECK(stays > 500);
  CHECK(preemptions > 50);
  CHECK(cached > 2000);
}

TEST_CASE("transfers that fail, acknowledgements that are lost and leases that end leave a migration at one owner") {
  std::uint64_t migrations = 0, stays = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    INFO("seed " << seed);
    faults f;
    f.migrations = 0.1;
    f.hands_over = 0.2;
    f.transfer_fails = 0.2;
    f.ack_lost = 0.2;
    f.lease_ends = seed % 2 == 0;
    f.step_fails = seed % 3 == 0 ? 0.01 : 0.0;
    world w(seed, {node_options(seed, 1, instance_role::mixed), node_options(seed, 2, instance_role::mixed)}, f);
    w.run(40);
    migrations += w.migrations;
    stays += w.stays;
  }
  CHECK(migrations > 300);
  CHECK(stays > 500);
}

TEST_CASE("failing steps, transfers, links and leases cost retries but no token") {
  std::uint64_t handovers = 0, retries = 0, cached = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    INFO("seed " << seed);
    faults f{0.01, 0.1, 0.1, 0.001, 0.002, seed % 4 == 0 ? 0.05 : 0.0, true};
    const bool mixed = seed % 2 == 0;
    world w(seed,
        {node_options(seed, 1, mixed ? instance_role::mixed : instance_role::prefill),
            node_options(seed, 2, mixed ? instance_role::mixed : instance_role::decode)},
        f);
    w.run(40);
    handovers += w.handovers;
    retries += w.retries;
    cached += w.cached_tokens;
  }
  CHECK(handovers > 500);
  CHECK(retries > 200);
  CHECK(cached > 2000);
}

} // namespace hflex::batcher_model_test
