// Weights between hosts: who takes from whom, and what happens when sources die.
#include "actors/weights/weights.hpp"
#include "tests/unit/actors/effects_of.hpp"
#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace hflex::weights_network_test {

using namespace hflex::weights;
using namespace std::chrono_literals;
using hflex::test::all;
using hflex::test::count;
using hflex::test::only;

namespace {

const std::vector<std::string> door{"shm:x", "weights:10.0.0.1:1"};

std::string host_of(node_id n) { return "h" + std::to_string(n.value); }

/// Every node is a host of its own, unless told otherwise.
struct bench {
  core c{options{}};
  time_point now{1s};
  std::vector<effect> out{};

  template <class Event>
  std::vector<effect>& on(const Event& e, duration later = {}) {
    now += later;
    out.clear();
    c.on(e, now, out);
    return out;
  }
  /// Instance i on node i.
  std::vector<effect>& need(std::uint32_t i, const std::string& digest = "d", const std::string& directory = "/m") {
    return on(needed{{i}, {i}, host_of({i}), digest, directory, "stamp", door});
  }
  void hold(std::uint32_t n) { on(held{{n}, host_of({n}), "d", door, 100}); }
  source sent() { return only<load_from>(out).from; }
};

} // namespace

TEST_CASE("memory of another host comes before the disk and after memory of this one") {
  bench b;
  b.hold(1);
  b.need(2);
  CHECK(b.sent().kind == source_kind::network);
  CHECK(b.sent().holder == node_id{1});
  CHECK(b.sent().endpoints == door);
  b.on(held{{9}, host_of({3}), "d", door, 100});
  b.need(3);
  CHECK(b.sent().kind == source_kind::shared_memory);
  b.on(held{{8}, "h8", "d", {"shm:y"}, 100}); // cannot be reached from elsewhere
  b.need(4, "other");
  CHECK(b.sent().kind == source_kind::disk);
}

TEST_CASE("newcomers at once form a chain: each takes from the one before while that still receives") {
  bench b;
  b.hold(1);
  for (std::uint32_t i = 2; i <= 9; ++i) {
    b.need(i);
    CHECK(b.sent().kind == source_kind::network);
    CHECK(b.sent().holder == node_id{i - 1});
  }
}

