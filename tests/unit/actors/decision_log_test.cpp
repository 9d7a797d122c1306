// What the scheduler remembers of requests for people, and how a waiting one stands.
#include "actors/scheduler/decision_log.hpp"
#include "actors/scheduler/standing.hpp"
#include "tests/support/scheduler_desk.hpp"

namespace hflex::decision_log_test {

using scheduler::decision_log;
using scheduler::happening_kind;
using test::scheduler_desk;

namespace {

constexpr time_point at(std::int64_t ms) { return time_point{std::chrono::milliseconds{ms}}; }

std::vector<happening_kind> kinds(const scheduler::request_story* story) {
  std::vector<happening_kind> out;
  REQUIRE(story != nullptr);
  for (const auto& h : story->happenings) out.push_back(h.what);
  return out;
}

scheduler::options small_log(std::uint32_t capacity) {
  scheduler::options o;
  o.max_explained = capacity;
  return o;
}

using kind = happening_kind;

} // namespace

TEST_CASE("the log remembers the latest requests and forgets those before them") {
  decision_log log(3);
  for (std::uint64_t id = 1; id <= 5; ++id) log.arrive({{id}, 1}, at(0), {}, at(1), "came");
  CHECK(log.find({1}) == nullptr);
  CHECK(log.find({2}) == nullptr);
  for (std::uint64_t id = 3; id <= 5; ++id) {
    REQUIRE(log.find({id}) != nullptr);
    CHECK(log.find({id})->id == request_id{id});
  }
  log.add({{2}, 1}, kind::ended, at(2)); // its place is another's by now
  CHECK(log.find({5})->happenings.size() == 1);
  CHECK(log.find({6}) == nullptr);
}

TEST_CASE("a slot that was never used is nobody's story") {
  decision_log log(8);
  log.arrive({{5}, 1}, at(0), {}, at(0), {});
  CHECK(log.find({0}) == nullptr);
  log.add({{0}, 1}, kind::ended, at(1));
  CHECK(log.find({0}) == nullptr);
  CHECK(log.find({2}) == nullptr);
}

TEST_CASE("a story keeps its beginning and its latest happenings, and counts what it left out") {
  decision_log log(1);
  log.arrive({{7}, 1}, at(0), {}, at(0), {});
  constexpr std::uint32_t more = 100;
  for (std::uint32_t i = 1; i <= more; ++i) log.add({{7}, i}, kind::demoted, at(i));
  const auto* story = log.find({7});
  REQUIRE(story->happenings.size() == decision_log::most_happenings);
  CHECK(story->omitted == more + 1 - decision_log::most_happenings);
  CHECK(story->happenings.front().what == kind::arrived);
  CHECK(story->happenings.back().attempt == more);
}

TEST_CASE("a log of no capacity takes everything and knows nothing") {
  decision_log log(0);
  log.arrive({{1}, 1}, at(0), {}, at(0), {});
  log.add({{1}, 1}, kind::ended, at(1));
  CHECK_FALSE(log.on());
  CHECK(log.find({1}) == nullptr);
}

TEST_CASE("the story of a request that finds its place at once: arrived, dispatched, first token, ended") {
  scheduler_desk desk;
  desk.instance(1);
  desk.arrive(1, 100, 1000, 50);
  desk.now += std::chrono::milliseconds{30};
  desk.finish_prefill(1);
  desk.end(1, 12);
  const auto* story = desk.core.story({1});
  CHECK(kinds(story) == std::vector{kind::arrived, kind::dispatched, kind::first_token, kind::ended});
  CHECK(story->happenings[0].why.text().find("100 prompt tokens") != std::string::npos);
  CHECK(story->happenings[1].prefill == instance_id{1});
  CHECK(story->happenings[1].decode == instance_id{1});
  CHECK(story->happenings[1].why.text().find("due in 1000 ms") != std::string::npos);
  CHECK(story->happenings[2].at - story->arrival == std::chrono::milliseconds{30});
  CHECK(story->happenings[3].why.text().find("12 output tokens") != std::string::npos);
}

TEST_CASE("a request that waits is told its band, its place and what keeps it from each instance") {
  scheduler_desk desk;
  desk.instance(1);
  desk.instance(2, instance_role::decode);
  desk.arrive(1, 2000, 5000, 50);
  desk.arrive(2, 2000, 5000, 50);
  desk.arrive(3, 100, 9000, 50);
  REQUIRE_FALSE(desk.was_dispatched(3));
  CHECK(kinds(desk.core.story({3})) == std::vector{kind::arrived, kind::queued});
  CHECK_FALSE(desk.core.explain({1}, desk.now));
  const auto stands = desk.core.explain({3}, desk.now);
  REQUIRE(stands);
  CHECK(stands->band == "planned");
  CHECK(stands->of == desk.core.state().waiting.size());
  CHECK(stands->position == stands->of); // its deadline is the last
  CHECK(stands->due - desk.now == std::chrono::milliseconds{9000});
  REQUIRE(stands->latest_start);
  CHECK(*stands->latest_start < stands->due);
  REQUIRE(stands->obstacles.size() == 2);
  CHECK(stands->obstacles[0].instance == instance_id{1});
  CHECK(stands->obstacles[0].why.find("prefill tokens that go before it") != std::string::npos);
  CHECK(stands->obstacles[1].why.find("decode") != std::string::npos);
}

TEST_CASE("asking how requests stand changes no decision") {
  const auto orders = [](bool ask) {
    scheduler_desk desk;
    desk.instance(1);
    desk.instance(2);
    for (std::uint64_t id = 1; id <= 40; ++id) {
      desk.arrive(id, 100 + 37 * (id % 7), 300.0 + 50.0 * static_cast<double>(id % 5), 40);
      if (ask)
        for (std::uint64_t other = 1; other <= id; ++other) desk.core.explain({other}, desk.now);
      desk.step(1, 60);
      desk.step(2, 60);
    }
    return desk.order();
  };
  CHECK(orders(true) == orders(false));
}

TEST_CASE("a request that is demoted to save others is told so, and once") {
  scheduler_desk desk;
  desk.instance(1);
  desk.arrive(1, 3000, 400, 1000); // has the instance for 300 ms
  desk.arrive(2, 4000, 900, 1000); // could be in time alone
  REQUIRE_FALSE(desk.was_dispatched(2));
  for (std::uint64_t id = 3; id <= 6; ++id) desk.arrive(id, 1000, 910, 1000); // but not with these
  const auto story = kinds(desk.core.story({2}));
  CHECK(std::count(story.begin(), story.end(), kind::demoted) == 1);
  const auto stands = desk.core.explain({2}, desk.now);
  REQUIRE(stands);
  CHECK(stands->band == "demoted");
  for (const auto& h : desk.core.story({2})->happenings)
    if (h.what == kind::demoted) CHECK(h.why.text().find("4000 prefill tokens") != std::string::npos);
}

TEST_CASE("a request that is turned away has the reason in its story") {
  scheduler_desk desk;
  desk.instance(1, instance_role::mixed, 4);
  desk.arrive(1, 1000, 1000, 50);
  CHECK(kinds(desk.core.story({1})) == std::vector{kind::arrived, kind::shed});
  CHECK(desk.core.story({1})->happenings.back().why.text() == desk.shed_reason(1));
}

TEST_CASE("a later attempt goes on with the story, and an instance's end is part of it") {
  scheduler_desk desk;
  desk.instance(1);
  desk.arrive(1, 100, 1000, 50);
  desk.on(scheduler::instance_gone{{1}});
  auto again = scheduler_desk::request(1, 110, 1000, 50);
  again.key.attempt = 2;
  again.produced = 10;
  desk.arrive(again);
  const auto* story = desk.core.story({1});
  CHECK(kinds(story) == std::vector{kind::arrived, kind::dispatched, kind::lost, kind::arrived, kind::queued});
  CHECK(story->happenings.back().attempt == 2);
  CHECK(story->happenings[2].why.text() == "i1 is gone");
}

TEST_CASE("a move is in the story with where it went, or that it stayed") {
  scheduler_desk desk;
  desk.instance(1);
  desk.instance(2);
  desk.arrive(1, 100, 1000, 50);
  desk.settle(1);
  const instance_id from{desk.place_of(1)}, to{3 - from.value};
  desk.on(scheduler::move_wanted{{{1}, 1}, to});
  desk.on(scheduler::moved{{{1}, 1}, from});
  desk.on(scheduler::move_wanted{{{1}, 1}, to});
  desk.on(scheduler::moved{{{1}, 1}, to});
  const auto* story = desk.core.story({1});
  CHECK(kinds(story) == std::vector{kind::arrived, kind::dispatched, kind::first_token, kind::moving, kind::stayed,
                            kind::moving, kind::moved});
  CHECK(story->happenings[3].why.text() == "on request");
  CHECK(story->happenings.back().decode == to);
}

TEST_CASE("a scheduler that remembers nothing decides the same") {
  const auto orders = [](std::uint32_t capacity) {
    scheduler_desk desk(small_log(capacity));
    desk.instance(1);
    for (std::uint64_t id = 1; id <= 30; ++id) {
      desk.arrive(id, 300, 400, 40);
      desk.step(1, 200);
    }
    return desk.order();
  };
  CHECK(orders(0) == orders(4));
}

} // namespace hflex::decision_log_test
