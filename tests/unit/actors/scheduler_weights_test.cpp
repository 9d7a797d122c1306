// Instances that are ready while their weights still come: who is sent there, and who had better not wait for them.
#include "tests/support/scheduler_desk.hpp"

namespace hflex::scheduler_weights_test {

using namespace hflex::test;
using std::chrono::milliseconds;

namespace {

/// Instance 1 has three steps of work in hand, instance 2 waits half a second for its weights.
struct desk_with_newcomer : scheduler_desk {
  explicit desk_with_newcomer(const scheduler::options& opts = {}) : scheduler_desk(opts) {
    instance(1);
    arrive(1, 3000, 400, 1000);
    REQUIRE(place_of(1) == 1);
    loading(2, milliseconds{500});
  }
  void loading(std::uint32_t id, duration due) {
    scheduler::instance_ready ready{{id}, {1}, instance_role::mixed, 10000, 16, 1000, 64, simple_model};
    ready.weights_due = due;
    on(ready);
  }
  void expect(std::uint32_t id, duration due) { on(scheduler::weights_expected{{id}, due}); }
};

scheduler::options of_policy(const std::string& name) {
  scheduler::options o;
  o.policy = name;
  return o;
}

} // namespace

TEST_CASE("who can wait for a newcomer's weights is sent there, who cannot waits for the others") {
  desk_with_newcomer desk;
  desk.arrive(2, 900, 550, 1000); // 91 ms of prefill after the weights would be late
  CHECK_FALSE(desk.was_dispatched(2));
  desk.arrive(3, 900, 700, 1000);
  CHECK(desk.place_of(3) == 2);
}

TEST_CASE("an idle instance is preferred to one whose weights are under way") {
  desk_with_newcomer desk;
  desk.instance(3);
  desk.arrive(2, 900, 60000, 1000);
  CHECK(desk.place_of(2) == 3);
}

TEST_CASE("what is expected of the weights changes who is sent there") {
  desk_with_newcomer desk;
  desk.arrive(2, 900, 550, 1000);
  REQUIRE_FALSE(desk.was_dispatched(2));
  desk.expect(2, milliseconds{300}); // the link is faster than it seemed
  CHECK(desk.place_of(2) == 2);
  desk.expect(2, milliseconds{3000});
  desk.arrive(3, 900, 2000, 1000);
  CHECK(desk.place_of(3) != 2);
}

TEST_CASE("once its weights are there a newcomer takes everything") {
  SECTION("as it is told") {
    desk_with_newcomer desk;
    desk.arrive(2, 900, 150, 1000);
    REQUIRE_FALSE(desk.was_dispatched(2));
    desk.expect(2, duration{0});
    CHECK(desk.place_of(2) == 2);
  }
  SECTION("as a step of it has ended") {
    desk_with_newcomer desk;
    desk.arrive(3, 900, 700, 1000);
    REQUIRE(desk.place_of(3) == 2);
    desk.arrive(2, 900, 450, 1000);
    REQUIRE_FALSE(desk.was_dispatched(2));
    desk.step(2, 900);
    CHECK(desk.place_of(2) == 2);
    desk.expect(2, milliseconds{500}); // overtaken by the step: not believed
    CHECK_FALSE(desk.core.state().instances.at({2}).weights_at);
  }
}

TEST_CASE("best effort does not wait for weights beside an instance that has its own") {
  desk_with_newcomer desk;
  auto late = desk.request(2, 900, 10, 1000);
  desk.arrive(late);
  CHECK_FALSE(desk.was_dispatched(2));
  for (int i = 0; i < 3; ++i) desk.step(1, 1000);
  CHECK(desk.place_of(2) == 1);
}

TEST_CASE("where all instances wait for weights, requests go there and wait with them") {
  desk_with_newcomer desk;
  desk.on(scheduler::instance_gone{{1}});
  desk.arrive(2, 900, 400, 1000); // late, and nobody is sooner
  CHECK(desk.place_of(2) == 2);
}

TEST_CASE("nothing that decodes moves to where it would wait for weights") {
  desk_with_newcomer desk;
  desk.settle(1);
  CHECK_FALSE(desk.core.movable({1}, {2}));
  desk.on(scheduler::instance_draining{{1}});
  desk.now += std::chrono::seconds{2};
  const auto moves = [&](const std::vector<scheduler::effect>& out) {
    return std::any_of(
        out.begin(), out.end(), [](const auto& e) { return std::holds_alternative<scheduler::migrate>(e); });
  };
  CHECK_FALSE(moves(desk.on(scheduler::tick{})));
  desk.now += std::chrono::seconds{2};
  CHECK(moves(desk.on(scheduler::weights_expected{{2}, duration{0}})));
}

TEST_CASE("a policy that does not reckon with weights sends nothing before they are there") {
  desk_with_newcomer desk(of_policy("round_robin"));
  for (std::uint64_t id = 2; id <= 5; ++id) desk.arrive(id, 100, 60000, 1000);
  for (std::uint64_t id = 2; id <= 5; ++id) CHECK(desk.place_of(id) == 1);
  desk.expect(2, duration{0});
  desk.arrive(6, 100, 60000, 1000);
  desk.arrive(7, 100, 60000, 1000);
  CHECK((desk.place_of(6) == 2 || desk.place_of(7) == 2));
}

TEST_CASE("in a large fleet, too, weights that are under way count as time to wait") {
  scheduler::options opts;
  opts.walk_all_up_to = 1;
  desk_with_newcomer desk(opts);
  desk.arrive(2, 900, 550, 1000);
  CHECK_FALSE(desk.was_dispatched(2));
  desk.arrive(3, 900, 700, 1000);
  CHECK(desk.place_of(3) == 2);
  desk.expect(2, duration{0});
  CHECK(desk.place_of(2) == 2);
}

} // namespace hflex::scheduler_weights_test
