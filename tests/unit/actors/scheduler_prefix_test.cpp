// What a prefix cache is likely to spare counts in the scheduler's accounts.
#include "tests/support/scheduler_desk.hpp"

namespace hflex::scheduler_prefix_test {

using test::scheduler_desk;

namespace {

struct prefix_desk : scheduler_desk {
  prefix_desk() : scheduler_desk(with_policy("round_robin")) { instance(1); }

  static scheduler::options with_policy(const std::string& name) {
    scheduler::options o;
    o.policy = name;
    return o;
  }

  /// 1,000 tokens that all begin with the same `shared` marks.
  void ask(std::uint64_t id, std::size_t shared) {
    auto r = request(id, 1000, 5000, 100);
    for (std::size_t i = 0; i < 15; ++i) r.prefix.push_back(i < shared ? i + 1 : id * 1000 + i);
    arrive(r);
  }
  std::uint64_t pending() const { return core.state().instances.at({1}).pending_prefill; }
  void served(std::uint64_t id, std::uint32_t cached) {
    on(scheduler::prefill_finished{{{id}, 1}, cached});
    end(id, 10);
  }
};

} // namespace

TEST_CASE("of a text that an instance has had before, only the rest counts as prefill") {
  prefix_desk desk;
  desk.ask(1, 10);
  CHECK(desk.pending() == 1000);
  desk.served(1, 0);
  desk.ask(2, 10);
  CHECK(desk.pending() == 360);
  desk.step(1, 360);
  CHECK(desk.pending() == 0);
}

TEST_CASE("a text that is all there still costs its last token") {
  prefix_desk desk;
  auto whole = desk.request(1, 64, 5000, 100);
  whole.prefix = {7};
  desk.arrive(whole);
  desk.served(1, 0);
  whole.key.id = {2};
  desk.arrive(whole);
  CHECK(desk.pending() == 1);
}

TEST_CASE("what an instance turned out not to have is not counted on again") {
  prefix_desk desk;
  desk.ask(1, 10);
  desk.served(1, 0);
  desk.ask(2, 10);
  desk.served(2, 128); // evicted meanwhile, but for the first two
  desk.ask(3, 10);
  CHECK(desk.pending() == 872);
}

TEST_CASE("after a role flip the cache is empty") {
  prefix_desk desk;
  desk.ask(1, 10);
  desk.served(1, 0);
  desk.on(scheduler::instance_role_changed{{1}, instance_role::mixed});
  desk.ask(2, 10);
  CHECK(desk.pending() == 1000);
}

TEST_CASE("prefill that was believed cached and was not is worked off all the same") {
  prefix_desk desk;
  desk.ask(1, 10);
  desk.served(1, 0);
  desk.ask(2, 10);
  desk.ask(3, 0);
  desk.step(1, 1000); // all of the second one
  CHECK(desk.pending() == 360);
  desk.served(2, 0);
  CHECK(desk.pending() == 1000); // what went to the third by mistake comes back
}

TEST_CASE("hyperflexis places a request where its beginning is") {
  for (const std::uint32_t walked_whole : {16U, 0U}) { // by a walk, and by the index of large fleets
    auto opts = prefix_desk::with_policy("hyperflexis");
    opts.walk_all_up_to = walked_whole;
    scheduler_desk desk(opts);
    desk.instance(2);
    auto r = desk.request(1, 960, 5000, 100);
    for (std::size_t i = 0; i < 15; ++i) r.prefix.push_back(i + 1);
    desk.arrive(r);
    desk.on(scheduler::prefill_finished{{{1}, 1}, 0});
    desk.end(1, 10);
    desk.instance(1);
    desk.instance(3);
    for (std::uint64_t id = 2; id <= 4; ++id) { // each finds an idle fleet
      r.key.id = {id};
      desk.arrive(r);
      CHECK(desk.place_of(id) == 2);
      desk.on(scheduler::prefill_finished{{{id}, 1}, 896});
      desk.end(id, 10);
    }
    auto other = desk.request(5, 960, 5000, 100);
    desk.arrive(other);
    CHECK(desk.place_of(5) == 1);
  }
}

TEST_CASE("hyperflexis does not give a request up that is in time only because its beginning is cached") {
  scheduler_desk desk(prefix_desk::with_policy("hyperflexis"));
  desk.instance(1);
  auto r = desk.request(1, 960, 60, 100); // 97 ms on its own
  for (std::size_t i = 0; i < 15; ++i) r.prefix.push_back(i + 1);
  r.slo.when_late = late_action::shed;
  auto first = r;
  first.slo.ttft = from_ms(5000);
  desk.arrive(first);
  desk.on(scheduler::prefill_finished{{{1}, 1}, 0});
  desk.end(1, 10);
  r.key.id = {2};
  desk.arrive(r);
  CHECK(desk.was_dispatched(2));
  auto other = r; // the same with another text
  other.key.id = {3};
  for (auto& mark : other.prefix) mark += 100;
  desk.step(1, 1);
  desk.on(scheduler::prefill_finished{{{2}, 1}, 959});
  desk.end(2, 10);
  desk.arrive(other);
  desk.now += from_ms(1);
  desk.on(scheduler::tick{});
  CHECK(!desk.was_dispatched(3));
}

} // namespace hflex::scheduler_prefix_test
