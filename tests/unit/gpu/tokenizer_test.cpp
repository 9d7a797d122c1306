#include "gpu/model/tokenizer.hpp"
#include "tests/support/model_dir.hpp"
#include <thread>

using namespace hflex;
using namespace hflex::gpu;
using namespace hflex::test;
using nlohmann::json;

namespace {

std::shared_ptr<const tokenizer> demo_tokenizer() {
  static const auto loaded = tokenizer::load(demo_model());
  REQUIRE(loaded);
  return *loaded;
}

constexpr encode_options as_golden{false, true}; // golden.json has no bos, and parses special tokens

/// What a stream makes of the tokens, checking that every part is whole characters.
std::string streamed(
    const std::shared_ptr<const tokenizer>& words, const std::vector<token_id>& ids, bool skip_special) {
  stream_decoder stream(words, skip_special);
  std::string text;
  for (const auto id : ids) text += stream.push(id);
  return text + stream.finish();
}

} // namespace

TEST_CASE("the demo tokenizer gives Hugging Face's ids and text for every golden case") {
  const auto words = demo_tokenizer();
  const auto golden = json::parse(slurp(demo_model() + "/golden.json"));
  REQUIRE(golden["tokenizer_cases"].size() == 15);
  for (const auto& item : golden["tokenizer_cases"]) {
    const auto text = item["text"].get<std::string>();
    INFO(text);
    const auto ids = item["ids"].get<std::vector<token_id>>();
    CHECK(words->encode(text, as_golden) == ids);
    CHECK(words->decode(ids, false) == item["decoded"].get<std::string>());
    CHECK(streamed(words, ids, false) == item["decoded"].get<std::string>());
  }
}

TEST_CASE("the golden prompts get their ids, bos first") {
  const auto words = demo_tokenizer();
  const auto golden = json::parse(slurp(demo_model() + "/golden.json"));
  for (const auto& item : golden["model_cases"]) {
    if (!item["prompt"].is_string()) continue; // the long one is given as ids only
    CHECK(words->encode(item["prompt"].get<std::string>()) == item["prompt_ids"].get<std::vector<token_id>>());
    CHECK(words->decode(item["greedy_ids"].get<std::vector<token_id>>()) == item["greedy_text"].get<std::string>());
  }
}
