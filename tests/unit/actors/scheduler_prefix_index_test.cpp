#include "actors/scheduler/prefix_index.hpp"
#include "tests/support/catch.hpp"
#include <random>
#include <set>

namespace hflex::scheduler_prefix_index_test {

using namespace hflex::scheduler;
using hit = prefix_index::hit;

namespace {

constexpr instance_id one{1}, two{2}, three{3};

/// Marks of a text of so many marks whose first `shared` are those of every other text.
std::vector<prefix_mark> text(std::uint64_t own, std::size_t marks, std::size_t shared = 0) {
  std::vector<prefix_mark> all(marks);
  for (std::size_t i = 0; i < marks; ++i) all[i] = (i < shared ? 0 : own) * 1000 + i + 1;
  return all;
}

} // namespace

TEST_CASE("an instance is believed to have what was sent there, as far as the texts agree") {
  prefix_index index;
  index.add(one, 100'000);
  index.add(two, 100'000);
  index.learn(one, text(7, 5, 2));
  index.learn(two, text(8, 9, 2));
  CHECK(index.find(text(7, 5, 2)) == std::vector<hit>{{one, 320}, {two, 128}});
  CHECK(index.find(text(9, 3, 2)) == std::vector<hit>{{one, 128}, {two, 128}});
  CHECK(index.find(text(9, 3)).empty());
  CHECK(index.find({}).empty());
}

TEST_CASE("the least recently used text is forgotten first, its end before its beginning") {
  prefix_index index;
  index.add(one, 640); // ten marks
  index.learn(one, text(1, 4));
  index.learn(one, text(2, 4));
  index.learn(one, text(1, 4)); // used again
  index.learn(one, text(3, 4));
  CHECK(index.find(text(1, 4)) == std::vector<hit>{{one, 256}});
  CHECK(index.find(text(2, 4)) == std::vector<hit>{{one, 128}});
  CHECK(index.find(text(3, 4)) == std::vector<hit>{{one, 256}});
}

TEST_CASE("what an instance turned out not to have is forgotten") {
  prefix_index index;
  index.add(one, 100'000);
  index.learn(one, text(1, 8));
  index.correct(one, text(1, 8), 200);
  CHECK(index.find(text(1, 8)) == std::vector<hit>{{one, 192}});
  index.correct(one, text(1, 8), 0);
  CHECK(index.find(text(1, 8)).empty());
}

TEST_CASE("an instance that is gone, or begins anew, has nothing") {
  prefix_index index;
  index.add(one, 100'000);
  index.add(two, 100'000);
  index.learn(one, text(1, 2));
  index.learn(two, text(1, 2));
  index.learn(three, text(1, 2)); // never heard of
  index.remove(one);
  CHECK(index.find(text(1, 2)) == std::vector<hit>{{two, 128}});
  index.add(two, 100'000);
  CHECK(index.find(text(1, 2)).empty());
}

TEST_CASE("a long random history agrees with a plain table of what each instance has") {
  std::mt19937 random(5);
  prefix_index index;
  std::map<instance_id, std::set<prefix_mark>> has; // nothing is evicted: pools are larger than everything
  for (auto id : {one, two, three}) index.add(id, 1U << 30U);
  for (int round = 0; round < 2000; ++round) {
    const auto at = instance_id{1 + static_cast<std::uint32_t>(random() % 3)};
    const auto marks = text(random() % 20, 1 + random() % 30, random() % 10);
    switch (random() % 4) {
    case 0: {
      const auto kept = static_cast<std::uint32_t>(random() % 1500);
      index.correct(at, marks, kept);
      for (std::size_t i = 0; i < marks.size(); ++i)
        if (mark_length(i) > kept) has[at].erase(marks[i]);
      break;
    }
    default:
      index.learn(at, marks);
      has[at].insert(marks.begin(), marks.end());
    }
    std::vector<hit> expected;
    for (const auto& [id, of] : has) {
      std::size_t n = 0;
      while (n < marks.size() && of.contains(marks[n])) ++n;
      if (n > 0) expected.push_back({id, mark_length(n - 1)});
    }
    REQUIRE(index.find(marks) == expected);
  }
}

} // namespace hflex::scheduler_prefix_index_test
