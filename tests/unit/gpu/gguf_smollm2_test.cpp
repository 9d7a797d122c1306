// SmolLM2-135M-Instruct, where `tools/get-model smollm2` has brought it (or HFLEX_SMOLLM2 says it is), against what
// other programs make of the same file: tests/golden/make_smollm2.py.
#include "gpu/model/gguf_tokenizer.hpp"
#include "gpu/model/model_info.hpp"
#include "gpu/model/tokenizer.hpp"
#include "tests/unit/gpu/engine_fixture.hpp"
#include <cstdlib>

namespace hflex::gguf_smollm2_test {

using namespace hflex::gpu;
using namespace hflex::test;

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

/// Empty, after a message, when the model is not on this machine.
std::string smollm2() {
  auto path = variable("HFLEX_SMOLLM2");
  if (path.empty()) {
    const auto cache = variable("XDG_CACHE_HOME");
    path = (cache.empty() ? variable("HOME") + "/.cache" : cache) + "/hflex/models/smollm2-135m-instruct";
    if (!std::filesystem::exists(path)) path.clear();
  }
  if (path.empty()) WARN("skipped: SmolLM2 is not here; `tools/get-model smollm2` brings it");
  return path;
}

/// One list of the golden file.
nlohmann::json golden(const char* key) {
  return nlohmann::json::parse(slurp(HFLEX_SOURCE_DIR "/tests/golden/smollm2.json")).at(key);
}

} // namespace

TEST_CASE("SmolLM2 tokenises prose as Hugging Face's tokenizers do") {
  const auto model = smollm2();
  if (model.empty()) return;
  const auto words = tokenizer::load(model);
  if (!words) FAIL(words.error().message);
  const auto prose = golden("prose");
  REQUIRE(prose.size() == 5);
  for (const auto& item : prose) {
    const auto text = item.at("text").get<std::string>();
    INFO(text);
    const auto ids = (*words)->encode(text);
    CHECK(ids == item.at("ids").get<tokens>());
    CHECK((*words)->decode(ids) == item.at("decoded").get<std::string>());
  }
  check_says(gguf_chat_template(model).value_or("none"), {"<|im_start|>", "add_generation_prompt"});
}

TEST_CASE("SmolLM2 is described and found fit to load") {
  const auto model = smollm2();
  if (model.empty()) return;
  CHECK(check_model(model).empty());
  const auto summary = summarize_model(model);
  if (!summary) FAIL(summary.error().message);
  CHECK(summary->config.layers == 30);
  CHECK(summary->config.tie_embeddings);
  CHECK(summary->config.eos == tokens{2});
  CHECK(summary->parameters == 134'515'008);
}

TEST_CASE("SmolLM2 continues text as the reference does wherever that was sure of itself") {
  const auto model = smollm2();
  if (model.empty()) return;
  const auto region = load_weights(model, {});
  if (!region) FAIL(region.error().message);
  const auto engine = std::move(llama::make(*region, engine_options(compute_type::f32)).value());
  const auto words = tokenizer::load(model).value();
  const auto continuations = golden("continuations");
  REQUIRE(continuations.size() == 3);
  for (const auto& item : continuations) {
    const auto prompt = item.at("prompt_ids").get<tokens>();
    const auto expected = item.at("greedy_ids").get<tokens>();
    const auto table = block_range(0, 64);
    const auto text = words->decode(generate(*engine, prompt, expected.size(), table));
    INFO(item.at("prompt").get<std::string>() << " -> " << text);
    CHECK(words->encode(item.at("prompt").get<std::string>(), {true, true}) == prompt);
    // Teacher-forced, so that one near tie does not decide over all that follows.
    auto next = prompt;
    bool sure = true;
    std::uint32_t position = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const auto step = run_step(*engine, {item_of(next, position, table)});
      position += static_cast<std::uint32_t>(next.size());
      next = {expected[i]};
      INFO("token " << i << ", ahead of the next by " << item.at("margins")[i]);
      const double margin = item.at("margins")[i].get<double>();
      if (margin > 0.25) CHECK(step.sampled[0] == expected[i]);
      sure = sure && margin > 0.25;
    }
    if (sure) CHECK(text == item.at("text").get<std::string>());
  }
}

} // namespace hflex::gguf_smollm2_test
