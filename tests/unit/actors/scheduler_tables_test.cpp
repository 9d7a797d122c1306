// The tables that the scheduler's accounts are kept in, against plain ones through random changes.
#include "actors/common/id_map.hpp"
#include "actors/scheduler/arrival_line.hpp"
#include "actors/scheduler/policies/ranking.hpp"
#include "actors/scheduler/request_table.hpp"
#include "actors/scheduler/tpot_tiers.hpp"
#include "tests/support/catch.hpp"
#include <list>
#include <map>
#include <random>
#include <set>

namespace hflex::scheduler_tables_test {

using namespace hflex::scheduler;

TEST_CASE("an id map finds what a plain map finds through random changes") {
  std::mt19937_64 rng(1);
  std::map<std::uint64_t, std::uint32_t> plain;
  id_map ids;
  for (int i = 0; i < 50000; ++i) {
    // Few different keys, some of them neighbours and some far apart, so that they meet in the table.
    const auto key = rng() % 2 == 0 ? rng() % 300 : (rng() % 300) << 40U;
    const auto found = plain.find(key);
    REQUIRE(ids.find(key) == (found == plain.end() ? id_map::none : found->second));
    if (rng() % 2 == 0) {
      REQUIRE(ids.insert(key, static_cast<std::uint32_t>(i)) == (found == plain.end()));
      plain.emplace(key, static_cast<std::uint32_t>(i));
    } else {
      REQUIRE(ids.erase(key) == (found == plain.end() ? id_map::none : found->second));
      if (found != plain.end()) plain.erase(found);
    }
    REQUIRE(ids.size() == plain.size());
  }
}

TEST_CASE("a request table is walked in the order of keys, whatever came and went before") {
  std::mt19937_64 rng(2);
  std::map<request_key, int> plain;
  request_table<int> table;
  for (int round = 0; round < 400; ++round) {
    // Sometimes many changes between two walks, sometimes few.
    const auto changes = rng() % (round % 10 == 0 ? 500 : 20);
    for (std::uint64_t i = 0; i < changes; ++i) {
      const request_key key{{rng() % 400}, static_cast<std::uint32_t>(1 + rng() % 3)};
      if (const auto known = table.attempt_of(key.id)) {
        REQUIRE(plain.at(*known) == table.at(*known));
        REQUIRE(table.contains(key) == (key == *known));
        table.remove(*known);
        plain.erase(*known);
      } else {
        table.add(key, static_cast<int>(i));
        plain.emplace(key, static_cast<int>(i));
      }
    }
    REQUIRE(table.size() == plain.size());
    auto expected = plain.begin();
    for (const auto& [key, value] : table) {
      REQUIRE(key == expected->first);
      REQUIRE(value == expected->second);
      ++expected;
    }
    REQUIRE(expected == plain.end());
  }
}

TEST_CASE("a walk over a request table passes over what is removed meanwhile") {
  request_table<int> table;
  for (std::uint64_t id = 1; id <= 5; ++id) table.add({{id}, 1}, static_cast<int>(id));
  std::vector<int> seen;
  for (auto it = table.begin(); it != table.end(); ++it) {
    seen.push_back(it->second);
    if (it->second == 2) {
      table.remove({{3}, 1});
      table.add({{6}, 1}, 6); // came after the walk began
    }
  }
  CHECK(seen == std::vector<int>{1, 2, 4, 5});
}

TEST_CASE("values of a request table stay where they are") {
  request_table<int> table;
  std::map<std::uint64_t, const int*> places;
  for (std::uint64_t id = 1; id <= 1000; ++id) places[id] = &table.add({{id}, 1}, static_cast<int>(id));
  for (std::uint64_t id = 2; id <= 1000; id += 2) table.remove({{id}, 1});
  for (std::uint64_t id = 1; id <= 1000; id += 2) CHECK(&table.at({{id}, 1}) == places[id]);
}

TEST_CASE("those in line keep their order when others leave") {
  std::mt19937_64 rng(3);
  std::list<std::pair<std::uint64_t, std::uint32_t>> plain; // order, place
  arrival_line line;
  for (std::uint64_t order = 1; order < 5000; ++order) {
    if (plain.empty() || rng() % 100 < 55) {
      plain.emplace_back(order, line.join(order, {{order}, 1}));
    } else {
      const auto who = std::next(plain.begin(), static_cast<std::ptrdiff_t>(rng() % plain.size()));
      line.leave(who->second);
      plain.erase(who);
    }
    REQUIRE(line.size() == plain.size());
    if (order % 50 != 0) continue;
    auto it = line.begin();
    for (const auto& [expected, place] : plain) {
      REQUIRE(it->first == expected);
      REQUIRE((it++)->second.id.value == expected);
    }
    REQUIRE(it == line.end());
  }
}

TEST_CASE("a ranking is walked in the order of its numbers, equal ones by id") {
  std::mt19937_64 rng(4);
  std::map<std::uint32_t, double> plain; // by slot
  ranking order;
  for (int i = 0; i < 20000; ++i) {
    const auto slot = static_cast<std::uint32_t>(rng() % 200);
    if (rng() % 4 == 0) {
      order.drop(slot);
      plain.erase(slot);
    } else {
      const auto number = static_cast<double>(rng() % 50);
      order.set(slot, number, instance_id{1000 - slot});
      plain[slot] = number;
    }
    REQUIRE(order.size() == plain.size());
    if (i % 20 != 0) continue;
    std::vector<std::tuple<double, std::uint32_t, std::uint32_t>> sorted;
    for (const auto& [s, number] : plain) sorted.emplace_back(number, 1000 - s, s);
    std::sort(sorted.begin(), sorted.end());
    std::size_t seen = 0;
    order.walk(ranking::most_looks, [&](std::uint32_t s) { return s == std::get<2>(sorted[seen++]) && seen < 30; });
    REQUIRE(seen == std::min<std::size_t>(sorted.size(), 30));
  }
}

TEST_CASE("a walk through a ranking looks at nobody whom it has dropped") {
  for (std::uint32_t dropped = 1; dropped < 8; ++dropped) {
    ranking r;
    for (std::uint32_t slot = 0; slot < 8; ++slot) r.set(slot, slot, {slot + 1});
    std::set<std::uint32_t> seen;
    r.walk(8, [&](std::uint32_t slot) {
      CHECK(r.contains(slot));
      CHECK(seen.insert(slot).second);
      if (slot == 0) // the last places of the heap go, some of which come next
        for (std::uint32_t gone = 8 - dropped; gone < 8; ++gone) r.drop(gone);
      return true;
    });
    CHECK(seen.size() == 8 - dropped);
  }
}

TEST_CASE("the anchors of a TPOT tier stay sorted, and a tier goes with its last member") {
  tpot_tiers tiers;
  const auto at = [](int ms) { return time_point{std::chrono::milliseconds{ms}}; };
  for (int ms : {5, 1, 3, 3}) {
    tiers.join(from_ms(40));
    tiers.anchors_of(from_ms(40)).insert(at(ms));
  }
  tiers.join(from_ms(20));
  CHECK(tiers.begin()->first == from_ms(20)); // the tightest
  auto& anchors = tiers.anchors_of(from_ms(40));
  CHECK(std::vector<time_point>(anchors.begin(), anchors.end()) == std::vector<time_point>{at(1), at(3), at(3), at(5)});
  for (int ms : {3, 1, 5, 3}) {
    tiers.anchors_of(from_ms(40)).erase_one(at(ms));
    tiers.leave(from_ms(40));
  }
  CHECK(tiers.size() == 1);
  tiers.leave(from_ms(20));
  CHECK(tiers.empty());
}

} // namespace hflex::scheduler_tables_test
