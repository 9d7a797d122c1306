// Tokenizers of SentencePiece's kind (Llama 2, TinyLlama, Mistral 7B): Hugging Face's ids and SentencePiece's own, from
// tokenizer.json and from GGUF's scores.
#include "gpu/model/chat_template.hpp"
#include "gpu/model/gguf_tokenizer.hpp"
#include "gpu/model/model_info.hpp"
#include "gpu/model/spm_merges.hpp"
#include "gpu/model/tokenizer.hpp"
#include "gpu/model/utf8.hpp"
#include "tests/support/gguf_writer.hpp"
#include <random>

namespace hflex::sentencepiece_test {

using namespace hflex::gpu;
using namespace hflex::test;
using nlohmann::json;

namespace {

using words_ptr = std::shared_ptr<const tokenizer>;

const json& golden() {
  static const auto file = json::parse(slurp(HFLEX_SOURCE_DIR "/tests/golden/sentencepiece.json"));
  return file;
}

result<words_ptr> patched(const json& patch) {
  auto file = golden()["document"];
  file.merge_patch(patch);
  return tokenizer::parse(file.dump(), "spm.json");
}

words_ptr llama2() {
  static const auto words = patched(json::object());
  REQUIRE(words);
  return *words;
}

std::string streamed(const words_ptr& words, const std::vector<token_id>& ids, bool skip_special = true) {
  stream_decoder stream(words, skip_special);
  std::string text;
  for (const auto id : ids) text += stream.push(id);
  return text + stream.finish();
}

/// The golden vocabulary as a GGUF file has it, after `change`.
gguf_writer gguf(const std::function<void(std::vector<std::string>&, std::vector<float>&, std::vector<std::int32_t>&)>&
                     change = {}) {
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<std::int32_t> types;
  for (const auto& piece : golden()["pieces"]) {
    tokens.push_back(piece[0]);
    scores.push_back(piece[1]);
    types.push_back(piece[2]);
  }
  if (change) change(tokens, scores, types);
  std::string bytes;
  for (const auto score : scores) bytes += raw(score);
  gguf_writer out;
  out.text("tokenizer.ggml.model", "llama").texts("tokenizer.ggml.tokens", tokens);
  out.list("tokenizer.ggml.scores", gguf_type::f32, scores.size(), bytes).integers("tokenizer.ggml.token_type", types);
  out.natural("tokenizer.ggml.bos_token_id", 1).natural("tokenizer.ggml.eos_token_id", 2);
  return out;
}

result<words_ptr> load(const gguf_writer& file) {
  const temp_dir dir;
  dir.write("m.gguf", file.bytes());
  return tokenizer::load(dir.file("m.gguf"));
}

std::string refusal(const result<words_ptr>& words) {
  REQUIRE_FALSE(words);
  CHECK(words.error().code == errc::reject);
  return words.error().message;
}

/// SentencePiece's rule, word for word: again and again the neighbours whose joined text has the best score, the
/// leftmost of equals.
std::vector<token_id> joined_by_score(std::string_view text, const std::vector<scored_piece>& pieces) {
  const auto find = [&](const std::string& part) {
    return std::find_if(pieces.begin(), pieces.end(), [&](const auto& p) { return p.text == part; });
  };
  std::vector<std::string> parts;
  while (!text.empty()) {
    parts.emplace_back(text.substr(0, next_utf8(text).bytes));
    text.remove_prefix(parts.back().size());
  }
  for (;;) {
    std::optional<std::size_t> best;
    float score = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto piece = find(parts[i] + parts[i + 1]);
      if (piece == pieces.end() || (best && piece->score <= score)) continue;
      best = i;
      score = piece->score;
    }
    if (!best) break;
    parts[*best] += parts[*best + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(*best) + 1);
  }
  std::vector<token_id> ids;
  for (const auto& part : parts) ids.push_back(find(part)->id);
  return ids;
}

} // namespace

