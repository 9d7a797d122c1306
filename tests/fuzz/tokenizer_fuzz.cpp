// The first byte chooses: any bytes as a prompt for the tokenizers below, byte-level or SentencePiece's, or any bytes
// as a tokenizer.json.
#include "actors/common/check.hpp"
#include "gpu/model/json_file.hpp"
#include "gpu/model/text_steps.hpp"
#include "gpu/model/tokenizer.hpp"
#include "gpu/model/utf8.hpp"
#include <cstddef>
#include <cstdint>

namespace {

using namespace hflex;
using namespace hflex::gpu;

/// 256 bytes, some merges, two added tokens, NFC, Llama 3's expression.
std::shared_ptr<const tokenizer> make_tokenizer() {
  nlohmann::json vocab;
  token_id next = 0;
  char32_t escaped = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool itself = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    std::string text;
    append_utf8(text, itself ? byte : escaped++);
    vocab[text] = next++;
  }
  nlohmann::json merges;
  for (const auto* merge : {"t h", "th e", "a a", "aa aa", "a n", "\xc4\xa0 t", "\xc4\xa0 the", "\xc3\x8c \xc4\xa3"}) {
    const std::string text = merge;
    const auto blank = text.find(' ');
    if (!vocab.contains(text.substr(0, blank)) || !vocab.contains(text.substr(blank + 1))) continue;
    vocab[text.substr(0, blank) + text.substr(blank + 1)] = next++;
    merges.push_back(text);
  }
  const nlohmann::json file = {{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}},
      {"added_tokens", {{{"id", next}, {"content", "<|s|>"}, {"special", true}},
                           {{"id", next + 1}, {"content", "<tool>"}, {"normalized", true}}}},
      {"normalizer", {{"type", "NFC"}}},
      {"pre_tokenizer",
          {{"type", "Sequence"},
              {"pretokenizers",
                  {{{"type", "Split"}, {"behavior", "Isolated"},
                       {"pattern",
                           {{"Regex",
                               R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}}}},
                      {{"type", "ByteLevel"}, {"use_regex", false}}}}}},
      {"decoder", {{"type", "ByteLevel"}}}};
  const auto made = tokenizer::parse(file.dump(), "built in");
  HFLEX_CHECK(made.has_value());
  return *made;
}

/// Bytes, some letters and what they merge to, a mark for blanks, Llama 2's pipeline.
std::shared_ptr<const tokenizer> make_sentencepiece() {
  const std::string mark = "\xe2\x96\x81";
  nlohmann::json vocab;
  token_id next = 1;
  for (int byte = 0; byte < 256; ++byte) vocab[fmt::format("<0x{:02X}>", byte)] = next++;
  for (const auto& piece : {mark, mark + mark, std::string("t"), std::string("h"), std::string("e"), std::string("th"),
           std::string("the"), mark + "the", std::string("\xc3\xa9"), std::string("<0"), std::string("<")})
    vocab[piece] = next++;
  vocab["<s>"] = 0;
  const auto replace = [](const std::string& from, const std::string& to) {
    return nlohmann::json{{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
  };
  const nlohmann::json merges = {"t h", "th e", mark + " the", mark + " " + mark};
  const nlohmann::json file = {
      {"model", {{"type", "BPE"}, {"byte_fallback", true}, {"vocab", vocab}, {"merges", merges}}},
      {"added_tokens", {{{"id", 0}, {"content", "<s>"}, {"special", true}}}},
      {"normalizer",
          {{"type", "Sequence"}, {"normalizers", {{{"type", "Prepend"}, {"prepend", mark}}, replace(" ", mark)}}}},
      {"decoder", {{"type", "Sequence"},
                      {"decoders", {replace(mark, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}},
                                       {{"type", "Strip"}, {"content", " "}, {"start", 1U}, {"stop", 0U}}}}}}};
  const auto made = tokenizer::parse(file.dump(), "built in");
  HFLEX_CHECK(made.has_value());
  return *made;
}

void try_stream(const std::shared_ptr<const tokenizer>& words, std::string_view text) {
  const auto parsed = words->encode(text, {false, true});
  stream_decoder stream(words, false);
  std::string together;
  for (const auto id : parsed) together += stream.push(id);
  HFLEX_CHECK(together + stream.finish() == words->decode(parsed, false));
}

void try_sentencepiece(const std::shared_ptr<const tokenizer>& words, std::string_view text) {
  const auto plain = words->encode(text, {false, false});
  for (const auto id : plain) HFLEX_CHECK(!words->is_special(id));
  HFLEX_CHECK(words->decode(plain) == replaced(lossy_utf8(text), "\xe2\x96\x81", " "));
  try_stream(words, text);
}

void try_prompt(const std::shared_ptr<const tokenizer>& words, std::string_view text) {
  const auto plain = words->encode(text, {false, false});
  for (const auto id : plain) HFLEX_CHECK(!words->is_special(id));
  HFLEX_CHECK(words->decode(plain) == compose_nfc(lossy_utf8(text)));
  try_stream(words, text);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto built_in = make_tokenizer();
  static const auto marked_words = make_sentencepiece();
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 3 == 0) {
    try_prompt(built_in, text);
  } else if (data[0] % 3 == 1) {
    try_sentencepiece(marked_words, text);
  } else if (const auto words = tokenizer::parse(text, "fuzz")) {
    for (const auto id : (*words)->encode(text))
      HFLEX_CHECK(id >= 0 && static_cast<std::uint32_t>(id) < (*words)->vocab_size());
  }
  return 0;
}
