// The tokenizer inside GGUF files: how each tokenizer.ggml.pre cuts text, and what is refused.
#include "gpu/model/gguf_tokenizer.hpp"
#include "tests/support/gguf_writer.hpp"

namespace hflex::gguf_tokenizer_test {

using namespace hflex::gpu;
using namespace hflex::test;

namespace {

/// Which parts of a small tokenizer's metadata a test replaces.
struct changes {
  std::string model{"gpt2"};
  std::string pre{"gpt-2"};
  std::vector<std::string> more_tokens{};
  std::vector<std::int32_t> more_types{};
  std::vector<std::string> merges{};
  std::function<void(gguf_writer&)> also{};
};

result<tokenizer_parts> read(const changes& with) {
  const auto file = nlohmann::json::parse(slurp(demo_model() + "/tokenizer.json"));
  std::vector<std::string> tokens;
  for (const auto& item : file["model"]["vocab"].items()) { // the 256 bytes
    const auto& text = item.key();
    if (text.size() == 1 || (text.size() == 2 && (text[0] & 0x80) != 0)) tokens.push_back(text);
  }
  REQUIRE(tokens.size() == 256);
  std::vector<std::int32_t> types(256, 1);
  tokens.insert(tokens.end(), with.more_tokens.begin(), with.more_tokens.end());
  types.insert(types.end(), with.more_types.begin(), with.more_types.end());
  gguf_writer out;
  if (!with.model.empty()) out.text("tokenizer.ggml.model", with.model);
  if (!with.pre.empty()) out.text("tokenizer.ggml.pre", with.pre);
  out.texts("tokenizer.ggml.tokens", tokens).integers("tokenizer.ggml.token_type", types);
  out.texts("tokenizer.ggml.merges", with.merges);
  if (with.also) with.also(out);
  const auto bytes = out.bytes();
  std::vector<std::string> faults;
  const auto content = parse_gguf(std::as_bytes(std::span<const char>(bytes)), "m.gguf", faults);
  CHECK(faults.empty());
  return read_gguf_tokenizer(content, "m.gguf"); // values only: nothing points into the file
}

std::string refusal(const changes& with) {
  const auto parts = read(with);
  REQUIRE_FALSE(parts);
  CHECK(parts.error().code == errc::reject);
  return parts.error().message;
}

std::string cut(const std::string& pre, std::string_view text) {
  changes with;
  with.pre = pre;
  with.also = [](gguf_writer& out) { out.flag("tokenizer.ggml.add_bos_token", false); };
  const auto parts = read(with);
  if (!parts) FAIL(parts.error().message);
  std::vector<std::string_view> pieces{text};
  for (const auto& split : parts->text.splits) {
    std::vector<std::string_view> finer;
    for (const auto piece : pieces) split.split(piece, finer);
    pieces = std::move(finer);
  }
  return fmt::format("{}", fmt::join(pieces, "|"));
}

} // namespace

TEST_CASE("each name of a pre-tokenizer cuts text as Hugging Face's expression for it does") {
  const std::string text = "It's 1234 HELLO'S fooBar!?\n\n  x";
  CHECK(cut("gpt-2", text) == "It|'s| 1234| HELLO|'|S| fooBar|!?|\n\n | x");
  CHECK(cut("smollm", text) == "It|'s| |1|2|3|4| HELLO|'|S| fooBar|!?|\n\n | x");
  CHECK(cut("llama-bpe", text) == "It|'s| |123|4| HELLO|'S| fooBar|!?\n\n| | x");
  CHECK(cut("qwen2", text) == "It|'s| |1|2|3|4| HELLO|'S| fooBar|!?\n\n| | x");
  CHECK(cut("tekken", text) == "It|'s| |1|2|3|4| HELLO|'S| foo|Bar|!?\n\n| | x");
  CHECK(cut("default", text) == "It|'|s| |123|4| HELLO|'|S| fooBar|!?|\n\n | x");
}

TEST_CASE("names of one family stand for the same, and carry their own rules") {
  CHECK(read({.pre = "llama-bpe", .also = [](gguf_writer& out) { out.natural("tokenizer.ggml.bos_token_id", 3); }})
            ->prefix == std::vector<token_id>{3});
  CHECK(read(
      {.pre = "llama-bpe", .also = [](gguf_writer& out) {
         out.natural("tokenizer.ggml.bos_token_id", 3);
       }})->whole.contains("a"));
  CHECK(read({.pre = "smollm"})->whole.empty());
  CHECK(read({.pre = "smollm"})->prefix.empty());
  CHECK(read({.pre = "smollm"})->text.normalizer.empty());
  CHECK(read({.pre = "qwen2"})->text.normalizer.size() == 1);
}

TEST_CASE("tokens of each kind find their place") {
  const auto parts = read({.more_tokens = {"<|end|>", "<tool>", "[PAD]", "ab"},
      .more_types = {3, 4, 5, 1},
      .merges = {"a b"},
      .also = [](gguf_writer& out) {
        out.flag("tokenizer.ggml.add_bos_token", true).natural("tokenizer.ggml.bos_token_id", 256);
      }});
  REQUIRE(parts);
  REQUIRE(parts->added.size() == 2);
  CHECK(parts->added[0].id == 256);
  CHECK(parts->added[0].special);
  CHECK(parts->added[1].content == "<tool>");
  CHECK_FALSE(parts->added[1].special);
  CHECK(parts->token_bytes.size() == 260);
  CHECK(parts->token_bytes[258].empty());
  CHECK(parts->merges.size() == 1);
  CHECK(parts->merges[0].merged == 259);
  CHECK(parts->prefix == std::vector<token_id>{256});
}

TEST_CASE("tokenizers of other kinds are refused by key") {
  check_says(refusal({.model = "bert"}), {"m.gguf: tokenizer.ggml.model", "byte-level BPE", "\"bert\""});
  check_says(refusal({.model = ""}), {"tokenizer.ggml.model", "nothing"});
  check_says(refusal({.pre = "viking"}), {"m.gguf: tokenizer.ggml.pre: found the string \"viking\"", "known: smollm"});
  check_says(refusal({.pre = ""}), {"tokenizer.ggml.pre: found nothing"});
  check_says(refusal({.also = [](gguf_writer& out) { out.flag("tokenizer.ggml.add_eos_token", true); }}),
      {"tokenizer.ggml.add_eos_token: true is not supported"});
  check_says(refusal({.also = [](gguf_writer& out) { out.natural("tokenizer.ggml.add_bos_token", 1); }}),
      {"tokenizer.ggml.add_bos_token", "true or false"});
}

TEST_CASE("damaged token lists are refused by key and entry") {
  check_says(refusal({.more_tokens = {"x"}}), {"token_type: expected a list of 257 integers", "a list of 256"});
  check_says(refusal({.more_tokens = {"a"}, .more_types = {1}}), {"tokenizer.ggml.tokens: entry 256", "twice"});
  check_says(refusal({.more_tokens = {"\xff"}, .more_types = {1}}), {"tokenizer.ggml.tokens: entry 256", "not UTF-8"});
  check_says(refusal({.more_tokens = {"x1"}, .more_types = {9}}), {"token_type: entry 256: 9 is unknown"});
  check_says(refusal({.merges = {"a b"}}), {"m.gguf: tokenizer.ggml", "merges: entry 0", "\"a\" and \"b\""});
  check_says(refusal({.merges = {"ab"}}), {"merges: entry 0"});
  check_says(refusal({.more_tokens = {""}, .more_types = {3}}), {"m.gguf: tokenizer.ggml"});
  check_says(refusal({.pre = "llama-bpe"}), {"tokenizer.ggml.bos_token_id", "below 256", "nothing"});
  check_says(
      refusal({.pre = "llama-bpe", .also = [](gguf_writer& out) { out.natural("tokenizer.ggml.bos_token_id", 256); }}),
      {"tokenizer.ggml.bos_token_id", "found 256"});
}

} // namespace hflex::gguf_tokenizer_test
