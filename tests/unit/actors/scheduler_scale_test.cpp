// hyperflexis in large fleets: a plan looks at a few instances, and still finds the right ones.
#include "tests/support/scheduler_desk.hpp"
#include <random>
#include <set>

namespace hflex::scheduler_scale_test {

using namespace hflex::test;

namespace {

/// Arrivals, steps and ends at a load that the fleet can bear; instances looked at per request.
double looks_per_request(std::uint32_t instances, bool disaggregated) {
  scheduler_desk desk;
  for (std::uint32_t id = 1; id <= instances; ++id) {
    const auto role = !disaggregated ? instance_role::mixed
                      : id % 2 == 0  ? instance_role::prefill
                                     : instance_role::decode;
    desk.instance(id, role, 10000, 1000, 1 + id / 8);
  }
  std::mt19937_64 rng(5);
  std::uint64_t next = 1, oldest = 1;
  for (std::uint32_t round = 0; round < 8; ++round) {
    for (std::uint32_t i = 0; i < instances / 2; ++i, ++next) {
      desk.arrive(next, static_cast<std::uint32_t>(50 + rng() % 400), 5000, 200);
      CHECK(desk.was_dispatched(next));
      desk.step(desk.place_of(next), 450);
      desk.finish_prefill(next);
    }
    for (; oldest + instances < next; ++oldest) desk.end(oldest, 50);
  }
  return static_cast<double>(desk.core.looks()) / static_cast<double>(next - 1);
}

} // namespace

TEST_CASE("a plan in a fleet of a thousand looks at no more instances than in one of sixty") {
  for (bool disaggregated : {false, true}) {
    INFO("disaggregated: " << disaggregated);
    const auto few = looks_per_request(64, disaggregated);
    const auto many = looks_per_request(1024, disaggregated);
    CHECK(many < 1.5 * few);
    CHECK(many < 12);
  }
}

TEST_CASE("a queue that nobody has room for does not make plans walk a large fleet") {
  scheduler_desk desk;
  for (std::uint32_t id = 1; id <= 300; ++id) desk.instance(id);
  std::uint64_t next = 1;
  while (desk.core.state().waiting.empty()) desk.arrive(next++, 1000, 3'600'000, 1000); // about a step each
  for (int i = 0; i < 50; ++i) desk.arrive(next++, 1000, 3'600'000, 1000);
  const auto before = desk.core.looks();
  for (int i = 0; i < 50; ++i) desk.arrive(next++, 1000, 3'600'000, 1000);
  CHECK(desk.core.state().waiting.size() > 100);
  CHECK(static_cast<double>(desk.core.looks() - before) / 50 < 60);
}

TEST_CASE("in a large fleet a request finds the one instance that has nothing to do") {
  std::mt19937_64 rng(6);
  for (int round = 0; round < 20; ++round) {
    scheduler_desk desk;
    for (std::uint32_t id = 1; id <= 100; ++id) desk.instance(id);
    std::uint64_t next = 1;
    for (; next <= 100; ++next) desk.arrive(next, static_cast<std::uint32_t>(300 + rng() % 500), 5000, 500);
    for (std::uint64_t id = 1; id <= 100; ++id) REQUIRE(desk.was_dispatched(id));
    const auto free = static_cast<std::uint64_t>(1 + rng() % 100);
    const auto where = desk.place_of(free);
    std::set<std::uint32_t> busy;
    for (std::uint64_t id = 1; id <= 100; ++id)
      if (id != free) busy.insert(desk.place_of(id));
    REQUIRE(busy.size() == 99); // one each
    desk.end(free);
    desk.arrive(next, 400, 5000, 500);
    CHECK(desk.place_of(next) == where);
  }
}

TEST_CASE("in a large fleet a tight newcomer overtakes prefills that are due later") {
  scheduler_desk desk;
  for (std::uint32_t id = 1; id <= 40; ++id) desk.instance(id);
  std::uint64_t next = 1;
  while (desk.core.state().waiting.empty()) desk.arrive(next++, 1000, 60'000, 1000);
  desk.arrive(next, 300, 500, 1000);
  CHECK(desk.was_dispatched(next));
}

TEST_CASE("in a large fleet an instance that went silent is believed to be done") {
  scheduler_desk desk;
  for (std::uint32_t id = 1; id <= 40; ++id) desk.instance(id);
  std::uint64_t next = 1;
  while (desk.core.state().waiting.empty()) desk.arrive(next++, 1000, 600'000, 1000);
  const auto waits = next - 1;
  CHECK_FALSE(desk.was_dispatched(waits));
  desk.now += desk.core.state().opts->report_timeout + std::chrono::milliseconds{1};
  desk.on(scheduler::tick{});
  CHECK(desk.was_dispatched(waits));
}

TEST_CASE("in a large fleet with P/D both sides are the least loaded ones") {
  scheduler_desk desk;
  for (std::uint32_t id = 1; id <= 20; ++id) desk.instance(id, instance_role::prefill);
  for (std::uint32_t id = 21; id <= 40; ++id) desk.instance(id, instance_role::decode);
  std::set<std::uint32_t> prefills, decodes;
  for (std::uint64_t id = 1; id <= 20; ++id) desk.arrive(id, 500, 5000, 500);
  for (const auto& d : desk.dispatches) {
    prefills.insert(d.prefill.value);
    decodes.insert(d.decode.value);
  }
  CHECK(prefills.size() == 20);
  CHECK(decodes.size() == 20);
}

} // namespace hflex::scheduler_scale_test
