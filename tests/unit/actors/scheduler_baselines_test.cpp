// What each baseline policy decides that no other does.
#include "actors/scheduler/policies/slos_serve_plan.hpp"
#include "actors/scheduler/policy.hpp"
#include "tests/support/scheduler_desk.hpp"

namespace hflex::scheduler_baselines_test {

using namespace hflex::test;
using namespace std::chrono_literals;

namespace {

constexpr double loose = 60000; // ms: no deadline that matters

scheduler::options with(std::string policy, std::map<std::string, double> knobs = {}) {
  scheduler::options o;
  o.policy = std::move(policy);
  o.knobs = std::move(knobs);
  return o;
}

template <class Effect>
std::vector<Effect> all(const std::vector<scheduler::effect>& out) {
  std::vector<Effect> found;
  for (const auto& x : out)
    if (const auto* e = std::get_if<Effect>(&x)) found.push_back(*e);
  return found;
}

std::vector<std::uint32_t> places(scheduler_desk& desk) {
  std::vector<std::uint32_t> at;
  for (const auto& d : desk.dispatches) at.push_back(d.prefill.value);
  return at;
}

// An instance as the dynamic program sees it: 9900 prefill tokens a second in steps of 100 ms.
scheduler::instance_load idle_instance() {
  return scheduler::instance_load{
      scheduler::instance_ready{{1}, {1}, instance_role::mixed, 1000, 16, 1000, 64, simple_model}, scheduler::options{},
      time_point{}};
}

} // namespace

TEST_CASE("an unknown knob is refused and the known ones are named") {
  const auto made = scheduler::core::make(with("llumnix", {{"llumnix.lo", 3}}));
  REQUIRE_FALSE(made);
  CHECK(made.error().message.find("llumnix.lo'") != std::string::npos);
  CHECK(made.error().message.find("llumnix.low") != std::string::npos);
}

TEST_CASE("a knob beyond its range is refused") {
  const auto made = scheduler::core::make(with("aladdin", {{"aladdin.gamma", 1.5}}));
  REQUIRE_FALSE(made);
  CHECK(made.error().message.find("0 to 1") != std::string::npos);
}

TEST_CASE("knobs of other policies may be set as well") {
  CHECK(scheduler::core::make(with("round_robin", {{"aladdin.gamma", 0.7}})));
}

TEST_CASE("every knob is named after its policy and its default is in its range") {
  for (const auto& entry : scheduler::policies()) {
    if (!entry.knobs) continue;
    for (const auto& k : entry.knobs()) {
      INFO(k.name);
      CHECK(k.name.substr(0, entry.name.size() + 1) == std::string(entry.name) + ".");
      CHECK((k.least <= k.value && k.value <= k.most));
      CHECK_FALSE(k.meaning.empty());
    }
  }
}

TEST_CASE("power_of_two goes to the shorter of the two queues that it draws") {
  scheduler_desk desk(with("power_of_two"));
  desk.instance(1);
  desk.instance(2);
  for (std::uint64_t id = 1; id <= 6; ++id) desk.arrive(id, 100, loose, 1000);
  CHECK(desk.core.state().instances.at({1}).outstanding == 3);
  CHECK(desk.core.state().instances.at({2}).outstanding == 3);
}

TEST_CASE("power_of_two draws by its seed") {
  const auto draw = [](double seed) {
    scheduler_desk desk(with("power_of_two", {{"power_of_two.seed", seed}}));
    for (std::uint32_t i = 1; i <= 8; ++i) desk.instance(i);
    for (std::uint64_t id = 1; id <= 20; ++id) desk.arrive(id, 100, loose, 1000);
    return places(desk);
  };
  CHECK(draw(1) == draw(1));
  CHECK(draw(1) != draw(2));
}

TEST_CASE("aladdin packs the fullest instance that will do") {
  scheduler_desk desk(with("aladdin"));
  desk.instance(1);
  desk.instance(2);
  for (std::uint64_t id = 1; id <= 3; ++id) desk.arrive(id, 100, loose, 1000);
  CHECK(places(desk) == std::vector<std::uint32_t>{1, 1, 1});
}

TEST_CASE("aladdin keeps a prefill away from residents that have not saved the time for it") {
  scheduler_desk desk(with("aladdin"));
  desk.instance(1);
  desk.instance(2);
  desk.arrive(1, 100, loose, 20);
  desk.settle(1);
  desk.arrive(2, 900, loose, 1000); // 90 ms of prefill: the resident has 20
  CHECK(desk.place_of(2) == 2);
  for (int i = 0; i < 10; ++i) desk.step(1, 0); // 18 ms saved by each step
  desk.arrive(3, 900, loose, 1000);
  CHECK(desk.place_of(3) == 1);
}

TEST_CASE("aladdin packs a request with a share of its output") {
  scheduler_desk desk(with("aladdin", {{"aladdin.gamma", 0.5}}));
  desk.instance(1);
  desk.arrive(1, 100, loose, 1000, 600);
  REQUIRE(desk.dispatches.size() == 1);
  CHECK(desk.dispatches[0].reserved_blocks == 25); // 100 + 300 tokens
}

TEST_CASE("polyserve gives each tier instances of its own and fills the most loaded") {
  scheduler_desk desk(with("polyserve"));
  desk.instance(1);
  desk.instance(2);
  desk.instance(3);
  desk.arrive(1, 100, loose, 25);
  desk.arrive(2, 100, loose, 200);
  desk.arrive(3, 100, loose, 200);
  CHECK(places(desk) == std::vector<std::uint32_t>{1, 2, 2});
}

TEST_CASE("polyserve promotes to a tighter tier, before or after it takes an idle instance") {
  for (const double first : {0.0, 1.0}) {
    scheduler_desk desk(with("polyserve", {{"polyserve.promote_first", first}}));
    desk.instance(1);
    desk.instance(2);
    desk.arrive(1, 100, loose, 25);
    desk.arrive(2, 100, loose, 200);
    CHECK(desk.place_of(2) == (first > 0 ? 1 : 2));
  }
}

TEST_CASE("polyserve never sends a tight request to a looser tier") {
  scheduler_desk desk(with("polyserve"));
  desk.instance(1);
  desk.arrive(1, 100, loose, 200);
  desk.arrive(2, 100, loose, 25);
  CHECK_FALSE(desk.was_dispatched(2));
  desk.settle(1);
  desk.end(1); // the instance is empty and goes back to the pool
  CHECK(desk.place_of(2) == 1);
}

TEST_CASE("a tier that would be late takes an instance over from a looser one") {
  scheduler_desk desk(with("polyserve"));
  desk.instance(1);
  desk.arrive(1, 100, loose, 200);
  desk.settle(1);
  desk.arrive(2, 100, 1000, 25);
  REQUIRE_FALSE(desk.was_dispatched(2));
  desk.now += 600ms; // more than half of its time
  desk.step(1, 0);
  CHECK(desk.place_of(2) == 1);
}

TEST_CASE("slos_serve admits the two that fit rather than the one that came first") {
  const auto at = idle_instance();
  const std::vector<scheduler::prefill_job> jobs{
      {100ms, 800, 800, 1, 50ms, false}, {110ms, 400, 400, 1, 50ms, false}, {120ms, 500, 500, 1, 50ms, false}};
  CHECK(scheduler::accept_jobs(at, jobs, 100, 100, {}) == std::vector<std::size_t>{1, 2});
}

TEST_CASE("slos_serve admits nobody who would make a promised one late") {
  const auto at = idle_instance();
  std::vector<scheduler::prefill_job> jobs{{100ms, 800, 800, 1, 50ms, false}, {130ms, 700, 700, 1, 50ms, true}};
  CHECK(scheduler::accept_jobs(at, jobs, 100, 100, {}).empty());
  jobs[0].tokens = 500;
  CHECK(scheduler::accept_jobs(at, jobs, 100, 100, {}) == std::vector<std::size_t>{0});
}

TEST_CASE("slos_serve admits as many as memory and decode targets allow") {
  const auto at = idle_instance();
  const std::vector<scheduler::prefill_job> jobs(3, {500ms, 100, 100, 40, 50ms, false});
  CHECK(scheduler::accept_jobs(at, jobs, 100, 100, {}).size() == 2);
  CHECK(scheduler::accept_jobs(at, jobs, 1000, 1, {}).size() == 1);
  const std::vector<scheduler::prefill_job> tight(3, {500ms, 100, 100, 1, 3ms, false}); // a step with 3 takes 3.7 ms
  CHECK(scheduler::accept_jobs(at, tight, 100, 100, {}).size() == 2);
}

TEST_CASE("slos_serve asks the next replica when one declines, and serves best effort who is declined by all") {
  scheduler_desk desk(with("slos_serve"));
  desk.instance(1);
  desk.instance(2);
  desk.arrive(1, 3000, 400, 1000);
  desk.arrive(2, 3000, 400, 1000);
  CHECK(desk.place_of(1) != desk.place_of(2));
  desk.arrive(3, 3000, 400, 1000);
  CHECK_FALSE(desk.was_dispatched(3));
  for (int i = 0; i < 4; ++i) desk.step(desk.place_of(1), 1000);
  CHECK(desk.place_of(3) == desk.place_of(1));
}

TEST_CASE("scorpio turns away a request whose first token cannot come in time") {
  scheduler_desk desk(with("scorpio"));
  desk.instance(1);
  desk.arrive(1, 1000, 50, 1000); // 100 ms of prefill
  CHECK_FALSE(desk.shed_reason(1).empty());
  scheduler_desk patient(with("scorpio", {{"scorpio.reject", 0}}));
  patient.instance(1);
  patient.arrive(1, 1000, 50, 1000);
  CHECK(patient.was_dispatched(1));
}

TEST_CASE("scorpio counts a loose request for its share of the steps") {
  scheduler_desk desk(with("scorpio"));
  desk.instance(1);
  desk.arrive(1, 1, loose, 10);
  desk.settle(1);
  for (std::uint64_t id = 2; id <= 31; ++id) { // each takes part in one step of ten
    desk.arrive(id, 1, loose, 100);
    desk.settle(id);
  }
  for (std::uint64_t id = 32; id <= 50; ++id) { // these in every one, of 10 ms
    desk.arrive(id, 1, loose, 10);
    if (!desk.was_dispatched(id)) break;
    desk.settle(id);
  }
  CHECK(desk.dispatches.size() == 35); // 1 + 30 / 10 + 4 = 8 decodes a step: 9 ms
}

TEST_CASE("scorpio binds the least deadline first") {
  scheduler_desk desk(with("scorpio"));
  desk.instance(1);
  desk.arrive(1, 3000, loose, 1000);
  desk.arrive(2, 500, 9000, 1000);
  desk.arrive(3, 500, 5000, 1000);
  for (int i = 0; i < 8; ++i) desk.step(1, 1000);
  CHECK(desk.order() == std::vector<std::uint64_t>{1, 3, 2});
}

TEST_CASE("llumnix goes to the instance with the most free memory a sequence") {
  scheduler_desk desk(with("llumnix"));
  desk.instance(1, instance_role::mixed, 1000);
  desk.instance(2, instance_role::mixed, 1000);
  desk.arrive(1, 8000, loose, 1000);
  desk.arrive(2, 100, loose, 1000);
  desk.arrive(3, 100, loose, 1000); // 8000 tokens for one, 15900 for one
  desk.arrive(4, 100, loose, 1000); // 8000 for one, 15800 for two
  CHECK(places(desk) == std::vector<std::uint32_t>{1, 2, 2, 1});
}

TEST_CASE("llumnix moves the shortest request from a full instance to a free one") {
  scheduler_desk desk(with("llumnix", {{"llumnix.low", 5000}, {"llumnix.high", 9000}}));
  desk.instance(1, instance_role::mixed, 1000);
  desk.arrive(1, 8000, loose, 1000);
  desk.arrive(2, 300, loose, 1000);
  desk.settle(1);
  desk.settle(2); // 3850 tokens left for each
  CHECK(all<scheduler::migrate>(desk.on(scheduler::tick{})).empty());
  desk.now += 1s;
  const auto moves = all<scheduler::migrate>(
      desk.on(scheduler::instance_ready{{2}, {1}, instance_role::mixed, 1000, 16, 1000, 64, simple_model}));
  REQUIRE(moves.size() == 1);
  CHECK(moves[0].key == request_key{{2}, 1});
  CHECK(moves[0].to == instance_id{2});
  desk.now += 1s;
  CHECK(all<scheduler::migrate>(desk.on(scheduler::tick{})).empty()); // one at a time
  desk.on(scheduler::moved{{{2}, 1}, {2}});
  CHECK(desk.core.state().instances.at({2}).decoding == 1);
}

TEST_CASE("llumnix spares a request of high priority") {
  scheduler_desk desk(with("llumnix", {{"llumnix.low", 5000}, {"llumnix.high", 9000}}));
  desk.instance(1, instance_role::mixed, 1000);
  auto important = scheduler_desk::request(1, 300, loose, 1000);
  important.slo.weight = 5;
  desk.arrive(important);
  desk.arrive(2, 8000, loose, 1000);
  desk.settle(1);
  desk.settle(2);
  desk.now += 1s;
  const auto moves = all<scheduler::migrate>(
      desk.on(scheduler::instance_ready{{2}, {1}, instance_role::mixed, 1000, 16, 1000, 64, simple_model}));
  REQUIRE(moves.size() == 1);
  CHECK(moves[0].key == request_key{{2}, 1});
}

TEST_CASE("llumnix empties an instance that drains") {
  scheduler_desk desk(with("llumnix"));
  desk.instance(1);
  desk.arrive(1, 300, loose, 1000);
  desk.settle(1);
  desk.instance(2);
  desk.now += 1s;
  CHECK(all<scheduler::migrate>(desk.on(scheduler::instance_draining{{1}})).size() == 1);
}

TEST_CASE("llumnix moves nothing to where it is, however its bounds are set") {
  scheduler_desk desk(with("llumnix", {{"llumnix.low", 1e6}, {"llumnix.high", -1e6}}));
  desk.instance(1);
  desk.instance(2);
  for (std::uint64_t id = 1; id <= 4; ++id) desk.arrive(id, 100, loose, 1000);
  for (std::uint64_t id = 1; id <= 4; ++id) desk.settle(id);
  desk.now += 1s;
  CHECK(all<scheduler::migrate>(desk.on(scheduler::tick{})).empty()); // both are as free
}

TEST_CASE("qoserve goes at once to the instance with the least prefill pending") {
  scheduler_desk desk(with("qoserve"));
  desk.instance(1);
  desk.instance(2);
  desk.arrive(1, 3000, loose, 1000);
  desk.arrive(2, 100, loose, 1000);
  desk.arrive(3, 100, loose, 1000);
  CHECK(places(desk) == std::vector<std::uint32_t>{1, 2, 2});
  CHECK(scheduler::prefill_weight_of(with("qoserve", {{"qoserve.alpha_ms", 2}})) == 2ms);
}

TEST_CASE("the oracle reserves what the answer will need and no more") {
  scheduler_desk desk(with("oracle"));
  desk.instance(1);
  auto r = scheduler_desk::request(1, 100, loose, 1000, 900);
  r.known_output = 20;
  desk.arrive(r);
  REQUIRE(desk.dispatches.size() == 1);
  CHECK(desk.dispatches[0].reserved_blocks == 8);
}

TEST_CASE("the oracle admits a tight request beside others that will soon be gone") {
  for (const bool soon : {true, false}) {
    scheduler_desk desk(with("oracle"));
    desk.instance(1);
    for (std::uint64_t id = 1; id <= 3; ++id) {
      auto r = scheduler_desk::request(id, 10, loose, 100, 900);
      r.known_output = soon ? 5 : 900;
      desk.arrive(r);
      desk.settle(id);
    }
    auto tight = scheduler_desk::request(4, 10, loose, 3, 900); // with the three a step takes 4.6 ms
    tight.known_output = 900;
    desk.arrive(tight);
    CHECK(desk.was_dispatched(4) == soon);
  }
}

} // namespace hflex::scheduler_baselines_test