TEST_CASE("every pipeline of SentencePiece's kind gives Hugging Face's ids, text and streams") {
  REQUIRE(golden()["variants"].size() == 11);
  for (const auto& variant : golden()["variants"]) {
    INFO(variant["name"]);
    const auto words = patched(variant["patch"]);
    if (!words) FAIL(words.error().message);
    REQUIRE(variant["cases"].size() == 40);
    for (const auto& item : variant["cases"]) {
      const auto text = item["text"].get<std::string>();
      INFO(item["text"].dump(-1, ' ', true));
      const auto ids = item["ids"].get<std::vector<token_id>>();
      CHECK((*words)->encode(text, {true, true}) == ids);
      CHECK((*words)->encode(text, {false, false}) == item["plain_ids"].get<std::vector<token_id>>());
      const auto decoded = item.value("decoded", text);
      CHECK((*words)->decode(ids) == decoded);
      CHECK(streamed(*words, ids) == decoded);
    }
    std::uint32_t hash = 0;
    const auto ids = (*words)->encode(slurp(HFLEX_SOURCE_DIR "/LICENSE"), {false, false});
    for (const auto id : ids) hash = hash * 1000003U + static_cast<std::uint32_t>(id);
    CHECK(ids.size() == variant["long"]["count"].get<std::size_t>());
    CHECK(hash == variant["long"]["hash"].get<std::uint32_t>());
  }
}

TEST_CASE("a stream of byte pieces shows text no later than Hugging Face's, in whole characters") {
  for (const auto& variant : golden()["variants"]) {
    if (!variant["cases"][0].contains("shown")) continue;
    const auto words = patched(variant["patch"]);
    REQUIRE(words);
    for (const auto& item : variant["cases"]) {
      INFO(item["text"].dump(-1, ' ', true));
      const auto ids = item["ids"].get<std::vector<token_id>>();
      const auto shown = item["shown"].get<std::vector<std::size_t>>();
      const auto whole = (*words)->decode(ids);
      stream_decoder stream(*words);
      std::string text;
      for (std::size_t i = 0; i < ids.size(); ++i) {
        const auto part = stream.push(ids[i]);
        CHECK(lossy_utf8(part) == part);
        text += part;
        CHECK(text.size() >= shown[i]);
        CHECK(whole.compare(0, text.size(), text) == 0);
      }
    }
  }
}

TEST_CASE("one leading blank goes, at the very start only, also in a stream") {
  const auto words = llama2();
  const auto the = words->encode("the", {false, false});
  REQUIRE(the.size() == 1);
  CHECK(words->bytes_of(the[0]) == " the");
  CHECK(words->decode(std::vector<token_id>{the[0], the[0]}) == "the the");
  CHECK(streamed(words, {1, the[0], the[0]}) == "the the");
  const auto blanks = words->encode("  the", {false, false});
  CHECK(words->decode(blanks) == "  the");
  CHECK(streamed(words, blanks) == "  the");
  const auto tool = words->added_token_id("<tool>").value();
  CHECK(words->decode(std::vector<token_id>{tool, the[0]}) == "<tool> the");
}

TEST_CASE("byte pieces that make no character become replacement characters, those that do are kept") {
  const auto words = llama2();
  const auto byte = [&](unsigned char b) { return static_cast<token_id>(4 + b); };
  REQUIRE(words->bytes_of(byte(0xe2)) == "\xe2");
  const std::vector<token_id> ids{byte(0xe2), byte(0x82), byte('a'), byte(0xc3), byte(0xa9)};
  CHECK(words->decode(ids) == "\xef\xbf\xbd"
                              "a\xc3\xa9");
  CHECK(streamed(words, ids) == words->decode(ids));
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<token_id> some(random() % 30);
    for (auto& id : some) id = static_cast<token_id>(random() % 5 == 0 ? random() % 720 : 4 + 0x70 + random() % 0x90);
    CHECK(streamed(words, some) == words->decode(some));
    CHECK(streamed(words, some, false) == words->decode(some, false));
  }
}

