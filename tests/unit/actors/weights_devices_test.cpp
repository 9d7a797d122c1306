// Weights from a device to devices of other hosts: who is gathered to be given them at once.
#include "actors/weights/weights.hpp"
#include "tests/unit/actors/effects_of.hpp"

namespace hflex::weights_devices_test {

using namespace hflex::weights;
using namespace std::chrono_literals;
using hflex::test::all;
using hflex::test::count;
using hflex::test::only;

namespace {

const std::vector<std::string> door{"weights:10.0.0.1:1"};

/// Node 1 has the weights; every node is a host of its own, with a device that takes them from others.
struct bench {
  core c{options{}};
  time_point now{1s};
  std::vector<effect> out{};

  bench() { on(held{{1}, "h1", "d", door, 100}); }
  template <class Event>
  std::vector<effect>& on(const Event& e, duration later = {}) {
    now += later;
    out.clear();
    c.on(e, now, out);
    return out;
  }
  /// Instance i on node i.
  void need(std::uint32_t i, const std::string& kind = "gpu/bf16", duration later = {}) {
    on(needed{{i}, {i}, "h" + std::to_string(i), "d", "/m", "stamp", door, kind}, later);
  }
  /// What is given when the window of the first is over.
  std::vector<give_to_devices> given(duration later = 50ms) { return all<give_to_devices>(on(tick{}, later)); }
};

std::vector<receiver> first_attempts(std::initializer_list<std::uint32_t> instances) {
  std::vector<receiver> out;
  for (const auto i : instances) out.push_back({{i}, 1});
  return out;
}

} // namespace

TEST_CASE("devices of newcomers that come at about the same time are given weights at once, by who has them all") {
  bench b;
  b.need(2);
  CHECK(only<load_from>(b.out).from.holder == node_id{1});
  CHECK(only<wake_at>(b.out).time == b.now + 50ms);
  CHECK(count<give_to_devices>(b.out) == 0);
  b.need(3, "gpu/bf16", 30ms);
  CHECK(only<load_from>(b.out).from.holder == node_id{2}); // the host's copy
  CHECK(b.given(19ms).empty());
  const auto give = b.given(1ms);
  REQUIRE(give.size() == 1);
  CHECK(give[0].holder == node_id{1});
  CHECK(give[0].digest == "d");
  CHECK(give[0].kind == "gpu/bf16");
  CHECK(give[0].to == first_attempts({2, 3}));
  CHECK(b.given().empty()); // once
  b.need(4);
  CHECK(b.given()[0].to == first_attempts({4})); // too late for that group
}

TEST_CASE("only devices that take the same are given weights together, and others not at all") {
  bench b;
  b.need(2);
  b.need(3, "gpu/f16");
  b.need(4, "");
  b.need(5);
  const auto give = b.given();
  REQUIRE(give.size() == 2);
  CHECK(give[0].to == first_attempts({2, 5}));
  CHECK(give[1].to == first_attempts({3}));
  CHECK(give[1].kind == "gpu/f16");
}

TEST_CASE("who does not come any more is not waited for") {
  bench b;
  b.need(2);
  b.need(3);
  b.need(4);
  b.on(not_needed{{2}});
  b.on(node_gone{{3}});
  const auto give = b.given();
  REQUIRE(give.size() == 1);
  CHECK(give[0].to == std::vector<receiver>{{{4}, 2}}); // its copy's source is another one by now
}

TEST_CASE("who was in a group before is in none with others, because it may not come") {
  bench b;
  b.need(2);
  b.need(3);
  CHECK(b.given()[0].to == first_attempts({2, 3}));
  b.on(held{{9}, "h9", "d", door, 100});
  b.on(failed{{2}, 1, "the line broke"});
  CHECK(only<load_from>(b.out).from.holder == node_id{9});
  b.need(4);
  const auto give = b.given();
  REQUIRE(give.size() == 2);
  CHECK(give[0].to == std::vector<receiver>{{{2}, 2}});
  CHECK(give[1].to == first_attempts({4}));
}

TEST_CASE("a group has a bound, and the one whose time is over is in the first") {
  bench b;
  b.need(40);
  b.need(10, "gpu/bf16", 10ms);
  for (std::uint32_t i = 11; i <= 30; ++i) b.need(i);
  const auto give = b.given(40ms);
  REQUIRE(give.size() == 1);
  CHECK(give[0].to.size() == 16);
  CHECK(give[0].to.front() == receiver{{40}, 1});
  const auto rest = b.given(10ms);
  REQUIRE(rest.size() == 1);
  CHECK(rest[0].to.size() == 6);
}

TEST_CASE("an instance that takes the disk, or shares memory, has no device that is given anything") {
  bench b;
  b.on(needed{{2}, {2}, "h2", "other", "/m", "stamp", door, "gpu/bf16"});
  CHECK(only<load_from>(b.out).from.kind == source_kind::disk);
  b.on(needed{{3}, {3}, "h1", "d", "/m", "stamp", door, "gpu/bf16"});
  CHECK(only<load_from>(b.out).from.kind == source_kind::shared_memory);
  CHECK(b.given().empty());
}

} // namespace hflex::weights_devices_test