TEST_CASE("a source that was seen to give fast feeds several, a slow one nobody while there are others") {
  bench b;
  b.hold(1);
  b.need(2);
  b.on(loaded{{2}, 1, "d", door, 8'000'000'000}, 1s); // 8 GB/s from node 1
  b.hold(3);
  b.need(4);
  CHECK(b.sent().holder == node_id{1});
  b.need(5);
  CHECK(b.sent().holder == node_id{1}); // half of it is still more than what an unknown one is taken to give
  b.on(loaded{{4}, 1, "d", door, 1000}, 100s);
  b.on(loaded{{5}, 1, "d", door, 1000}, 100s); // it has become slow
  for (int i = 0; i < 12; ++i) {
    b.need(6);
    if (b.sent().holder != node_id{1}) break;
    b.on(loaded{{6}, 1, "d", door, 1000}, 100s);
    b.on(released{{6}, "d"});
  }
  CHECK(b.sent().holder != node_id{1});
}

TEST_CASE("a newcomer never takes from one that it feeds itself") {
  bench b;
  b.hold(1);
  b.need(2);
  b.need(3);
  REQUIRE(b.sent().holder == node_id{2});
  b.on(failed{{2}, 1, "broken"}); // 3 is fed by 2: it cannot feed 2
  auto loads = all<load_from>(b.out);
  REQUIRE(loads.size() == 2);
  CHECK(loads[0].instance == instance_id{2});
  CHECK(loads[0].from.kind == source_kind::disk);
  CHECK(loads[1].from.holder == node_id{1});
}

TEST_CASE("a source that dies midway is replaced for all it fed, and the chain below stays") {
  bench b;
  b.hold(1);
  b.hold(20);
  b.need(2);
  b.need(3);
  b.need(4);
  auto before = b.c.loads();
  b.on(node_gone{{2}});
  REQUIRE(count<load_from>(b.out) == 1); // whoever took from 2
  auto again = only<load_from>(b.out);
  CHECK(count<stop_load>(b.out) == 1);
  CHECK(again.from.kind == source_kind::network);
  CHECK(again.from.holder != node_id{2});
  CHECK(again.attempt == 2);
}

TEST_CASE("a newcomer that goes to the disk or is stopped feeds nobody any more") {
  bench b;
  b.hold(1);
  b.need(2);
  b.need(3);
  REQUIRE(b.sent().holder == node_id{2});
  SECTION("stopped") {
    b.on(not_needed{{2}});
    CHECK(b.sent().holder == node_id{1});
  }
  SECTION("to the disk") {
    b.on(failed{{2}, 1, "refused"});
    auto loads = all<load_from>(b.out);
    REQUIRE(loads.size() == 2);
    CHECK(loads[0].from.kind == source_kind::disk);
    CHECK(loads[1].instance == instance_id{3});
    CHECK(loads[1].from.holder == node_id{1});
  }
  SECTION("it finished: nothing changes") {
    b.on(loaded{{2}, 1, "d", door, 100});
    CHECK(count<load_from>(b.out) == 0);
    CHECK(count<stop_load>(b.out) == 0);
  }
}

TEST_CASE("of several newcomers of one host one takes the network, the others its memory") {
  bench b;
  b.hold(1);
  b.on(needed{{2}, {2}, "shared", "d", "/m", "s", door});
  CHECK(b.sent().kind == source_kind::network);
  b.on(needed{{3}, {3}, "shared", "d", "/m", "s", door});
  CHECK(count<load_from>(b.out) == 0);
  b.on(loaded{{2}, 1, "d", door, 100});
  CHECK(b.sent().kind == source_kind::shared_memory);
}

TEST_CASE("a host that has not read the directory takes what others found there, one whose files changed does not") {
  bench b;
  b.need(1, "");
  CHECK(b.sent().kind == source_kind::disk);
  b.on(loaded{{1}, 1, "d", door, 100});
  b.need(2, "");
  CHECK(b.sent().kind == source_kind::network);
  CHECK(b.sent().digest == "d");
  b.need(3, "", "/other");
  CHECK(b.sent().kind == source_kind::disk);
  b.on(needed{{4}, {4}, host_of({1}), "", "/m", "changed", door});
  CHECK(b.sent().kind == source_kind::disk);
  CHECK(b.sent().digest.empty());
  b.on(loaded{{4}, 1, "d2", door, 100});
  b.need(5, "");
  CHECK(b.sent().digest == "d2"); // what was found last
  b.on(failed{{5}, 1, "broken"});
  b.on(node_gone{{1}});
  b.on(node_gone{{4}});
  b.need(6, ""); // nobody is left who has it: whatever its own disk holds
  CHECK(b.sent().kind == source_kind::disk);
  CHECK(b.sent().digest.empty());
}

TEST_CASE("whatever dies, chunks reach every newcomer whose host lives, and nobody is fed by who is fed by it") {
  for (std::uint32_t seed = 1; seed <= 60; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(seed);
    auto pick = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
    constexpr std::uint64_t size = 40;
    struct puller {
      load_from order;
      std::uint64_t have{};
    };
    bench b;
    std::map<node_id, std::uint64_t> have; // chunks of a node; stays through changes of source
    std::map<instance_id, puller> pulls;
    std::set<node_id> dead;
    std::map<node_id, bool> whole;
    std::uint32_t ready_count = 0, gave_up = 0, disk = 0, newcomers = 12;
    auto look = [&] {
      for (auto& x : b.out) {
        if (auto* stop = std::get_if<stop_load>(&x)) pulls.erase(stop->instance);
        if (auto* load = std::get_if<load_from>(&x)) pulls[load->instance] = {*load};
        if (std::get_if<ready>(&x)) ++ready_count;
        if (std::get_if<give_up>(&x)) ++gave_up;
      }
      for (auto& [id, p] : pulls) { // no circle
        auto at = p.order.from.holder;
        for (std::size_t steps = 0; at; ++steps) {
          REQUIRE(steps <= newcomers);
          REQUIRE(at != node_id{id.value});
          auto up = pulls.find({at.value});
          if (up == pulls.end()) break;
          at = up->second.order.from.holder;
        }
      }
    };
    for (std::uint32_t n : {101U, 102U, 103U}) {
      b.hold(n);
      whole[{n}] = true;
      have[{n}] = size;
    }
    for (std::uint32_t i = 1; i <= newcomers; ++i) {
      b.need(i);
      look();
    }
    for (int step = 0; step < 4000 && ready_count + gave_up + dead.size() < newcomers + 3; ++step) {
      b.now += 10ms;
      if (pick(25) == 0 && dead.size() < 5) { // a node dies, a holder too, but not the last one
        node_id n{pick(2) ? 1 + pick(newcomers) : 101 + pick(2)};
        if (dead.insert(n).second) {
          pulls.erase({n.value});
          whole.erase(n);
          have.erase(n);
          b.on(node_gone{n});
          look();
        }
      }
      if (pulls.empty()) continue;
      auto it = std::next(pulls.begin(), pick(static_cast<std::uint32_t>(pulls.size())));
      auto id = it->first;
      auto order = it->second.order;
      node_id mine{id.value};
      auto& got = have[mine];
      if (order.from.kind == source_kind::disk) {
        got = size;
        ++disk;
      } else {
        REQUIRE(dead.count(order.from.holder) == 0);
        got = std::max(got, std::min(have[order.from.holder], got + 1 + pick(4)));
      }
      b.on(progress{id, order.attempt, got, size});
      if (got == size) {
        pulls.erase(id);
        whole[mine] = true;
        b.on(loaded{id, order.attempt, "d", door, size});
        look();
      }
    }
    CHECK(gave_up == 0);
    CHECK(disk == 0); // a whole copy was alive all the time
    std::uint32_t alive = 0;
    for (std::uint32_t i = 1; i <= newcomers; ++i) alive += whole.count({i}) > 0 ? 1 : 0;
    std::uint32_t lost = 0;
    for (auto n : dead) lost += n.value <= newcomers ? 1 : 0;
    CHECK(alive == newcomers - lost);
    CHECK(b.c.loads().empty());
  }
}

} // namespace hflex::weights_network_test
