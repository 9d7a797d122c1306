// Logits along a text and its greedy continuation, as `hflex model logits` shows them.
#include "gpu/model/logits.hpp"
#include "tests/unit/gpu/engine_fixture.hpp"

namespace hflex::logits_test {

using namespace hflex::test;

TEST_CASE("logits and greedy tokens are the reference's, at the end of a text and after it", "[numbers]") {
  auto engine = make_engine(engine_options(gpu::compute_type::f32));
  for (const auto& golden : golden_cases()) {
    const auto prompt = golden.at("prompt_ids").get<tokens>();
    const auto expected = golden.at("greedy_ids").get<tokens>();
    const auto count = static_cast<std::uint32_t>(expected.size());
    const auto answer = gpu::logits_of(*engine, {prompt, 1, count});
    if (!answer) FAIL(answer.error().message);
    CHECK(answer->continuation == expected);
    REQUIRE(answer->rows.size() == std::max(count, 1U));
    CHECK(answer->rows[0].position == prompt.size() - 1);
    CHECK(relative_difference(answer->rows[0].logits, golden.at("last_logits").get<logit_row>()) < 1e-3);
    for (std::size_t i = 0; i < expected.size(); ++i) CHECK(answer->rows[i].best == expected[i]);
  }
}

TEST_CASE("rows along a given text are those of the text's own continuation, bit for bit") {
  auto engine = make_engine(engine_options(gpu::compute_type::bf16));
  const auto prompt = golden_cases()[0].at("prompt_ids").get<tokens>();
  const auto free = gpu::logits_of(*engine, {prompt, 1, 20});
  REQUIRE(free);
  auto text = prompt;
  text.insert(text.end(), free->continuation.begin(), free->continuation.end() - 1);
  const auto led = gpu::logits_of(*engine, {text, 20, 0});
  REQUIRE(led);
  CHECK(led->continuation.empty());
  REQUIRE(led->rows.size() == 20);
  for (std::size_t i = 0; i < 20; ++i) {
    CHECK(led->rows[i].position == free->rows[i].position);
    CHECK(led->rows[i].logits == free->rows[i].logits);
  }
}

TEST_CASE("texts that have no such rows are refused") {
  auto engine = make_engine(engine_options(gpu::compute_type::f32));
  CHECK(gpu::logits_of(*engine, {{}, 1, 0}).error().code == errc::reject);
  check_says(gpu::logits_of(*engine, {{1, 2}, 3, 0}).error().message, {"last 3", "2 tokens"});
  CHECK(gpu::logits_of(*engine, {{1, 2}, 0, 0}).error().code == errc::reject);
  CHECK(gpu::logits_of(*engine, {{1, 1 << 20}, 1, 0}).error().code == errc::reject);
  CHECK(gpu::logits_of(*engine, {tokens(1025, 5), 1, 0}).error().code == errc::reject); // the model has 1,024 positions
}

} // namespace hflex::logits_test