TEST_CASE("text that goes on after other text gets no mark that only the first word gets") {
  const auto words = patched(golden()["variants"][2]["patch"]);
  REQUIRE(golden()["variants"][2]["name"] == "mistral v0.3");
  REQUIRE(words);
  const auto first = (*words)->encode("the", {false, false});
  const auto later = (*words)->encode("the", {false, false, true});
  CHECK(first != later);
  CHECK((*words)->decode(later) == "the");
  CHECK((*words)->encode(" the", {false, false, true}) == first);
}

TEST_CASE("a GGUF file with scores gives the ids of SentencePiece itself and of Hugging Face") {
  const auto words = load(gguf());
  if (!words) FAIL(words.error().message);
  int cases = 0;
  for (const auto& item : golden()["variants"][0]["cases"]) {
    const auto text = item["text"].get<std::string>();
    INFO(item["text"].dump(-1, ' ', true));
    const auto ids = item["ids"].get<std::vector<token_id>>();
    CHECK((*words)->encode(text, {true, true}) == ids);
    CHECK((*words)->decode(ids) == item.value("decoded", text));
    if (!item.contains("spm_ids")) continue;
    CHECK((*words)->encode(text, {false, false}) == item["spm_ids"].get<std::vector<token_id>>());
    ++cases;
  }
  CHECK(cases == 20);
}

TEST_CASE("merges by rank of score do what joining by score does") {
  // Few letters, so that pieces can be made in many ways; scores repeat, so that places decide.
  std::mt19937 random(5);
  for (int round = 0; round < 60; ++round) {
    std::vector<std::string> texts{"a", "b", "\xc3\xa9"};
    const auto any = [&] { return texts[random() % texts.size()]; };
    while (texts.size() < 24) {
      const auto next = any() + any();
      if (std::find(texts.begin(), texts.end(), next) == texts.end()) texts.push_back(next);
    }
    std::vector<scored_piece> pieces;
    for (std::size_t i = 0; i < texts.size(); ++i)
      pieces.push_back({texts[i], static_cast<token_id>(i), -static_cast<float>(random() % 9)});
    const bpe merger(merges_by_score(pieces));
    for (int sample = 0; sample < 20; ++sample) {
      std::string text;
      std::vector<token_id> letters;
      for (auto n = 1 + random() % 90; n > 0; --n) { // short and long pieces take different ways
        letters.push_back(static_cast<token_id>(random() % 3));
        text += texts[static_cast<std::size_t>(letters.back())];
      }
      std::vector<token_id> ids;
      merger.encode(letters, ids);
      CHECK(ids == joined_by_score(text, pieces));
    }
  }
}

TEST_CASE("a GGUF file says whether a blank and bos come first") {
  auto file = gguf();
  file.flag("tokenizer.ggml.add_space_prefix", false).flag("tokenizer.ggml.add_bos_token", false);
  const auto words = load(file);
  if (!words) FAIL(words.error().message);
  const auto bare = (*words)->encode("the");
  CHECK((*words)->decode((*words)->encode(" the")) == " the");
  CHECK((*words)->decode(bare) == "the");
  CHECK(bare != llama2()->encode("the", {false, false}));
  CHECK(load(gguf()).value()->encode("the") == llama2()->encode("the"));
}

TEST_CASE(
    "a conversation is framed in text where the vocabulary has no token for it, and only bos and eos are special") {
  const auto frame = chat_template::recognize(
      "{{ bos_token }}{% for message in messages %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endfor %}");
  if (!frame) FAIL(frame.error().message);
  const auto words = llama2();
  const auto ids = frame->encode(std::vector<chat_message>{{"user", "Hi </s>the"}}, *words);
  if (!ids) FAIL(ids.error().message);
  auto expected = words->encode("[INST] Hi </s>the [/INST]", {true, false});
  CHECK(*ids == expected);
  CHECK(std::count(ids->begin(), ids->end(), 2) == 0);
}

