#include "actors/scheduler/demand.hpp"
#include "tests/support/scheduler_desk.hpp"

namespace hflex::scheduler_demand_test {

using namespace hflex::scheduler;
using hflex::test::scheduler_desk;

namespace {

/// A desk whose events the meter hears of, as the shell does it.
struct metered_desk : scheduler_desk {
  demand_meter meter{now};

  void comes(std::uint64_t id, std::uint32_t tokens, double ttft_ms, double tpot_ms, std::uint32_t attempt = 1) {
    auto r = request(id, tokens, ttft_ms, tpot_ms);
    r.key.attempt = attempt;
    r.arrival = now;
    meter.arrived(r);
    on(r);
  }
  void ends(std::uint64_t id, std::uint32_t output) {
    const request_ended e{{{id}, 1}, output};
    meter.ended(core.state(), e);
    on(e);
  }
};

} // namespace

TEST_CASE("a demand report sums up what came and ended since the report before") {
  metered_desk d;
  d.instance(1);
  d.comes(1, 100, 1000, 50);
  d.comes(2, 300, 1000, 50);
  d.ends(1, 40);
  d.now += std::chrono::milliseconds{300};
  REQUIRE(d.meter.ready(d.now));
  const auto report = d.meter.take(d.core.state(), d.now);
  REQUIRE(report.classes.size() == 1);
  const auto& c = report.classes[0];
  CHECK(c.slo_class == "test");
  CHECK(c.ttft == from_ms(1000));
  CHECK(c.arrivals == 2);
  CHECK(c.prompt_tokens == 400);
  CHECK(c.prompt_tokens_squared == 100'000);
  CHECK(c.ended == 1);
  CHECK(c.output_tokens == 40);
  CHECK(report.span == std::chrono::milliseconds{300});
  CHECK_FALSE(d.meter.ready(d.now));
  CHECK_FALSE(d.meter.due()); // nothing to tell again
  CHECK(d.meter.take(d.core.state(), d.now).classes.empty());
}

TEST_CASE("a later attempt of a request is no new demand") {
  metered_desk d;
  d.instance(1);
  d.comes(1, 100, 1000, 50, 2);
  CHECK_FALSE(d.meter.due());
}

TEST_CASE("the planned demotions are told with how many one more instance would save") {
  // An instance prefills 1000 tokens in 101 ms: about 10 of 30 such requests begin within a second, with two about 20.
  metered_desk d;
  d.instance(1);
  for (std::uint64_t id = 1; id <= 30; ++id) d.comes(id, 1000, 1000, 50);
  const auto report = describe_demand(d.core.state(), d.now);
  CHECK(report.waiting >= 28);
  CHECK(report.looked_at == report.waiting);
  CHECK(report.waiting_tokens == 1000 * report.waiting);
  CHECK(report.late >= 19);
  CHECK(report.late <= 22);
  CHECK(report.late_with_one_more >= 9);
  CHECK(report.late_with_one_more <= 13);
  CHECK(report.latest_by > duration{0});
  CHECK(report.overdue == 0);
  d.now += std::chrono::seconds{2};
  const auto later = describe_demand(d.core.state(), d.now);
  CHECK(later.overdue == later.waiting); // beyond what any instance could save
  CHECK(later.late == 0);
}

TEST_CASE("a fleet that keeps up plans no demotions") {
  metered_desk d;
  d.instance(1);
  d.instance(2);
  for (std::uint64_t id = 1; id <= 6; ++id) d.comes(id, 1000, 1000, 50);
  CHECK(describe_demand(d.core.state(), d.now).late == 0);
}

TEST_CASE("waiting requests for which no instance has blocks are told") {
  metered_desk d;
  d.instance(1, instance_role::mixed, 64); // 1024 tokens of KV
  for (std::uint64_t id = 1; id <= 4; ++id) d.comes(id, 500, 10'000, 1000);
  const auto report = describe_demand(d.core.state(), d.now);
  REQUIRE(report.waiting >= 1);
  CHECK(report.without_room == report.waiting);
  REQUIRE(report.instances.size() == 1);
  CHECK(report.instances[0].kv_blocks == 64);
  CHECK(report.instances[0].kv_blocks_taken > 32);
  CHECK(report.instances[0].promised >= 1);
}

TEST_CASE("without an instance everything waits and nothing is taken for saved by one more") {
  metered_desk d;
  d.comes(1, 100, 1000, 50);
  const auto report = describe_demand(d.core.state(), d.now);
  CHECK(report.waiting == 1);
  CHECK(report.without_room == 1);
  CHECK(report.late == 1);
  CHECK(report.late_with_one_more == 0);
}

// --- draining -------------------------------------------------------------------------------------------------------

namespace {

std::vector<migrate> moves_in(const std::vector<effect>& out) {
  std::vector<migrate> found;
  for (const auto& x : out)
    if (const auto* m = std::get_if<migrate>(&x)) found.push_back(*m);
  return found;
}

} // namespace

TEST_CASE("what decodes on a draining instance moves to where its targets hold") {
  scheduler_desk d;
  d.instance(1);
  for (std::uint64_t id = 1; id <= 2; ++id) {
    d.arrive(id, 100, 10'000, 50);
    d.on(prefill_finished{{{id}, 1}});
  }
  d.instance(2);
  const auto moves = moves_in(d.on(instance_draining{{1}}));
  REQUIRE(moves.size() == 2);
  for (const auto& m : moves) {
    CHECK(m.from == instance_id{1});
    CHECK(m.to == instance_id{2});
  }
  // Once under way they are not moved again.
  d.now += std::chrono::seconds{1};
  CHECK(moves_in(d.on(tick{})).empty());
}

TEST_CASE("residents of a draining instance stay where they are when they would break a target elsewhere") {
  scheduler_desk d; // 1 ms a step and 0.9 ms a decode
  d.instance(1);
  for (std::uint64_t id = 1; id <= 2; ++id) {
    d.arrive(id, 100, 10'000, 3);
    d.on(prefill_finished{{{id}, 1}});
  }
  d.on(instance_draining{{1}});
  d.instance(2);
  d.arrive(3, 100, 10'000, 3);
  d.on(prefill_finished{{{3}, 1}});
  d.now += std::chrono::seconds{1};
  d.on(tick{});
  // Instance 2 decodes one in 1.9 ms; two take 2.8; three would take 3.7.
  const auto& v = d.core.state();
  std::size_t moving = 0;
  for (const auto& [key, p] : v.placed) moving += p.moving_to ? 1 : 0;
  CHECK(moving == 1);
}

TEST_CASE("without another instance a draining one keeps its residents and is asked about again") {
  scheduler_desk d;
  d.instance(1);
  d.arrive(1, 100, 10'000, 50);
  d.on(prefill_finished{{{1}, 1}});
  CHECK(moves_in(d.on(instance_draining{{1}})).empty());
  REQUIRE(d.wake);
  d.instance(2);
  d.now += std::chrono::seconds{1};
  CHECK(moves_in(d.on(tick{})).size() == 1);
}

} // namespace hflex::scheduler_demand_test
