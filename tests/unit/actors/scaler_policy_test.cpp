// What scaling policies decide, on a desk: reports in, wishes out.
#include "actors/scaler/policy.hpp"
#include "tests/support/catch.hpp"

namespace hflex::scaler_policy_test {

using namespace hflex::scaler;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

constexpr auto prefill = instance_role::prefill;
constexpr auto decode = instance_role::decode;
constexpr auto mixed = instance_role::mixed;

/// 10 ms a step, 0.1 ms a token: a request of 900 and 100 tokens is 0.1 instance-seconds of work.
constexpr step_time_model simple{.c0_ms = 10, .c1_ms = 0.1, .m0 = 0, .c2_ms = 0, .c3_ms = 0, .c4_ms = 0};

/// A core with its fleet on one big node, and an idealised scheduler that reports each quarter of a second.
struct fleet_desk {
  explicit fleet_desk(options opts, std::vector<fleet_line> fleet = {{mixed, 1}}, std::uint32_t devices = 32)
      : it(make(std::move(opts), std::move(fleet))) {
    node_up e{{1}, {}, {}};
    for (std::uint32_t i = 0; i < devices; ++i) e.devices.push_back({i, 1});
    lead = duration{0}; // the first stand at once
    feed(e);
    settle();
    lead = seconds{5};
  }
  static core make(options opts, std::vector<fleet_line> fleet) {
    opts.fleet = std::move(fleet);
    auto made = core::make(opts);
    REQUIRE(made);
    return std::move(*made);
  }

  template <class Event>
  void feed(const Event& e) {
    std::vector<effect> out;
    it.on(e, now, out);
    for (const auto& x : out) {
      if (const auto* s = std::get_if<start_instance>(&x)) starting.emplace_back(now + lead, s->instance);
      if (const auto* s = std::get_if<stop_instance>(&x)) stopped.push_back(s->instance), ++stops;
      if (const auto* r = std::get_if<change_role>(&x)) flips.push_back(*r);
      if (const auto* n = std::get_if<note>(&x)) notes.push_back(*n);
      if (const auto* r = std::get_if<refuse>(&x)) refusals.push_back(r->reason);
      if (std::holds_alternative<start_instance>(x)) ++starts;
    }
  }

  /// What was ordered comes to pass as time goes on.
  void settle() {
    for (std::size_t i = 0; i < starting.size(); ++i)
      if (starting[i].first <= now) {
        const auto id = starting[i].second;
        starting.erase(starting.begin() + static_cast<std::ptrdiff_t>(i--));
        feed(instance_state{id, instance_phase::ready, ""});
      }
    for (auto id : std::exchange(stopped, {})) feed(instance_state{id, instance_phase::gone, "asked"});
    if (drains_last) return;
    for (const auto& f : std::exchange(flips, {})) feed(role_changed{f.instance, f.to});
  }

