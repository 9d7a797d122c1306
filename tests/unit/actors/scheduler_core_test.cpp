#include "actors/scheduler/output_length.hpp"
#include "actors/scheduler/policy.hpp"
#include "tests/support/scheduler_desk.hpp"

namespace hflex::scheduler_core_test {

using namespace hflex::test;
using ids = std::vector<std::uint64_t>;

namespace {

constexpr double loose = 60000;

scheduler::options with_policy(std::string name) {
  scheduler::options opts;
  opts.policy = std::move(name);
  return opts;
}

} // namespace

TEST_CASE("an unknown scheduling policy is refused and the known ones are named") {
  auto made = scheduler::core::make(with_policy("fastest"));
  REQUIRE_FALSE(made);
  CHECK(made.error().code == errc::reject);
  for (const auto& entry : scheduler::policies())
    CHECK(made.error().message.find(std::string(entry.name)) != std::string::npos);
}

TEST_CASE("an option out of range is refused") {
  scheduler::options opts;
  opts.max_queued = 0;
  CHECK_FALSE(scheduler::core::make(opts));
  opts = {};
  opts.length_quantile = 1.5;
  CHECK_FALSE(scheduler::core::make(opts));
}

TEST_CASE("the excess over the queue's bound is shed") {
  scheduler::options opts;
  opts.max_queued = 2;
  scheduler_desk desk(opts);
  for (std::uint64_t id = 1; id <= 3; ++id) desk.arrive(id, 10, loose, 1000);
  CHECK(desk.shed_reason(3) == "queue full");
  CHECK(desk.sheds.size() == 1);
  desk.instance(1);
  CHECK(desk.order() == ids{1, 2});
}

TEST_CASE("requests wait for a fleet that starts, up to a bound, then are shed") {
  scheduler::options opts;
  opts.max_wait = std::chrono::seconds{10};
  scheduler_desk desk(opts);
  desk.arrive(1, 10, loose, 1000);
  REQUIRE(desk.wake);
  CHECK(*desk.wake == desk.now + std::chrono::seconds{10});
  desk.now += std::chrono::seconds{9};
  desk.arrive(2, 10, loose, 1000);
  desk.now += std::chrono::seconds{1};
  desk.on(scheduler::tick{});
  CHECK(desk.shed_reason(1) == "no instance");
  CHECK(desk.shed_reason(2).empty());
  desk.instance(1);
  CHECK(desk.was_dispatched(2));
}

TEST_CASE("a fleet without a decode instance serves nobody and says so") {
  scheduler::options opts;
  opts.max_wait = std::chrono::seconds{10};
  scheduler_desk desk(opts);
  desk.instance(1, instance_role::prefill);
  desk.arrive(1, 10, loose, 1000);
  desk.now += std::chrono::seconds{10};
  desk.on(scheduler::tick{});
  CHECK(desk.shed_reason(1) == "no decode instance");
}

TEST_CASE("a request that fits no instance's pool is shed with the reason") {
  scheduler_desk desk;
  desk.arrive(1, 900, loose, 1000, 200);
  CHECK(desk.sheds.empty());                  // who knows what will come
  desk.instance(1, instance_role::mixed, 64); // 1024 tokens
  CHECK(desk.shed_reason(1).find("too long") == 0);
  desk.arrive(2, 900, loose, 1000, 200);
  CHECK(desk.shed_reason(2).find("1024 tokens") != std::string::npos);
  desk.arrive(3, 900, loose, 1000, 124);
  CHECK(desk.was_dispatched(3));
}

TEST_CASE("a new attempt replaces the old one and an old one is ignored") {
  scheduler_desk desk;
  desk.instance(1);
  desk.arrive(1, 100, loose, 1000);
  auto again = scheduler_desk::request(1, 110, loose, 1000);
  again.key.attempt = 2;
  again.produced = 10;
  again.prompt_tokens = 100;
  desk.arrive(again);
  CHECK(desk.order() == ids{1, 1});
  CHECK(desk.core.state().placed.size() == 1);
  CHECK(desk.core.state().placed.begin()->first.attempt == 2);
  desk.arrive(1, 100, loose, 1000);
  CHECK(desk.dispatches.size() == 2);
  desk.end(1); // of attempt 1: says nothing about attempt 2
  CHECK(desk.core.state().placed.size() == 1);
}

TEST_CASE("an instance that is gone takes its accounts with it on both sides") {
  scheduler_desk desk;
  desk.instance(1, instance_role::prefill);
  desk.instance(2, instance_role::decode);
  desk.arrive(1, 100, loose, 1000);
  desk.arrive(2, 100, loose, 1000);
  desk.finish_prefill(1);
  REQUIRE(desk.core.state().instances.at({2}).reserved_blocks > 0);
  desk.on(scheduler::instance_gone{{1}});
  const auto& d = desk.core.state().instances.at({2});
  CHECK(d.decoding == 1); // request 1 was past it
  CHECK(d.promised == 0); // request 2 was not
  desk.end(1);
  CHECK(d.reserved_blocks == 0);
  CHECK(d.outstanding == 0);
  CHECK(d.decode_context == 0);
}

TEST_CASE("a draining instance gets nothing until its new role is there") {
  scheduler_desk desk;
  desk.instance(1);
  desk.on(scheduler::instance_draining{{1}});
  desk.arrive(1, 100, loose, 1000);
  CHECK_FALSE(desk.was_dispatched(1));
  desk.on(scheduler::instance_role_changed{{1}, instance_role::mixed});
  CHECK(desk.was_dispatched(1));
}

TEST_CASE("a step report corrects the instance's model") {
  scheduler_desk desk;
  desk.instance(1);
  step_shape shape;
  shape.add_decode(100);
  for (int i = 0; i < 300; ++i) desk.on(scheduler::step_reported{{1}, shape, from_ms(8), 1, 0, 10000, 1, 0});
  CHECK(to_ms(desk.core.state().instances.at({1}).model().predict(shape)) == Approx(8).epsilon(0.02));
}

TEST_CASE("a coalesced report counts all of its steps") {
  scheduler_desk desk;
  desk.instance(1);
  desk.arrive(1, 100, loose, 1000);
  desk.settle(1);
  desk.arrive(2, 800, loose, 1000);
  step_shape shape;
  shape.add_decode(100);
  desk.on(scheduler::step_reported{{1}, shape, from_ms(2), 1, 0, 10000, 5, 600});
  const auto& at = desk.core.state().instances.at({1});
  CHECK(at.decode_steps == 5);
  CHECK(at.decode_context == 100 + 5 + 800);
  CHECK(at.pending_prefill == 200);
}

TEST_CASE("a report that tells of no new step credits no work twice") {
  scheduler_desk desk;
  desk.instance(1);
  desk.arrive(1, 900, loose, loose);
  step_shape shape;
  shape.add_prefill(300, 0);
  scheduler::step_reported report{{1}, shape, simple_model.predict(shape), 0, 0, 9000, 1, 0};
  desk.on(report);
  const auto pending = desk.core.state().instances.at({1}).pending_prefill;
  REQUIRE(pending == 600);
  const auto learned = desk.core.state().instances.at({1}).corrector.observed();
  report.steps = 0;
  report.kv_blocks_free = 9500;
  desk.on(report);
  CHECK(desk.core.state().instances.at({1}).pending_prefill == pending);
  CHECK(desk.core.state().instances.at({1}).corrector.observed() == learned);
}

TEST_CASE("a model that was measured on such devices is no guess") {
  for (bool measured : {false, true}) {
    scheduler::options opts;
    opts.unmeasured_model = simple_model;
    opts.is_measured = measured;
    scheduler_desk desk(opts);
    desk.on(scheduler::instance_ready{{1}, {1}, instance_role::mixed, 1000, 16, 1000, 64, {}});
    CHECK(desk.core.state().instances.at({1}).measured == measured);
  }
}

TEST_CASE("round robin sends to each instance in turn at once") {
  scheduler_desk desk(with_policy("round_robin"));
  for (std::uint32_t i = 1; i <= 3; ++i) desk.instance(i);
  for (std::uint64_t id = 1; id <= 7; ++id) desk.arrive(id, 5000, 100, 10);
  std::vector<std::uint32_t> places;
  for (std::uint64_t id = 1; id <= 7; ++id) places.push_back(desk.place_of(id));
  CHECK(places == std::vector<std::uint32_t>{1, 2, 3, 1, 2, 3, 1});
}

TEST_CASE("round robin pairs prefill with decode instances in turn") {
  scheduler_desk desk(with_policy("round_robin"));
  desk.instance(1, instance_role::prefill);
  desk.instance(2, instance_role::decode);
  desk.instance(3, instance_role::decode);
  for (std::uint64_t id = 1; id <= 3; ++id) desk.arrive(id, 100, 100, 10);
  REQUIRE(desk.dispatches.size() == 3);
  CHECK(desk.dispatches[0].decode == instance_id{2});
  CHECK(desk.dispatches[1].decode == instance_id{3});
  CHECK(desk.dispatches[2].decode == instance_id{2});
}

TEST_CASE("least loaded sends to the instance with the fewest tokens outstanding") {
  scheduler_desk desk(with_policy("least_loaded"));
  desk.instance(1);
  desk.instance(2);
  desk.arrive(1, 5000, 100, 10);
  desk.arrive(2, 100, 100, 10);
  desk.arrive(3, 100, 100, 10);
  CHECK(desk.place_of(1) == 1);
  CHECK(desk.place_of(2) == 2);
  CHECK(desk.place_of(3) == 2);
}

TEST_CASE("no instance is given more than it may have in hand") {
  for (const auto& entry : scheduler::policies()) {
    auto opts = with_policy(std::string(entry.name));
    opts.max_outstanding = 2;
    scheduler_desk desk(opts);
    desk.instance(1);
    for (std::uint64_t id = 1; id <= 5; ++id) desk.arrive(id, 10, loose, 1000);
    CHECK(desk.dispatches.size() == 2);
    desk.end(1);
    CHECK(desk.dispatches.size() == 3);
  }
}

TEST_CASE("output lengths are predicted by the class's quantile once it is known") {
  scheduler::output_length_predictor lengths(0.9);
  CHECK(lengths.predict("chat", 0, 1000) == 1000);
  for (std::uint32_t i = 1; i <= 100; ++i) lengths.observe("chat", i);
  CHECK(lengths.predict("chat", 0, 1000) >= 90);
  CHECK(lengths.predict("chat", 0, 1000) <= 101);
  CHECK(lengths.predict("chat", 0, 50) == 50);     // never more than allowed
  CHECK(lengths.predict("code", 0, 1000) == 1000); // another class
  CHECK(lengths.predict("chat", 95, 1000) > 95);   // it is longer than that already
  CHECK(lengths.predict("chat", 500, 1000) == 1000);
}

TEST_CASE("what is kept for one of many is what many hold at a time") {
  scheduler::output_length_predictor lengths(0.7);
  const auto chat = lengths.number_of("chat");
  CHECK(lengths.expected_hold(chat, 0, 32768) == 512); // nothing is known yet: what is usual
  CHECK(lengths.expected_hold(chat, 0, 100) == 100);
  const auto all_finish = [&](std::uint32_t class_number, std::uint32_t tokens) {
    lengths.observe(class_number, tokens);
    lengths.made(tokens - 1);
  };
  // Every half of those that are left ends within 400 tokens: 37 % of the mean length, not 120 % as the quantile.
  for (std::uint32_t i = 0; i < 640; ++i)
    all_finish(chat, static_cast<std::uint32_t>(400 * std::log2(640.0 / (i + 0.5))) + 1);
  CHECK(lengths.predict(chat, 0, 32768) == Approx(695).epsilon(0.1));
  CHECK(lengths.expected_hold(chat, 0, 32768) == Approx(212).epsilon(0.1));
  CHECK(lengths.expected_hold(chat, 600, 32768) == Approx(212).epsilon(0.15)); // and so again, however far it is
  CHECK(lengths.expected_hold(chat, 600, 650) == 50);
  // All of the same length come to that at once, if they came at once.
  const auto fixed = lengths.number_of("fixed");
  for (int i = 0; i < 640; ++i) all_finish(fixed, 1000);
  CHECK(lengths.expected_hold(fixed, 0, 32768) == Approx(1000).epsilon(0.1));
  // The first to end are the short ones: while others go on, those say too little.
  const auto before = lengths.expected_hold(chat, 0, 32768);
  lengths.made(3'000'000);
  CHECK(lengths.expected_hold(chat, 0, 32768) > 1.4 * before);
}

TEST_CASE("targets beyond all reason do not break the clock") {
  for (const auto& entry : scheduler::policies()) {
    scheduler_desk desk(with_policy(std::string(entry.name)));
    desk.instance(1);
    auto endless = scheduler_desk::request(1, 100, 0, 0);
    endless.slo.ttft = endless.slo.tpot = duration::max();
    desk.arrive(endless);
    auto negative = scheduler_desk::request(2, 100, 0, 0);
    negative.slo.ttft = negative.slo.tpot = duration::min();
    desk.arrive(negative);
    for (int i = 0; i < 100; ++i) desk.step(1, 100);
    CHECK(desk.dispatches.size() + desk.sheds.size() == 2);
  }
}

} // namespace hflex::scheduler_core_test
