// What a job's tokens are does not depend on where it runs.
#include "tests/system/cluster.hpp"

using namespace hflex::test;

namespace {

void check_equal_output(const std::string& compute) {
  auto jobs = some_jobs(10, 120);
  std::vector<json> together;
  {
    cluster one{{"collocated", compute, {"a"}, {}, {}}};
    together = one.submit(jobs);
  }
  check_all_finished(together, jobs.size());
  cluster two{{"disaggregated", compute, {"a", "b"}, {}, {}}};
  auto apart = two.submit(jobs);
  check_all_finished(apart, jobs.size());
  CHECK(tokens_of(apart) == tokens_of(together));
  for (const auto& j : together) CHECK(j["prefill_instance"] == j["decode_instance"]);
  for (const auto& j : apart) CHECK(j["prefill_instance"] != j["decode_instance"]);
  auto all = tokens_of(apart);
  CHECK(all[0] != all[1]); // the jobs differ, so that equal lists say something
}

} // namespace

TEST_CASE("a job's tokens come back as they are made, and again as a record") {
  cluster c{{"collocated", "f32", {"a"}, {}, {}}};
  std::vector<std::string> words{"submit", "-p", "It is a truth", "--max-tokens", "20", "--ignore-eos"};
  auto text = c.run(words);
  CHECK(text.code == 0);
  words.insert(words.end(), {"-o", "json"});
  auto record = c.run(words);
  REQUIRE(record.code == 0);
  auto j = json::parse(record.out);
  CHECK(j["outcome"] == "finished");
  CHECK(j["reason"] == "max_tokens");
  CHECK(j["token_ids"].size() == 20);
  CHECK(text.out == j["text"].get<std::string>() + "\n");
}

TEST_CASE("disaggregated serving gives the tokens of collocated serving in f32") { check_equal_output("f32"); }
TEST_CASE("disaggregated serving gives the tokens of collocated serving in bf16") { check_equal_output("bf16"); }
