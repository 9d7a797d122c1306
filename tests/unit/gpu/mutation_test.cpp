// Damages model files at random, from a fixed seed, for a bounded time: whatever the bytes are, the parsers answer. The
// libFuzzer targets in tests/fuzz look harder; this runs everywhere.
#include "gpu/model/model_config.hpp"
#include "gpu/model/safetensors.hpp"
#include "gpu/model/tokenizer.hpp"
#include "tests/support/model_dir.hpp"
#include <chrono>
#include <random>

namespace hflex::mutation_test {

using namespace hflex::gpu;
using namespace hflex::test;

namespace {

/// Changes a few bytes: flips, inserts, removes, repeats, or writes something that numbers and nesting stumble over.
std::string mutate(std::string text, std::mt19937& random) {
  static constexpr std::string_view traps[] = {"-1", "1e999", "18446744073709551615", "9223372036854775808", "[[[[",
      "}}", "null", "\"", "\\ud800", "\xff", "{\"a\":", "0.5", "true", ","};
  const auto changes = 1 + random() % 4;
  for (unsigned i = 0; i < changes && !text.empty(); ++i) {
    const auto at = random() % text.size();
    const auto length = 1 + random() % 16;
    switch (random() % 6) {
    case 0:
      text[at] = static_cast<char>(random());
      break;
    case 1:
      text.insert(at, traps[random() % std::size(traps)]);
      break;
    case 2:
      text.erase(at, length);
      break;
    case 3:
      text.insert(at, text.substr(random() % text.size(), length));
      break;
    case 4:
      text.resize(at);
      break;
    default:
      text.replace(at, 1, traps[random() % std::size(traps)]);
    }
  }
  return text;
}

/// Runs `once` on one generator, always the same `least` rounds, then more until `rounds` or the time is up: what a
/// test concludes from them does not hang on the speed of the build.
template <class Once>
void bounded(int least, int rounds, Once once) {
  std::mt19937 random(2024);
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(600);
  for (int done = 0; done < least || (done < rounds && std::chrono::steady_clock::now() < end); ++done) once(random);
}

/// A tokenizer file of 256 bytes, a few merges and specials: small, so that mutations hit every part of it.
std::string small_tokenizer() {
  auto file = nlohmann::json::parse(slurp(demo_model() + "/tokenizer.json"));
  auto& model = file["model"];
  nlohmann::json kept = nlohmann::json::array();
  for (std::size_t i = 0; i < 20; ++i) kept.push_back(model["merges"][i]);
  model["merges"] = kept;
  for (auto at = model["vocab"].begin(); at != model["vocab"].end();) {
    at = at.value().get<int>() >= 300 ? model["vocab"].erase(at) : std::next(at);
  }
  return file.dump();
}

} // namespace

TEST_CASE("mutated safetensors headers never crash, and what they yield lies inside the file") {
  const auto whole = slurp(demo_model() + "/model.safetensors");
  const auto header = whole.substr(8, 6008);
  bounded(200, 4000, [&](std::mt19937& random) {
    auto file = safetensors_file(mutate(header, random), 4096);
    if (random() % 8 == 0) file[random() % 8] = static_cast<char>(random());
    std::vector<std::string> faults;
    const auto bytes = std::as_bytes(std::span<const char>(file));
    for (const auto& item : parse_safetensors(bytes, "m", faults)) {
      const auto& data = item.second.data;
      const bool inside = data.data() >= bytes.data() && data.data() + data.size() <= bytes.data() + bytes.size();
      if (!inside) FAIL("tensor " << item.first << " is outside the file");
    }
    if (faults.empty()) FAIL("a header for 5.5 MB passed with 4096 bytes");
  });
}

TEST_CASE("mutated configurations are refused or sane") {
  const auto text = slurp(demo_model() + "/config.json");
  bounded(200, 4000, [&](std::mt19937& random) {
    const auto report = parse_model_config(mutate(text, random), "m");
    if (!report.faults.empty()) return;
    const auto& c = report.config;
    const bool sane = c.hidden > 0 && c.layers > 0 && c.kv_heads > 0 && c.heads % c.kv_heads == 0 &&
                      c.head_dim % 2 == 0 && c.rms_norm_eps > 0 && c.rope_theta >= 1 &&
                      c.bos < static_cast<token_id>(c.vocab);
    if (!sane) FAIL("an impossible configuration passed");
  });
}

TEST_CASE("mutated tokenizers are refused or encode without a crash") {
  const bool marks = GENERATE(false, true);
  const auto text =
      marks ? nlohmann::json::parse(slurp(HFLEX_SOURCE_DIR "/tests/golden/sentencepiece.json"))["document"].dump()
            : small_tokenizer();
  REQUIRE(tokenizer::parse(text, "m"));
  const std::string prompt = "It's the <|end_of_text|> 1234 \xf0\x9f\x99\x82\xff of\r\n\n  the thing";
  int accepted = 0;
  bounded(1500, 4000, [&](std::mt19937& random) {
    const auto words = tokenizer::parse(mutate(text, random), "m");
    if (!words) return;
    ++accepted;
    for (const auto id : (*words)->encode(prompt, {true, random() % 2 == 0})) {
      if (id < 0 || static_cast<std::uint32_t>(id) >= (*words)->vocab_size()) FAIL("id " << id << " is out of range");
    }
    (*words)->decode(std::vector<token_id>{0, 1, 2, 299, -7, 1 << 20});
  });
  CHECK(accepted > 0);
}

} // namespace hflex::mutation_test
