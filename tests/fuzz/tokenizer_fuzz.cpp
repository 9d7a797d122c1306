// The first byte chooses: any bytes as a prompt for the byte-level tokenizer below, or any bytes as a tokenizer.json.
#include "actors/common/check.hpp"
#include "gpu/model/json_file.hpp"
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

void try_prompt(const std::shared_ptr<const tokenizer>& words, std::string_view text) {
  const auto plain = words->encode(text, {false, false});
  for (const auto id : plain) HFLEX_CHECK(!words->is_special(id));
  HFLEX_CHECK(words->decode(plain) == compose_nfc(lossy_utf8(text)));
  const auto parsed = words->encode(text, {false, true});
  stream_decoder stream(words, false);
  std::string together;
  for (const auto id : parsed) together += stream.push(id);
  HFLEX_CHECK(together + stream.finish() == words->decode(parsed, false));
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto built_in = make_tokenizer();
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 0) {
    try_prompt(built_in, text);
  } else if (const auto words = tokenizer::parse(text, "fuzz")) {
    for (const auto id : (*words)->encode(text))
      HFLEX_CHECK(id >= 0 && static_cast<std::uint32_t>(id) < (*words)->vocab_size());
  }
  return 0;
}
