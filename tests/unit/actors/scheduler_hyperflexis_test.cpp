#include "tests/support/scheduler_desk.hpp"

namespace hflex::scheduler_hyperflexis_test {

using namespace hflex::test;
using ids = std::vector<std::uint64_t>;

namespace {

constexpr double loose = 60000; // ms: no deadline that matters

// An instance whose prefill is taken for a while: request 1 has three steps of work there, due before anything else.
scheduler_desk busy_desk(scheduler::options opts = {}) {
  scheduler_desk desk(opts);
  desk.instance(1);
  desk.arrive(1, 3000, 400, 1000);
  REQUIRE(desk.place_of(1) == 1);
  return desk;
}

// Lets the instance work off what it has until it takes everything that waits.
void work_off(scheduler_desk& desk, int steps = 50) {
  for (int i = 0; i < steps; ++i) desk.step(1, 1000);
}

} // namespace

TEST_CASE("waiting requests go out by earliest deadline") {
  auto desk = busy_desk();
  desk.arrive(2, 900, 9000, 1000);
  desk.arrive(3, 900, 5000, 1000);
  desk.arrive(4, 900, 7000, 1000);
  CHECK(desk.order() == ids{1});
  work_off(desk);
  CHECK(desk.order() == ids{1, 3, 4, 2});
}

TEST_CASE("late binding lets a newcomer with a tighter deadline overtake") {
  auto desk = busy_desk();
  desk.arrive(2, 900, 9000, 1000);
  REQUIRE_FALSE(desk.was_dispatched(2)); // the instance has more than a step's work
  desk.now += from_ms(100);
  desk.arrive(3, 900, 3000, 1000);
  work_off(desk);
  CHECK(desk.order() == ids{1, 3, 2});
}

TEST_CASE("an idle instance gets the work of its next steps, three of them where nobody is in a hurry") {
  scheduler_desk desk;
  desk.instance(1);
  for (std::uint64_t id = 1; id <= 9; ++id) desk.arrive(id, 490, loose, 1000);
  CHECK(desk.dispatches.size() == 6);
  desk.step(1, 490);
  CHECK(desk.dispatches.size() == 7);
}

TEST_CASE("an idle instance gets little more than a step's work where the first tokens are due soon") {
  scheduler_desk desk;
  desk.instance(1);
  for (std::uint64_t id = 1; id <= 6; ++id) desk.arrive(id, 490, 640, 1000);
  CHECK(desk.dispatches.size() == 3);
  desk.step(1, 490);
  CHECK(desk.dispatches.size() == 4);
}

TEST_CASE("a tighter newcomer need not wait for work that it overtakes on the instance") {
  scheduler_desk desk;
  desk.instance(1);
  desk.arrive(1, 3000, loose, 1000);
  desk.arrive(2, 900, 30000, 1000);
  CHECK(desk.order() == ids{1, 2});
  desk.arrive(3, 900, 40000, 1000);
  desk.arrive(4, 900, 41000, 1000);
  CHECK(desk.order() == ids{1, 2, 3, 4});
  desk.arrive(5, 900, 42000, 1000); // behind those, which fill three steps
  CHECK(desk.order() == ids{1, 2, 3, 4});
}

TEST_CASE("a newcomer goes to an instance whose work is late for certain, at once") {
  scheduler_desk desk;
  desk.instance(1);
  desk.arrive(1, 5000, 100, 1000); // takes 0.5 s: best effort from the start
  REQUIRE(desk.order() == ids{1});
  desk.arrive(2, 500, 400, 1000); // behind the step under way: 0.15 s
  CHECK(desk.order() == ids{1, 2});
  CHECK(desk.dispatches.back().why.text().find("earliest deadline") == 0);
}

TEST_CASE("a newcomer goes to an instance whose work has become late meanwhile, at once") {
  scheduler_desk desk;
  desk.instance(1);
  desk.arrive(1, 3000, 350, 1000);
  REQUIRE(desk.order() == ids{1});
  desk.now += from_ms(100); // without a report: 0.3 s of work and 0.25 s to go
  desk.arrive(2, 500, 400, 1000);
  CHECK(desk.order() == ids{1, 2});
  CHECK(desk.dispatches.back().why.text().find("earliest deadline") == 0);
}

TEST_CASE("demotion picks the costliest request so that the others attain") {
  auto desk = busy_desk(); // 0.3 s of work
  desk.arrive(2, 200, 900, 1000);
  desk.arrive(3, 5000, 1000, 1000); // fits while it is alone
  desk.arrive(4, 300, 950, 1000);
  desk.arrive(5, 4000, 1100, 1000); // 1.2 s in all: one of them must give way
  work_off(desk);
  CHECK(desk.order() == ids{1, 2, 4, 5, 3});
}

TEST_CASE("who can be in time on the instance that is free first is not demoted because the others are busy") {
  scheduler_desk desk;
  desk.instance(1);
  desk.instance(2);
  desk.arrive(1, 3000, 340, 1000);
  REQUIRE(desk.place_of(1) == 1);
  desk.arrive(2, 2500, 350, 1000); // 254 ms alone; after the mean of what both have to do it would be late
  REQUIRE(desk.place_of(2) == 2);
  CHECK_FALSE(desk.core.state().placed.at({{2}, 1}).best_effort);
}

TEST_CASE("a heavier weight protects a costly request from demotion") {
  auto desk = busy_desk();
  auto heavy = scheduler_desk::request(2, 5000, 1000, 1000);
  heavy.slo.weight = 10;
  desk.arrive(heavy);
  desk.arrive(3, 4000, 1100, 1000);
  work_off(desk);
  CHECK(desk.order() == ids{1, 2, 3});
}

TEST_CASE("a demoted request returns to the plan when room appears") {
  auto desk = busy_desk();
  desk.arrive(2, 5000, 1000, 1000);
  desk.arrive(3, 4000, 1100, 1000); // demotes 2
  desk.arrive(4, 100, 20000, 1000);
  desk.end(3); // cancelled: room again
  work_off(desk);
  CHECK(desk.order() == ids{1, 2, 4});
}

TEST_CASE("a resumed request goes before new ones") {
  auto desk = busy_desk();
  desk.arrive(2, 300, 2000, 1000);
  auto resumed = scheduler_desk::request(3, 900, 9000, 1000);
  resumed.produced = 20;
  resumed.prompt_tokens = 880;
  desk.arrive(resumed);
  work_off(desk);
  CHECK(desk.order() == ids{1, 3, 2});
}

TEST_CASE("a late request is shed with a reason when its class says so and served late otherwise") {
  auto desk = busy_desk();
  auto strict = scheduler_desk::request(2, 900, 450, 1000);
  strict.slo.when_late = late_action::shed;
  desk.arrive(strict);
  desk.arrive(3, 900, 450, 1000);
  desk.now += from_ms(500);
  desk.on(scheduler::tick{});
  CHECK(desk.shed_reason(2).find("cannot be met") != std::string::npos);
  CHECK(desk.shed_reason(3).empty());
  work_off(desk);
  CHECK(desk.order() == ids{1, 3});
  CHECK(desk.dispatches.back().why.text().find("best effort") == 0);
}

TEST_CASE("a TPOT target below the fastest step is shed at once") {
  scheduler_desk desk;
  desk.instance(1);
  auto impossible = scheduler_desk::request(1, 100, loose, 1.5); // a step with one sequence takes 2 ms
  impossible.slo.when_late = late_action::shed;
  desk.arrive(impossible);
  desk.now += from_ms(1);
  desk.on(scheduler::tick{});
  CHECK_FALSE(desk.shed_reason(1).empty());
}

TEST_CASE("decode admission stops at the TPOT budget") {
  scheduler_desk desk;
  desk.instance(1);
  // 1 ms + 1 ms a sequence stays within 10 ms for nine sequences.
  for (std::uint64_t id = 1; id <= 14; ++id) {
    desk.arrive(id, 10, loose, 10.05);
    if (desk.was_dispatched(id)) desk.settle(id);
    desk.step(1, 0);
  }
  CHECK(desk.dispatches.size() == 9);
  desk.end(3);
  CHECK(desk.dispatches.size() == 10);
}

TEST_CASE("a loose newcomer keeps out of a batch whose tight resident it would delay") {
  scheduler_desk desk;
  desk.instance(1);
  desk.arrive(1, 10, loose, 3.05); // 1 + 2: one neighbour is the most
  desk.settle(1);
  desk.arrive(2, 10, loose, 1000);
  desk.settle(2);
  desk.arrive(3, 10, loose, 1000);
  CHECK_FALSE(desk.was_dispatched(3));
  desk.end(1);
  CHECK(desk.was_dispatched(3));
}

TEST_CASE("a resident that is hopelessly late no longer shrinks the step budget") {
  scheduler_desk desk;
  desk.instance(1);
  desk.arrive(1, 10, loose, 20);
  desk.settle(1);
  const auto& at = desk.core.state().instances.at({1});
  CHECK(at.slack(8.0).has_value());
  desk.now += from_ms(1000); // 50 token times without a token
  desk.step(1, 0);
  CHECK_FALSE(at.slack(8.0).has_value());
}

TEST_CASE("an early token is banked slack for the next step") {
  scheduler_desk desk;
  desk.instance(1);
  desk.arrive(1, 10, loose, 50);
  desk.settle(1);
  const auto& at = desk.core.state().instances.at({1});
  for (int i = 0; i < 10; ++i) desk.step(1, 0); // 2 ms each
  CHECK(to_ms(*at.slack(8.0)) == Approx(11 * 50 - 10 * 2.0).margin(0.01));
}

TEST_CASE("a request goes where it adds the least time, its own and its neighbours'") {
  scheduler_desk desk;
  desk.instance(1);
  desk.instance(2);
  for (std::uint64_t id = 1; id <= 6; ++id) {
    desk.arrive(id, 10, loose, 100);
    desk.settle(id);
  }
  const auto& fleet = desk.core.state().instances;
  CHECK(fleet.at({1}).decoding == 3);
  CHECK(fleet.at({2}).decoding == 3);
}

TEST_CASE("a full instance takes nobody whose step would break a resident's target") {
  scheduler_desk desk;
  desk.instance(1);
  for (std::uint64_t id = 1; id <= 6; ++id) {
    desk.arrive(id, 10, loose, 5.05); // 1 + 4: four sequences
    if (id <= 4) desk.settle(id);
  }
  CHECK(desk.order() == ids{1, 2, 3, 4});
  desk.end(2);
  CHECK(desk.order() == ids{1, 2, 3, 4, 5});
}

TEST_CASE("KV blocks of prompt and predicted output are reserved before prefill") {
  scheduler_desk desk;
  desk.instance(1, instance_role::mixed, 40); // 640 tokens
  desk.arrive(1, 300, loose, 1000, 100);
  REQUIRE(desk.dispatches.size() == 1);
  CHECK(desk.dispatches[0].reserved_blocks == 25);
  desk.arrive(2, 300, loose, 1000, 100);
  CHECK_FALSE(desk.was_dispatched(2));
  desk.end(1);
  CHECK(desk.was_dispatched(2));
}

TEST_CASE("what is reserved follows the output lengths seen in the class") {
  scheduler_desk desk;
  desk.instance(1);
  for (std::uint64_t id = 1; id <= 40; ++id) {
    desk.arrive(id, 16, loose, 1000, 4000);
    desk.settle(id);
    desk.end(id, 30);
  }
  desk.arrive(100, 16, loose, 1000, 4000);
  CHECK(desk.dispatches.front().reserved_blocks == 33); // what is usual, as nothing was seen yet
  CHECK(desk.dispatches.back().reserved_blocks <= 4);
}

TEST_CASE("a prefill instance takes a request only when a decode instance has its blocks") {
  scheduler_desk desk;
  desk.instance(1, instance_role::prefill);
  desk.arrive(1, 300, loose, 1000, 100);
  CHECK_FALSE(desk.was_dispatched(1)); // no decode instance at all
  desk.instance(2, instance_role::decode, 30);
  REQUIRE(desk.was_dispatched(1));
  CHECK(desk.dispatches[0].prefill == instance_id{1});
  CHECK(desk.dispatches[0].decode == instance_id{2});
  CHECK(desk.core.state().instances.at({2}).reserved_blocks == 25);
  desk.settle(1);
  desk.arrive(2, 300, loose, 1000, 100);
  CHECK_FALSE(desk.was_dispatched(2)); // five blocks are left
  desk.end(1);
  CHECK(desk.was_dispatched(2));
}

TEST_CASE("of equal decode instances the one on the prefill instance's node is taken") {
  scheduler_desk desk;
  desk.instance(1, instance_role::decode, 10000, 1000, 1);
  desk.instance(2, instance_role::decode, 10000, 1000, 2);
  desk.instance(3, instance_role::prefill, 10000, 1000, 2);
  desk.arrive(1, 300, loose, 1000);
  REQUIRE(desk.was_dispatched(1));
  CHECK(desk.dispatches[0].decode == instance_id{2});
}

TEST_CASE("a request that waited its age out gets its share although others still attain") {
  scheduler::options opts;
  opts.ageing_floor = std::chrono::seconds{2};
  opts.ageing_factor = 1.0;
  auto desk = busy_desk(opts);
  desk.arrive(2, 4000, 100, 1000); // lost from the start: best effort
  desk.arrive(3, 3000, 500, 1000); // keeps the instance busy
  std::uint64_t id = 10;
  double served_at = 0;
  const auto start = desk.now;
  for (int i = 0; i < 2000 && served_at == 0; ++i) {
    while (desk.core.state().waiting.size() < 4) desk.arrive(id++, 500, 3000, 1000);
    desk.step(1, 1000);
    desk.end_prefilled();
    if (desk.was_dispatched(2)) served_at = to_s(desk.now - start);
  }
  CHECK(served_at > 2.0); // not before: others had a chance
  CHECK(served_at < 9.0); // 4000 tokens at a tenth of 10000 tokens/s, after its 2 s
}

TEST_CASE("without any report the queue still drains by wake-ups") {
  auto desk = busy_desk();
  for (std::uint64_t id = 2; id <= 5; ++id) desk.arrive(id, 900, loose, 1000);
  CHECK(desk.dispatches.size() == 1);
  const auto start = desk.now;
  for (int i = 0; i < 1000 && desk.dispatches.size() < 5; ++i) {
    REQUIRE(desk.wake);
    REQUIRE(*desk.wake > desk.now);
    desk.now = *desk.wake;
    desk.wake.reset();
    desk.on(scheduler::tick{});
  }
  CHECK(desk.dispatches.size() == 5);
  CHECK(to_s(desk.now - start) < 6.0); // about one per report_timeout
}

TEST_CASE("an aged request that needs much space is not starved by small ones") {
  scheduler::options opts;
  opts.ageing_floor = std::chrono::seconds{1};
  opts.ageing_factor = 1.0;
  scheduler_desk desk(opts);
  desk.instance(1, instance_role::mixed, 100);
  std::uint64_t next = 10, oldest = 10;
  const auto small = [&] { desk.arrive(next++, 160, 3000, 1000, 160); }; // 20 blocks
  for (int i = 0; i < 5; ++i) small();
  desk.arrive(1, 800, 500, 1000, 700); // 94 blocks
  int rounds = 0;
  for (; rounds < 1000 && !desk.was_dispatched(1); ++rounds) {
    small();
    desk.step(1, 160);
    desk.now += from_ms(20);
    if (desk.was_dispatched(oldest)) desk.end(oldest++);
  }
  CHECK(desk.was_dispatched(1));
  CHECK(rounds < 400);
}

TEST_CASE("best effort goes where hardly anything waits, the shortest first") {
  scheduler_desk desk;
  desk.instance(1);
  desk.arrive(1, 900, loose, 1000); // on the instance, with room for more by its deadline
  desk.arrive(2, 800, 1, 1000);     // late before they begin
  desk.arrive(3, 300, 1, 1000);
  CHECK(desk.order() == ids{1});
  desk.step(1, 800); // 100 tokens to go: a tenth of a step
  CHECK(desk.order() == ids{1, 3});
  desk.step(1, 100);
  desk.step(1, 300);
  CHECK(desk.order() == ids{1, 3, 2});
}

TEST_CASE("a prefill instance that only works at what is late is soon free for a newcomer") {
  scheduler_desk desk;
  desk.instance(1, instance_role::prefill);
  desk.instance(2, instance_role::decode);
  desk.arrive(1, 3000, 10, 1000); // 300 ms of prefill: late from the start, so its steps are short
  REQUIRE(desk.place_of(1) == 1);
  desk.arrive(2, 900, 130, 1000); // 91 ms: in time after a short step, not after one of 101 ms
  CHECK(desk.place_of(2) == 1);
}

} // namespace hflex::scheduler_hyperflexis_test
