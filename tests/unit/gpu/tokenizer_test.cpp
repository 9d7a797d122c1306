#include "gpu/model/tokenizer.hpp"
#include "tests/support/model_dir.hpp"
#include <random>
#include <set>
#include <thread>

namespace hflex::tokenizer_test {

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

/// The demo tokenizer with a merge patch (RFC 7386) on its file.
result<std::shared_ptr<const tokenizer>> patched(const json& patch) {
  static const auto base = json::parse(slurp(demo_model() + "/tokenizer.json"));
  auto file = base;
  file.merge_patch(patch);
  return tokenizer::parse(file.dump(), "demo.json");
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

TEST_CASE("bytes without a token are left out, and what stood around them may merge") {
  const auto words = patched({{"model", {{"vocab", {{"\xc4\x84", nullptr}}}}}}); // U+0104 stands for byte 0x04
  REQUIRE(words);
  const encode_options plain{false, false};
  CHECK((*words)->encode("\x04", plain).empty());
  CHECK((*words)->encode(std::string(100, '\x04'), plain).empty());
  CHECK((*words)->encode("!\x04!", plain) == (*words)->encode("!!", plain));
  std::string with;
  for (int i = 0; i < 40; ++i) with += "\x04(\x04)";
  std::string without;
  for (int i = 0; i < 40; ++i) without += "()";
  CHECK((*words)->encode(with, plain) == (*words)->encode(without, plain));
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

TEST_CASE("random Unicode gets Hugging Face's ids through every kind of pipeline") {
  const auto golden = json::parse(slurp(HFLEX_SOURCE_DIR "/tests/golden/tokenizer_random.json"));
  REQUIRE(golden["variants"].size() == 4);
  for (const auto& variant : golden["variants"]) {
    INFO(variant["name"]);
    const auto words = patched(variant["patch"]);
    REQUIRE(words);
    REQUIRE(variant["cases"].size() == 48);
    for (const auto& item : variant["cases"]) {
      INFO(item["text"].dump(-1, ' ', true));
      const auto text = item["text"].get<std::string>();
      const auto ids = item["ids"].get<std::vector<token_id>>();
      CHECK((*words)->encode(text, {true, true}) == ids);
      CHECK((*words)->encode(text, {false, false}) == item["plain_ids"].get<std::vector<token_id>>());
      const auto decoded = item.value("decoded", text);
      CHECK((*words)->decode(ids) == decoded);
      CHECK(streamed(*words, ids, true) == decoded);
    }
  }
}

TEST_CASE("a long text gets Hugging Face's ids through every kind of pipeline") {
  const auto golden = json::parse(slurp(HFLEX_SOURCE_DIR "/tests/golden/tokenizer_random.json"));
  const auto text = slurp(HFLEX_SOURCE_DIR "/LICENSE");
  for (const auto& variant : golden["variants"]) {
    INFO(variant["name"]);
    const auto ids = (*patched(variant["patch"]))->encode(text, {false, false});
    std::uint32_t hash = 0;
    for (const auto id : ids) hash = hash * 1000003U + static_cast<std::uint32_t>(id);
    CHECK(ids.size() == variant["long"]["count"].get<std::size_t>());
    CHECK(hash == variant["long"]["hash"].get<std::uint32_t>());
  }
}

TEST_CASE("a stream shows text no later than Hugging Face's, and nothing else") {
  const auto golden = json::parse(slurp(HFLEX_SOURCE_DIR "/tests/golden/tokenizer_random.json"));
  const auto words = demo_tokenizer();
  for (const auto& item : golden["variants"][0]["cases"]) {
    const auto ids = item["ids"].get<std::vector<token_id>>();
    const auto shown = item["shown"].get<std::vector<std::size_t>>();
    const auto whole = words->decode(ids);
    REQUIRE(shown.size() == ids.size());
    stream_decoder stream(words);
    std::string text;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      text += stream.push(ids[i]);
      CHECK(text.size() >= shown[i]);
      CHECK(whole.compare(0, text.size(), text) == 0);
    }
    CHECK(text.size() == shown.back()); // the texts end with whole characters
  }
}

TEST_CASE("text that spells a special token becomes it only where the caller says so") {
  const auto words = demo_tokenizer();
  const std::string text = "ab<|end_of_text|>";
  CHECK(words->encode(text, {false, true}).back() == 1);
  const auto plain = words->encode(text, {false, false});
  for (const auto id : plain) CHECK_FALSE(words->is_special(id));
  CHECK(words->decode(plain) == text);
  CHECK(words->encode("", {}) == std::vector<token_id>{0});
  CHECK(words->added_token_id("<|end_of_text|>") == 1);
  CHECK_FALSE(words->added_token_id("<|no_such_token|>"));
}

TEST_CASE("bytes that are not UTF-8 are encoded as the replacement character") {
  const auto words = demo_tokenizer();
  const std::string fffd = "\xef\xbf\xbd";
  CHECK(words->encode("a\xff"
                      "b") == words->encode("a" + fffd + "b"));
  CHECK(words->encode("a\xf0\x9f\x99") == words->encode("a" + fffd));        // cut off: one for the whole start
  CHECK(words->encode("\xed\xa0\x80") == words->encode(fffd + fffd + fffd)); // a surrogate: one for each byte
  CHECK(words->encode("\xe2\x82"
                      "a") == words->encode(fffd + "a"));
  CHECK(words->encode(std::string("a\0b", 3)).size() >= 4);
}

TEST_CASE("a stream never shows half a character") {
  const auto words = demo_tokenizer();
  const std::string smile = "\xf0\x9f\x99\x82";
  const auto ids = words->encode(smile, {false, false});
  REQUIRE(ids.size() == 4); // one token for each byte
  stream_decoder stream(words);
  CHECK(stream.push(ids[0]).empty());
  CHECK(stream.push(ids[1]).empty());
  CHECK(stream.push(ids[2]).empty());
  CHECK(stream.push(ids[3]) == smile);
  CHECK(stream.push(ids[0]).empty());
  CHECK(stream.finish() == "\xef\xbf\xbd");
  CHECK(stream.finish().empty());
  CHECK(stream.push(ids[1]) == "\xef\xbf\xbd"); // a continuation byte that continues nothing
}

TEST_CASE("a stream of random tokens adds up to what decode gives") {
  const auto words = demo_tokenizer();
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    std::vector<token_id> ids(random() % 40);
    // Mostly bytes of several-byte characters; some ids that do not exist.
    for (auto& id : ids) id = static_cast<token_id>(random() % 8 == 0 ? random() % 3000 : 97 + random() % 160);
    CHECK(streamed(words, ids, false) == words->decode(ids, false));
    CHECK(streamed(words, ids, true) == words->decode(ids, true));
  }
  CHECK(words->decode(std::vector<token_id>{-1, 2048, 1 << 30}).empty());
}

TEST_CASE("a megabyte of one letter is encoded in full") {
  const auto words = demo_tokenizer();
  const std::string text(1U << 20U, 'e');
  const auto ids = words->encode(text, {false, false});
  const bool whole = words->decode(ids) == text; // too long to be shown
  CHECK(whole);
  // The leftmost best merge repeats itself, so all but the two ends look alike.
  const auto shorter = words->encode(std::string(1U << 10U, 'e'), {false, false});
  CHECK(std::set<token_id>(ids.begin(), ids.end()) == std::set<token_id>(shorter.begin(), shorter.end()));
}

TEST_CASE("long hostile texts come back in full from every pipeline") {
  const auto qwen_patch =
      json::parse(slurp(HFLEX_SOURCE_DIR "/tests/golden/tokenizer_random.json"))["variants"][1]["patch"];
  const auto words = patched(qwen_patch);
  REQUIRE(words);
  const std::size_t n = 200'000;
  std::string marks;
  for (std::size_t i = 0; i < n / 4; ++i) marks += "\xcc\x81\xcc\xa3"; // the worst case for sorting by swaps
  const auto alternating = [&](std::string_view unit) {
    std::string text;
    while (text.size() < n) text += unit;
    return text;
  };
  for (const auto& text : {std::string(n, ' ') + "x", std::string(n, '\n'), alternating("' "), alternating("a'"),
           alternating("<|im"), alternating(" \r"), alternating("1")}) {
    const bool whole = (*words)->decode((*words)->encode(text)) == text; // too long to be shown
    CHECK(whole);
  }
  CHECK((*words)->decode((*words)->encode(marks)).size() == marks.size());
}

TEST_CASE("threads share one tokenizer") {
  const auto words = demo_tokenizer();
  const std::string text = slurp(demo_model() + "/README.md");
  const auto expected = words->encode(text);
  std::vector<std::vector<token_id>> got(4);
  std::vector<std::thread> threads;
  for (auto& ids : got) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) ids = words->encode(text);
    });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& ids : got) CHECK(ids == expected);
}

