// What scaling policies decide, on a desk: reports in, wishes out.
#include "tests/unit/actors/scaler_desk.hpp"

namespace hflex::scaler_policy_test {

using namespace hflex::scaler;
using namespace hflex::scaler::test;

// --- hyperflexis ----------------------------------------------------------------------------------------------------

TEST_CASE("hyperflexis starts what a rising load will need before anything is late") {
  fleet_desk d(using_policy("hyperflexis"));
  d.load(4, seconds{60}); // 0.4 instances' work
  CHECK(d.running() <= 2);
  for (double rate = 4; rate <= 40; rate += 1) d.load(rate, seconds{3});
  CHECK(d.running() >= 5); // 4 instances' work at 90 % for work
  CHECK(d.running() <= 10);
}

TEST_CASE("hyperflexis lets go what has not been needed for the hold time, and not sooner") {
  fleet_desk d(using_policy("hyperflexis"), {{mixed, 8}});
  d.load(50, seconds{180});
  const auto before = d.running();
  REQUIRE(before >= 6);
  d.load(5, seconds{10});
  CHECK(d.running() == before);
  d.load(5, seconds{60}); // the step itself counts as unevenness for five minutes
  CHECK(d.running() < before);
  d.load(5, seconds{340});
  CHECK(d.running() <= 2);
  CHECK(d.running() >= 1);
}

TEST_CASE("hyperflexis leaves a fleet alone whose load stays about the same") {
  fleet_desk d(using_policy("hyperflexis"), {{mixed, 6}});
  d.load(30, seconds{240});
  const auto settled = d.running();
  const auto starts = d.starts;
  for (int i = 0; i < 10; ++i) d.load(i % 2 == 0 ? 26 : 34, seconds{30});
  INFO("settled at " << settled);
  CHECK(d.starts - starts <= 2);
}

TEST_CASE("hyperflexis starts nothing when arrivals end") {
  fleet_desk d(using_policy("hyperflexis"), {{prefill, 1}, {decode, 1}});
  d.load(20, seconds{40});
  const auto most = d.most;
  d.load(0, seconds{120});
  CHECK(d.most == most);
}

TEST_CASE("hyperflexis starts for planned demotions only when the backlog would outlast a start") {
  for (const bool lasts : {false, true}) {
    fleet_desk d(using_policy("hyperflexis"));
    d.load(1, seconds{60});
    REQUIRE(d.running() == 1);
    d.tokens_each = lasts ? 10'000 : 1000; // 1 and 0.1 s of prefill each; a start takes 5 s
    d.load(1, milliseconds{250}, 3);
    CHECK(d.running() >= (lasts ? 2U : 1U));
    CHECK((lasts || d.running() == 1));
  }
}

TEST_CASE("a steady load is served by a steady fleet") {
  fleet_desk d(using_policy("hyperflexis"));
  d.load(25, seconds{120});
  const auto starts = d.starts;
  d.load(25, seconds{300});
  CHECK(d.starts == starts);
}

TEST_CASE("a mixed fleet whose instances do one thing each needs fewer where the target for tokens is tight") {
  fleet_desk together(using_policy("hyperflexis")), apart(using_policy("hyperflexis"));
  for (auto* d : {&together, &apart}) {
    d->tpot = milliseconds{15}; // a step of 10 ms leaves a third of it for work
    d->prompt = 2000;
    d->output = 20;
    d->mixed_apart = d == &apart;
    d->load(15, seconds{60});
  }
  CHECK(apart.running() < together.running());
  CHECK(apart.running() >= 4); // three instances' work of prefill alone
}

TEST_CASE("an idle fleet goes to zero where none is allowed, and the first request brings it back") {
  auto o = using_policy("hyperflexis");
  o.min_instances = 0;
  o.knobs["hyperflexis.idle_to_zero_s"] = 30;
  fleet_desk d(o);
  d.load(2, seconds{30});
  CHECK(d.running() >= 1);
  d.load(0, seconds{120});
  CHECK(d.running() == 0);
  d.load(0, milliseconds{250}, 1);
  CHECK(d.running() == 1);
}

TEST_CASE("the wish of a policy is brought within the limits") {
  auto o = using_policy("hyperflexis");
  o.max_instances = 3;
  o.min_instances = 2;
  fleet_desk d(o);
  CHECK(d.running() == 2);
  d.load(200, seconds{30});
  CHECK(d.running() == 3);
  d.load(0, seconds{500}); // beyond five minutes, over which arrivals count as uneven, and the slow hold
  CHECK(d.running() == 2);
}

TEST_CASE("a dry run says what it would do and does nothing") {
  auto o = using_policy("hyperflexis");
  o.dry_run = true;
  fleet_desk d(o, {{mixed, 2}});
  d.load(60, seconds{60});
  CHECK(d.running() == 2);
  bool advised = false;
  for (const auto& n : d.notes) advised = advised || (n.advice && n.why.find("would want") != std::string::npos);
  CHECK(advised);
}

TEST_CASE("every decision of the policy is kept with its numbers, the latest ones only") {
  auto o = using_policy("hyperflexis");
  o.max_decisions = 5;
  fleet_desk d(o);
  for (int i = 0; i < 4; ++i) {
    d.load(40, seconds{30});
    d.load(1, seconds{90});
  }
  const auto& log = d.it.decisions();
  REQUIRE(log.size() == 5);
  CHECK(log.back().number > 5);
  bool has_rate = false;
  for (const auto& n : d.notes)
    for (const auto& b : n.numbers) has_rate = has_rate || (b.name == "arrivals_rps" && b.value > 10);
  CHECK(has_rate);
}

// --- by hand --------------------------------------------------------------------------------------------------------

TEST_CASE("a count set by hand holds until the policy is let loose again") {
  fleet_desk d(using_policy("hyperflexis"));
  d.feed(request_scale{{}, 4, {}, {}, false});
  CHECK(d.running() == 4);
  d.load(1, seconds{200});
  CHECK(d.running() == 4);
  d.feed(request_scale{{}, {}, {}, {}, true});
  d.load(1, seconds{200});
  CHECK(d.running() <= 2);
}

TEST_CASE("who asks for more instances than devices are free for is told so each time") {
  fleet_desk d(using_policy("fixed"), {{mixed, 1}}, 2);
  const auto told = [&](std::uint32_t count) {
    d.notes.clear();
    d.feed(request_scale{{}, count, {}, {}, false});
    return std::any_of(d.notes.begin(), d.notes.end(),
        [](const note& n) { return n.why.find("no device is free") != std::string::npos; });
  };
  CHECK_FALSE(told(2));
  CHECK(told(4));
  CHECK(told(5));
  d.notes.clear();
  d.feed(tick{});
  CHECK(d.notes.empty()); // but not at every event
}

TEST_CASE("a role that was changed by hand is left alone for a while, and then the policy decides again") {
  auto o = using_policy("hyperflexis");
  o.hand_hold = seconds{60};
  o.min_instances = o.max_instances = 4;
  fleet_desk d(o, {{prefill, 2}, {decode, 2}});
  d.load(10, seconds{100}); // until the policy has what it wants
  const auto prefills = d.it.state().running(prefill);
  REQUIRE(prefills >= 2);
  instance_id flipped;
  for (const auto& [id, i] : d.it.state().instances)
    if (i.role == prefill && i.phase == life::ready) flipped = id;
  d.feed(request_role_change{flipped, decode});
  REQUIRE(d.refusals.empty());
  const auto started = d.starts;
  d.load(10, seconds{55});
  CHECK(d.it.state().instances.at(flipped).role == decode);
  CHECK(d.it.state().running(prefill) == prefills - 1);
  CHECK(d.starts == started); // nor was another started in its stead
  d.load(10, seconds{60});
  CHECK(d.it.state().running(prefill) == prefills);
}

TEST_CASE("a number held by hand follows a role that is changed by hand") {
  fleet_desk d(using_policy("hyperflexis"), {{prefill, 2}, {decode, 2}});
  d.feed(request_scale{prefill, 2, {}, {}, false});
  d.feed(request_scale{decode, 2, {}, {}, false});
  d.settle();
  instance_id flipped;
  for (const auto& [id, i] : d.it.state().instances)
    if (i.role == prefill && i.phase == life::ready) flipped = id;
  d.feed(request_role_change{flipped, decode});
  d.load(1, seconds{400});
  CHECK(d.it.state().running(prefill) == 1);
  CHECK(d.it.state().running(decode) == 3);
}

TEST_CASE("scaling by hand beyond the limits, to no side or without a role among several is refused") {
  auto o = using_policy("fixed");
  o.max_instances = 6;
  fleet_desk d(o, {{prefill, 1}, {decode, 1}});
  const auto refused = [&](const request_scale& e) {
    d.refusals.clear();
    d.feed(e);
    return d.refusals.size() == 1 ? d.refusals[0] : std::string();
  };
  CHECK(refused({{}, 2, {}, {}, false}).find("say which one") != std::string::npos);
  CHECK(refused({decode, 9, {}, {}, false}).find("at most 6") != std::string::npos);
  CHECK(refused({decode, 0, {}, {}, false}).find("decode") != std::string::npos);
  CHECK(refused({{}, {}, 7, {}, false}).find("no range") != std::string::npos);
  CHECK(refused({decode, 3, {}, {}, false}).empty());
  CHECK(d.it.state().running(decode) == 3);
}

// --- baselines ------------------------------------------------------------------------------------------------------

TEST_CASE("reactive waits for lateness and then adds one per lead time") {
  fleet_desk d(using_policy("reactive"));
  d.load(60, seconds{30}, 0);
  CHECK(d.running() == 1);
  d.load(60, seconds{1}, 5);
  CHECK(d.running() == 2);
  d.load(60, seconds{12}, 5);
  CHECK(d.running() >= 3);
  CHECK(d.running() <= 5);
}

TEST_CASE("polyserve adds one while none is on its way, and takes an empty one away") {
  fleet_desk d(using_policy("polyserve"));
  d.load(60, seconds{2}, 5);
  CHECK(d.running() == 2);
  d.load(0, seconds{60}, 0);
  CHECK(d.running() == 1);
}

TEST_CASE("blitzscale scales by its bounds, at once up and one at a time down") {
  auto o = using_policy("blitzscale");
  fleet_desk d(o);
  // An instance prefills 2048 tokens in 214.8 ms: 9534 tokens/s; 900 * 50 is 4.7 of them.
  d.load(50, seconds{20});
  CHECK(d.running() == 6);
  d.load(1, seconds{45});
  CHECK(d.running() < 6);
  CHECK(d.running() >= 3);
}

TEST_CASE("utilisation keeps requests in hand near its target and waits for its window to go down") {
  auto o = using_policy("utilisation");
  o.knobs["utilisation.window_s"] = 60;
  fleet_desk d(o);
  for (int i = 0; i < 80; ++i) {
    d.now += milliseconds{500};
    d.settle();
    demand_reported e;
    e.demand.span = milliseconds{500};
    for (const auto& [id, at] : d.it.state().instances)
      if (at.phase == life::ready)
        e.demand.instances.push_back(
            {id, at.role, false, 300U / d.it.state().ready(mixed), 0, 0, 0, 10'000, 0, 16, 2048, 256, 1.0, simple});
    d.feed(e);
  }
  CHECK(d.running() == 4); // 300 of 256 at 0.3
  d.load(0, seconds{20});
  CHECK(d.running() == 4);
  d.load(0, seconds{120});
  CHECK(d.running() == 1);
}

TEST_CASE("an unknown scaling policy or knob is refused with those that there are") {
  options o;
  o.policy = "hyperflex";
  CHECK(core::make(o).error().message.find("hyperflexis") != std::string::npos);
  o.policy = "fixed";
  o.knobs["hyperflexis.margins"] = 1;
  CHECK(core::make(o).error().message.find("hyperflexis.margin") != std::string::npos);
  o.knobs = {{"hyperflexis.fill", 2.0}};
  CHECK_FALSE(core::make(o));
}

} // namespace hflex::scaler_policy_test