  /// `per_s` requests of prompt + output tokens, 900 and 100 of them, for that long.
  void load(double per_s, duration length, std::uint32_t late = 0) {
    for (const auto end = now + length; now < end;) {
      now += milliseconds{250};
      settle();
      owed += per_s / 4;
      const auto n = static_cast<std::uint32_t>(owed);
      owed -= n;
      demand_reported e;
      e.demand.span = milliseconds{250};
      if (n > 0)
        e.demand.classes.push_back({"standard", seconds{2}, tpot, n, prompt * n, prompt * prompt * n, n, output * n});
      for (const auto& [id, i] : it.state().instances)
        if (i.phase == life::ready)
          e.demand.instances.push_back({id, i.role, false, i.role == decode ? residents / it.state().ready(decode) : 0U,
              0, 0, 0, 10'000, 0, 16, 2048, 256, 1.0, simple});
      e.demand.mixed_apart = mixed_apart;
      e.demand.decoded = static_cast<std::uint64_t>(made * output * n);
      e.demand.late = late;
      e.demand.waiting = late;
      e.demand.waiting_tokens = std::uint64_t{late} * tokens_each;
      e.demand.looked_at = late;
      feed(e);
      most = std::max(most, it.state().running());
    }
  }

  std::uint32_t running() const { return it.state().running(); }

  time_point now{seconds{1000}};
  duration lead{seconds{5}};
  core it;
  std::vector<std::pair<time_point, instance_id>> starting;
  std::vector<instance_id> stopped;
  std::vector<change_role> flips;
  std::vector<note> notes;
  std::vector<std::string> refusals;
  std::uint32_t starts{};
  std::uint32_t stops{};
  bool drains_last{false}; ///< a role flip is not done, as residents go on
  std::uint32_t most{};
  double owed{};
  std::uint32_t tokens_each{10'000}; ///< of those that are late
  bool mixed_apart{false};
  std::uint32_t residents{0}; ///< that decode, where that is a role
  duration tpot{milliseconds{100}};
  double prompt{900};
  double output{100}; ///< of those that end
  double made{1};     ///< times as much as those had, all together
};

options using_policy(const std::string& name) {
  options o;
  o.policy = name;
  o.min_instances = 1;
  o.lead_time = seconds{5};
  return o;
}

} // namespace

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

TEST_CASE("a side that lacks instances takes those of the other before any is started") {
  // A prompt-heavy load, then none: what prefill had is decode's when that needs it.
  fleet_desk d(using_policy("hyperflexis"), {{prefill, 4}, {decode, 1}}, 5);
  d.load(10, seconds{10});
  const auto starts = d.starts;
  // Residents that fill three decode instances.
  for (int i = 0; i < 40; ++i) {
    d.now += milliseconds{250};
    d.settle();
    demand_reported e;
    e.demand.span = milliseconds{250};
    e.demand.classes.push_back({"standard", seconds{2}, milliseconds{100}, 1, 10, 100, 1, 1000});
    for (const auto& [id, at] : d.it.state().instances)
      if (at.phase == life::ready)
        e.demand.instances.push_back({id, at.role, false, at.role == decode ? 600U / d.it.state().ready(decode) : 0U, 0,
            0, 0, 10'000, 0, 16, 2048, 256, 1.0, simple});
    d.feed(e);
  }
  CHECK(d.it.state().ready(decode) >= 3);
  CHECK(d.it.state().ready(prefill) >= 1);
  CHECK(d.starts == starts);
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

TEST_CASE("a fleet of fixed size prefills with most of it where prompts are long and answers short") {
  auto o = using_policy("hyperflexis");
  o.min_instances = o.max_instances = 8;
  fleet_desk d(o, {{prefill, 4}, {decode, 4}}, 8);
  d.prompt = 3000;
  d.output = 20;
  d.load(8, seconds{3});
  CHECK(d.it.state().ready(decode) == 4); // not sure yet that decodes need fewer
  d.load(8, seconds{27});
  CHECK(d.it.state().ready(prefill) == 7);
  CHECK(d.it.state().ready(decode) == 1);
  d.prompt = 300; // and the other way round, as this becomes what is usual
  d.output = 600;
  d.load(15, seconds{30});
  CHECK(d.it.state().ready(decode) == 1); // they are still to come: until then, prefill has the use of the others
  d.residents = 600;
  d.load(15, seconds{30});
  CHECK(d.it.state().ready(decode) >= 3);
  CHECK(d.running() == 8);
}

TEST_CASE("a fleet of fixed size reckons with answers that are longer than those that have ended") {
  auto o = using_policy("hyperflexis");
  o.min_instances = o.max_instances = 8;
  std::vector<std::uint32_t> decodes;
  for (const double made : {1.0, 16.0}) {
    fleet_desk d(o, {{prefill, 4}, {decode, 4}}, 8);
    d.residents = 1000;
    d.prompt = 1000;
    d.output = 200;
    d.made = made;
    d.load(10, seconds{60});
    decodes.push_back(d.it.state().ready(decode));
  }
  CHECK(decodes[0] <= 3);
  CHECK(decodes[1] >= 5);
}

TEST_CASE("nothing is stopped and started where a role flip will do, however long that takes") {
  auto o = using_policy("hyperflexis");
  o.min_instances = o.max_instances = 8;
  o.knobs["hyperflexis.memory_s"] = 10;
  fleet_desk d(o, {{prefill, 4}, {decode, 4}}, 16);
  d.prompt = 3000;
  d.output = 20;
  d.drains_last = true; // 3 that decoded are to prefill, once their residents have gone
  d.load(8, seconds{30});
  REQUIRE(d.it.state().running(prefill) == 7);
  // And now most are to decode. The last one that can prefill stays, until one of the others can.
  d.prompt = 300;
  d.output = 2000;
  d.residents = 2000;
  d.load(15, seconds{60});
  CHECK(d.it.state().ready(prefill) == 1);
  CHECK(d.starts == 8);
  CHECK(d.stops == 0);
  d.drains_last = false;
  d.load(15, seconds{60});
  CHECK(d.it.state().ready(decode) >= 6);
  CHECK(d.starts == 8);
  CHECK(d.stops == 0);
}

TEST_CASE("a fleet of fixed size that knows of no load keeps its roles") {
  auto o = using_policy("hyperflexis");
  o.min_instances = o.max_instances = 8;
  fleet_desk d(o, {{prefill, 3}, {decode, 5}}, 8);
  d.load(0, seconds{120});
  CHECK(d.it.state().ready(prefill) == 3);
  CHECK(d.it.state().ready(decode) == 5);
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
