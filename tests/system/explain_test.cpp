// `hflex explain` against real processes.
#include "tests/system/cluster.hpp"

namespace hflex::test::explain_test {

TEST_CASE("explain tells why a job was placed, and how it ended against its targets") {
  cluster c{{"collocated", "f32", {"a"}, {}, {}}};
  check_all_finished(c.submit(some_jobs(3, 20)), 3);
  auto told = c.run({"explain", "r1", "-o", "json"});
  REQUIRE(told.code == 0);
  const auto story = json::parse(told.out);
  CHECK(story["id"] == "r1");
  CHECK(story["waiting"].is_null());
  std::vector<std::string> words;
  double last = 0;
  for (const auto& h : story["happenings"]) {
    words.push_back(h["what"]);
    CHECK(h["after_ms"] >= last);
    last = h["after_ms"];
  }
  REQUIRE(words.size() >= 4);
  CHECK(words.front() == "arrived");
  CHECK(words[words.size() - 3] == "dispatched");
  CHECK(words[words.size() - 2] == "first_token");
  CHECK(words.back() == "ended");
  CHECK(story["happenings"][words.size() - 3]["prefill_instance"] == "i1");
  CHECK_FALSE(story["happenings"][words.size() - 3]["why"].get<std::string>().empty());
  CHECK(story["job"]["outcome"] == "finished");
  CHECK(story["job"]["ttft_ms"] > 0);
  CHECK(story["job"]["ttft_target_ms"] == story["ttft_target_ms"]);

  auto text = c.run({"explain", "1"});
  CHECK(text.code == 0);
  check_says(text.out, {"r1 ", "finished", "TTFT", "dispatched", "i1"});
}

TEST_CASE("explain tells what a waiting job waits for") {
  cluster c{{"collocated", "f32", {}, {}, {}}}; // a head alone
  auto detached = c.run({"submit", "--detach", "-p", "Emma", "--max-tokens", "5"});
  REQUIRE(detached.code == 0);
  auto told = c.run({"explain", "r1", "-o", "json"});
  REQUIRE(told.code == 0);
  const auto story = json::parse(told.out);
  REQUIRE(story["waiting"].is_object());
  CHECK(story["waiting"]["position"] == 1);
  CHECK(story["waiting"]["waits_for"].empty());
  CHECK(story["job"]["state"] == "queued");
}

TEST_CASE("explain tells why the fleet changed, and what it does not know") {
  cluster c{{"collocated", "f32", {"a"}, {}, {}}};
  auto scaling = c.run({"explain", "--scaling", "-o", "json"});
  REQUIRE(scaling.code == 0);
  CHECK_FALSE(json::parse(scaling.out)["decisions"].empty());
  auto unknown = c.run({"explain", "r99"});
  CHECK(unknown.code == 1);
  check_says(unknown.err, {"r99"});
  CHECK(c.run({"explain", "x"}).code == 2);
  CHECK(c.run({"explain"}).code == 2);
}

} // namespace hflex::test::explain_test
