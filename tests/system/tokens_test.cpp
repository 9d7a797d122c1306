// What a job's tokens are does not depend on where it runs.
#include "tests/system/cluster.hpp"

namespace hflex::test::tokens_test {

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

/// The tokens of the jobs when they are submitted a second time. Nothing of the first time shows in them.
std::vector<std::vector<int>> tokens_again(const cluster& c, const std::vector<job>& jobs, bool cached) {
  constexpr unsigned block_size = 16;
  auto first = c.submit(jobs);
  check_all_finished(first, jobs.size());
  auto again = c.submit(jobs);
  check_all_finished(again, jobs.size());
  CHECK(tokens_of(again) == tokens_of(first));
  unsigned spared = 0;
  for (const auto& j : again) {
    auto whole_blocks = (j["prompt_tokens"].get<unsigned>() - 1) / block_size * block_size;
    CHECK(j["cached_prompt_tokens"] == (cached ? whole_blocks : 0));
    spared += j["cached_prompt_tokens"].get<unsigned>();
  }
  CHECK((spared > 0) == cached);
  return tokens_of(again);
}

void check_cache_changes_no_token(const std::string& compute) {
  auto jobs = some_jobs(10, 60);
  auto show_hits = [](cluster& c, const std::string& role) {
    c.until("prefix hits", [&](const json& t) { return instance_of_role(t, role).value("prefix_hit_ratio", 0.0) > 0; });
  };
  cluster without{{"collocated", compute, {"a"}, {"HFLEX_INSTANCE_PREFIX_CACHE=false"}, {}}};
  auto expected = tokens_again(without, jobs, false);
  cluster one{{"collocated", compute, {"a"}, {}, {}}};
  CHECK(tokens_again(one, jobs, true) == expected);
  show_hits(one, "mixed");
  cluster two{{"disaggregated", compute, {"a", "b"}, {}, {}}};
  CHECK(tokens_again(two, jobs, true) == expected);
  show_hits(two, "prefill");
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

TEST_CASE("a prompt that is cached gives the tokens of one that is not, in f32") {
  check_cache_changes_no_token("f32");
}
TEST_CASE("a prompt that is cached gives the tokens of one that is not, in bf16") {
  check_cache_changes_no_token("bf16");
}

} // namespace hflex::test::tokens_test
