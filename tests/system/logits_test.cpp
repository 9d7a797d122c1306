// `hflex model logits`: numbers for a text, and what is said when they cannot be had.
#include "tests/system/cluster.hpp"
#include <algorithm>

namespace hflex::test::logits_test {

TEST_CASE("logits of a text come with its greedy continuation, whole or the largest") {
  const auto golden = json::parse(slurp(demo_model() + "/golden.json"))["model_cases"][0];
  const std::vector<std::string> words{"model", "logits", demo_model(), "-p", golden["prompt"].get<std::string>(),
      "--compute", "f32", "--generate", "5", "-o", "json"};
  auto largest = run_hflex(words);
  REQUIRE(largest.code == 0);
  const auto few = json::parse(largest.out);
  CHECK(few["tokens"] == golden["prompt_ids"]);
  for (std::size_t i = 0; i < 5; ++i) {
    CHECK(few["continuation"][i] == golden["greedy_ids"][i]);
    CHECK(few["rows"][i]["top"][0]["token"] == golden["greedy_ids"][i]);
  }
  auto more = words;
  more.emplace_back("--all");
  const auto row = json::parse(run_hflex(more).out)["rows"][0]["logits"].get<std::vector<double>>();
  CHECK(row.size() == 2048);
  CHECK(std::max_element(row.begin(), row.end()) - row.begin() == golden["greedy_ids"][0].get<std::ptrdiff_t>());
}

TEST_CASE("logits without a text, of unknown tokens or past the model's context are usage errors in words") {
  auto nothing = run_hflex({"model", "logits", demo_model()});
  CHECK(nothing.code == 2);
  check_says(nothing.err, {"-p", "--tokens"});
  auto unknown = run_hflex({"model", "logits", demo_model(), "--tokens", "1,99999"});
  CHECK(unknown.code == 2);
  check_says(unknown.err, {"99999"});
  auto beyond = run_hflex({"model", "logits", demo_model(), "-p", "It", "--generate", "2000"});
  CHECK(beyond.code == 2);
  check_says(beyond.err, {"1024"});
}

} // namespace hflex::test::logits_test