TEST_CASE("tokenizer files that are damaged or of another kind are refused with the reason") {
  const auto refuses = [](const json& patch, std::initializer_list<std::string_view> parts) {
    INFO(patch.dump());
    const auto words = patched(patch);
    REQUIRE_FALSE(words);
    CHECK(words.error().code == errc::reject);
    check_says(words.error().message, {"demo.json"});
    check_says(words.error().message, parts);
  };
  refuses({{"model", {{"type", "Unigram"}}}}, {"Unigram", "not supported", "byte-level BPE"});
  refuses({{"model", {{"type", "WordPiece"}}}}, {"WordPiece", "not supported"});
  refuses({{"model", nullptr}}, {"model"});
  refuses({{"model", {{"dropout", 0.1}}}}, {"dropout"});
  refuses({{"model", {{"byte_fallback", true}}}}, {"byte_fallback"});
  refuses({{"model", {{"vocab", {{"he", -5}}}}}}, {"\"he\"", "-5"});
  refuses({{"model", {{"vocab", {{"he", 1e99}}}}}}, {"\"he\""});
  refuses({{"model", {{"vocab", {{"he", 4294967297}}}}}}, {"4294967297"});
  refuses({{"model", {{"vocab", {{"he", 5}}}}}}, {"id 5"});
  refuses({{"model", {{"vocab", {{"A", nullptr}}}}}}, {"byte 0x41"});
  refuses({{"model", {{"merges", {"a b c"}}}}}, {"entry 0", "a b c"});
  refuses({{"model", {{"merges", json::array({json::array({"h", 7})})}}}}, {"entry 0"});
  refuses({{"model", {{"merges", {"q zzz"}}}}}, {"entry 0", "zzz"});
  refuses({{"model", {{"merges", "x"}}}}, {"model.merges"});
  refuses({{"added_tokens", 3}}, {"added_tokens"});
  refuses({{"added_tokens", {{{"id", 3000}, {"content", ""}}}}}, {"content"});
  refuses({{"added_tokens", {{{"id", 7}, {"content", "<new>"}}}}}, {"<new>", "id 7"});
  refuses({{"added_tokens", {{{"id", 3000}, {"content", "<new>"}, {"lstrip", true}}}}}, {"lstrip"});
  refuses({{"added_tokens", {{{"id", 3000}, {"content", "the"}}}}}, {"\"the\"", "3000"});
  refuses({{"normalizer", {{"type", "Lowercase"}}}}, {"normalizer", "Lowercase"});
  refuses({{"pre_tokenizer", {{"type", "Metaspace"}}}}, {"Metaspace"});
  refuses({{"pre_tokenizer", nullptr}}, {"pre_tokenizer"});
  refuses({{"pre_tokenizer", {{"type", "Digits"}}}}, {"has no ByteLevel"});
  refuses({{"post_processor", {{"type", "BertProcessing"}}}}, {"BertProcessing"});
  refuses({{"post_processor", {{"special_tokens", {{"<|begin_of_text|>", {{"ids", {99999}}}}}}}}}, {"99999"});
  refuses({{"decoder", {{"type", "Metaspace"}}}}, {"decoder", "Metaspace"});
  CHECK_FALSE(tokenizer::parse("", "x"));
  CHECK_FALSE(tokenizer::parse("[]", "x"));
  CHECK_FALSE(tokenizer::parse(std::string(100'000, '['), "x"));
  check_says(tokenizer::load("/nonexistent").error().message, {"/nonexistent/tokenizer.json"});
}

TEST_CASE("no merge may make a special token out of ordinary text") {
  const auto words = patched({{"added_tokens",
      {{{"id", demo_tokenizer()->encode("the", {false, false})[0]}, {"content", "the"}, {"special", true}}}}});
  REQUIRE_FALSE(words);
  check_says(words.error().message, {"special token", "\"the\""});
}

} // namespace hflex::tokenizer_test