TEST_CASE("a model with such a tokenizer is found fit to load") {
  const model_copy model;
  model.write_json("tokenizer.json", golden()["document"]);
  CHECK(check_model(model.path()).empty());
  const auto summary = summarize_model(model.path());
  REQUIRE(summary);
  CHECK(summary->tokenizer_vocab == 700);
}

TEST_CASE("damaged scores and pieces of GGUF are refused by key and entry") {
  using list = std::vector<std::string>;
  using numbers = std::vector<float>;
  using kinds = std::vector<std::int32_t>;
  check_says(refusal(load(gguf([](list&, numbers& scores, kinds&) { scores.pop_back(); }))),
      {"m.gguf: tokenizer.ggml.scores", "700 numbers", "699"});
  check_says(refusal(load(gguf([](list&, numbers& scores, kinds&) { scores[300] = std::nanf(""); }))),
      {"scores: entry 300", "no number"});
  check_says(refusal(load(gguf([](list& tokens, numbers&, kinds&) { tokens[300] = std::string(300, 'x'); }))),
      {"tokens: entry 300", "256 bytes"});
  check_says(refusal(load(gguf([](list&, numbers&, kinds& types) { types[20] = 5; }))), {"<0x10>", "256 bytes"});
  auto eos = gguf();
  eos.flag("tokenizer.ggml.add_eos_token", true);
  check_says(refusal(load(eos)), {"add_eos_token: true is not supported"});
}

TEST_CASE("steps that SentencePiece's kind does not have here are refused with the reason") {
  const auto refuses = [](const json& patch, std::initializer_list<std::string_view> parts) {
    INFO(patch.dump());
    const auto message = refusal(patched(patch));
    check_says(message, {"spm.json"});
    check_says(message, parts);
  };
  const auto replace = [](const char* from, const char* to) {
    return json{{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
  };
  const auto decoder = [](const json& steps) { return json{{"decoder", {{"decoders", steps}}}}; };
  const json fuse{{"type", "Fuse"}};
  const json bytes{{"type", "ByteFallback"}};
  refuses({{"normalizer", {{"type", "NFKC"}}}}, {"normalizer", "NFKC", "SentencePiece"});
  refuses({{"normalizer", {{"type", "Prepend"}, {"prepend", ""}}}}, {"Prepend"});
  refuses({{"normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", "a"}}}, {"content", "b"}}}}, {"pattern.String"});
  refuses(
      {{"normalizer", {{"normalizers", {replace("a", "bbbbbbbb"), replace("b", "cccccccc")}}}}}, {"16 times as long"});
  refuses({{"pre_tokenizer", {{"type", "Whitespace"}}}}, {"pre_tokenizer", "Whitespace"});
  refuses({{"pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "ab"}}}}, {"one character"});
  refuses({{"pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "last"}}}},
      {"prepend_scheme", "last"});
  refuses(decoder(json::array({bytes})), {"Fuse"});
  refuses(decoder({fuse, bytes}), {"ByteFallback", "in this order"});
  refuses(decoder({replace("a", "bb"), fuse}), {"decoder: Replace", "longer"});
  refuses(decoder({fuse, {{"type", "Strip"}, {"content", "x"}, {"start", 1}, {"stop", 0}}}), {"Strip"});
  refuses(decoder(json::array({{{"type", "WordPiece"}}})), {"WordPiece"});
  refuses({{"model", {{"vocab", {{"<0x41>", nullptr}}}}}}, {"<0x41>", "byte_fallback"});
  refuses({{"model", {{"byte_fallback", false}, {"unk_token", "nothing"}}}}, {"unk_token", "nothing"});
  refuses({{"added_tokens", {{{"id", 632}, {"content", golden()["pieces"][632][0]}, {"special", true}}}}},
      {"special token", "one character"});
}

} // namespace hflex::sentencepiece_test
