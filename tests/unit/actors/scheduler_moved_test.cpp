// Moves that people ask for.
#include "tests/support/scheduler_desk.hpp"

namespace hflex::scheduler_moved_test {

using namespace hflex::scheduler;
using hflex::test::scheduler_desk;

namespace {

constexpr instance_id i1{1}, i2{2}, i3{3};
constexpr request_key first{request_id{1}, 1};

/// Two mixed instances; request 1 is on one of them, after its prefill.
struct desk : scheduler_desk {
  desk() {
    instance(1);
    instance(2);
    arrive(1, 100, 1000, 100);
    REQUIRE(dispatches.size() == 1);
    from = dispatches[0].decode;
    to = from == i1 ? i2 : i1;
  }
  void decode() { on(prefill_finished{first}); }
  std::string why_not(instance_id there) const {
    const auto key = core.movable(first.id, there);
    return key ? std::string{} : key.error().message;
  }
  std::vector<migrate> want(instance_id there) {
    std::vector<migrate> found;
    for (const auto& e : on(move_wanted{first, there}))
      if (const auto* m = std::get_if<migrate>(&e)) found.push_back(*m);
    return found;
  }
  instance_id from, to;
};

} // namespace

TEST_CASE("a move that is wanted is ordered once, and its end is accounted for") {
  desk d;
  d.decode();
  CHECK(d.why_not(d.to).empty());
  const auto orders = d.want(d.to);
  REQUIRE(orders.size() == 1);
  CHECK(orders[0].key == first);
  CHECK(orders[0].from == d.from);
  CHECK(orders[0].to == d.to);
  CHECK(d.why_not(d.to).find("is on its way to") != std::string::npos);
  CHECK(d.want(d.to).empty());
  SECTION("it moved") {
    d.on(moved{first, d.to});
    CHECK(d.why_not(d.to).find("decodes on " + to_string(d.to) + " already") != std::string::npos);
    CHECK(d.core.state().instances.at(d.from).outstanding == 0);
    CHECK(d.want(d.from).size() == 1);
  }
  SECTION("it stayed") {
    d.on(moved{first, d.from});
    CHECK(d.core.state().instances.at(d.to).outstanding == 0);
    CHECK(d.want(d.to).size() == 1);
  }
  SECTION("it ended") {
    d.on(request_ended{first, 5});
    d.on(moved{first, d.to});
    CHECK(d.core.state().instances.at(d.to).outstanding == 0);
  }
}

TEST_CASE("a move that cannot be is refused with the reason") {
  desk d;
  CHECK(d.why_not(d.to).find("prefill") != std::string::npos);
  CHECK(d.want(d.to).empty());
  d.decode();
  CHECK(d.why_not(d.from).find("already") != std::string::npos);
  CHECK(d.why_not(i3) == "no such instance: i3");
  d.instance(3, instance_role::prefill);
  CHECK(d.why_not(i3).find("does not decode") != std::string::npos);
  d.on(instance_draining{d.to});
  CHECK(d.why_not(d.to).find("draining") != std::string::npos);
  CHECK(d.want(d.to).empty());
  CHECK(d.core.movable(request_id{7}, d.to).error().message.find("r7 is not running") == 0);
}

} // namespace hflex::scheduler_moved_test
