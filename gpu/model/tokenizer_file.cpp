#include "gpu/model/tokenizer_file.hpp"
#include "gpu/model/gguf_tokenizer.hpp"
#include "gpu/model/json_file.hpp"
#include "gpu/model/utf8.hpp"
#include <algorithm>
#include <optional>
#include <unordered_map>
#include <unordered_set>

namespace hflex::gpu {
namespace {

using nlohmann::json;

constexpr std::uint64_t max_file_bytes = 256U << 20U;
constexpr std::size_t max_ids = 1U << 22U; // 25 times the largest vocabulary there is
constexpr std::size_t max_added_bytes = 1024;
constexpr std::size_t max_splits = 16;
constexpr std::size_t max_prefix = 16;

/// ByteLevel's own expression (GPT-2's).
constexpr auto byte_level_regex = R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// The member, or null when the value is no object or has no such member: lets checks be written without asking thrice.
const json& member(const json& value, const char* key) {
  static const json none;
  if (!value.is_object()) return none;
  const auto at = value.find(key);
  return at == value.end() ? none : *at;
}

std::string_view text_of(const json& value) {
  const auto* text = value.get_ptr<const std::string*>();
  return text != nullptr ? std::string_view(*text) : std::string_view();
}

bool is_true(const json& value) { return value.is_boolean() && value.get<bool>(); }

/// Byte-level vocabularies write each byte as one printable character: itself where that is printable, the others as
/// U+0100 onwards in order.
class byte_alphabet {
public:
  byte_alphabet() {
    byte_of_.fill(-1);
    int next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool itself = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
      byte_of_[static_cast<std::size_t>(itself ? byte : next++)] = byte;
    }
  }
  /// The bytes that a token's text stands for; nothing when it has characters outside the alphabet.
  std::optional<std::string> bytes_of(std::string_view token) const {
    std::string out;
    while (!token.empty()) {
      const auto length = next_utf8(token).bytes;
      const auto point = code_point(token.substr(0, length));
      if (point >= byte_of_.size() || byte_of_[point] < 0) return std::nullopt;
      out += static_cast<char>(byte_of_[point]);
      token.remove_prefix(length);
    }
    return out;
  }

private:
  std::array<int, 0x144> byte_of_{}; // 68 bytes are not printable
};

/// Fills tokenizer_parts section by section. Every method reports its section's first fault.
class parser {
public:
  explicit parser(const json& root) : root_(root), model_(member(root, "model")) {}

  result<tokenizer_parts> run() {
    for (const auto step : {&parser::read_kind, &parser::read_vocabulary, &parser::read_added, &parser::read_bytes,
             &parser::read_merges, &parser::read_normalizer, &parser::read_pre_tokenizer, &parser::read_post_processor,
             &parser::read_decoder}) {
      if (auto status = (this->*step)(); !status) return pass(std::move(status.error()));
    }
    return std::move(parts_);
  }

private:
  static tl::unexpected<error> unsupported(const char* what, const json& value) {
    const auto type = text_of(member(value, "type"));
    return fail(errc::reject, "{}: {} is not supported; byte-level BPE tokenizers are (GPT-2, Llama 3, Qwen, SmolLM)",
        what, type.empty() ? described(value) : printable(type));
  }

  result<void> read_kind() {
    if (!root_.is_object()) return fail(errc::reject, "expected an object, found {}", described(root_));
    if (text_of(member(model_, "type")) != "BPE") return unsupported("model", model_);
    for (const auto* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const auto& value = member(model_, key);
      if (!value.is_null() && value != "")
        return fail(errc::reject, "model.{}: {} is not supported", key, described(value));
    }
    for (const auto* key : {"dropout", "byte_fallback"}) {
      const auto& value = member(model_, key);
      if (!value.is_null() && value != false && value != 0) {
        return fail(errc::reject, "model.{}: {} is not supported", key, described(value));
      }
    }
    parts_.ignore_merges = is_true(member(model_, "ignore_merges"));
    return {};
  }

  static result<token_id> id_of(const json& value, std::string_view token) {
    if (value.is_number_unsigned() && value.get<std::uint64_t>() < max_ids) return value.get<token_id>();
    return fail(
        errc::reject, "token {}: expected an id below {}, found {}", printable(token), max_ids, described(value));
  }

  result<void> add(token_id id, std::string_view text) {
    const auto at = static_cast<std::size_t>(id);
    if (at >= parts_.token_bytes.size()) {
      parts_.token_bytes.resize(at + 1);
      known_.resize(at + 1);
    }
    if (known_[at]) return fail(errc::reject, "token {}: id {} is another token's too", printable(text), id);
    known_[at] = true;
    parts_.token_bytes[at] = alphabet_.bytes_of(text).value_or(std::string(text));
    return {};
  }

  result<void> read_vocabulary() {
    const auto& vocab = member(model_, "vocab");
    if (!vocab.is_object() || vocab.empty()) {
      return fail(errc::reject, "model.vocab: expected an object of tokens and ids, found {}", described(vocab));
    }
    ids_.reserve(vocab.size());
    for (const auto& [text, value] : vocab.get_ref<const json::object_t&>()) {
      const auto id = id_of(value, text);
      if (!id) return pass(id.error());
      if (auto status = add(*id, text); !status) return status;
      ids_.emplace(text, *id);
    }
    return {};
  }

  result<void> read_added() {
    const auto& list = member(root_, "added_tokens");
    if (!list.is_array() && !list.is_null()) return fail(errc::reject, "added_tokens: expected a list");
    for (const auto& item : list) {
      const auto content = text_of(member(item, "content"));
      if (content.empty() || content.size() > max_added_bytes) {
        return fail(errc::reject, "added_tokens: an entry's content is not a string of 1 to {} bytes", max_added_bytes);
      }
      for (const auto* key : {"single_word", "lstrip", "rstrip"}) {
        if (is_true(member(item, key))) {
          return fail(errc::reject, "added token {}: {} is not supported", printable(content), key);
        }
      }
      const auto id = id_of(member(item, "id"), content);
      if (!id) return pass(id.error());
      const auto in_vocab = ids_.find(content);
      if (in_vocab == ids_.end()) {
        if (auto status = add(*id, content); !status) return status;
      } else if (in_vocab->second != *id) {
        return fail(
            errc::reject, "added token {}: id {}, but {} in model.vocab", printable(content), *id, in_vocab->second);
      }
      const bool special = is_true(member(item, "special"));
      if (special) specials_.insert(*id);
      parts_.added.push_back({*id, std::string(content), special, is_true(member(item, "normalized"))});
    }
    return {};
  }

  /// The tokens of single bytes, and everything that ordinary text may become.
  result<void> read_bytes() {
    parts_.byte_tokens.fill(bpe::no_token);
    for (const auto& [text, id] : ids_) {
      const auto bytes = alphabet_.bytes_of(text);
      if (!bytes || bytes->empty() || specials_.count(id) != 0) continue;
      parts_.byte_level_tokens.push_back(id);
      if (bytes->size() == 1) parts_.byte_tokens[static_cast<unsigned char>(bytes->front())] = id;
    }
    std::sort(parts_.byte_level_tokens.begin(), parts_.byte_level_tokens.end());
    // Vocabularies made from text alone (SmolLM2's) lack bytes that it does not hold.
    constexpr std::string_view blanks = "\t\n\r";
    for (std::size_t byte = 0; byte < parts_.byte_tokens.size(); ++byte) {
      const bool needed = (byte >= 0x20 && byte < 0x7f) || blanks.find(static_cast<char>(byte)) != blanks.npos;
      if (!needed || parts_.byte_tokens[byte] != bpe::no_token) continue;
      return fail(errc::reject,
          "model.vocab: byte 0x{:02x} has no (ordinary) token; a byte-level vocabulary has all of printable ASCII",
          byte);
    }
    return {};
  }

  /// "a b" or ["a", "b"].
  static std::optional<std::pair<std::string_view, std::string_view>> sides_of(const json& merge) {
    if (merge.is_array() && merge.size() == 2) return std::pair{text_of(merge[0]), text_of(merge[1])};
    const auto text = text_of(merge);
    const auto blank = text.find(' ');
    if (blank == text.npos || text.find(' ', blank + 1) != text.npos) return std::nullopt;
    return std::pair{text.substr(0, blank), text.substr(blank + 1)};
  }

  result<void> read_merges() {
    const auto& list = member(model_, "merges");
    if (!list.is_array()) return fail(errc::reject, "model.merges: expected a list, found {}", described(list));
    parts_.merges.reserve(list.size());
    for (const auto& item : list) {
      const auto sides = sides_of(item);
      if (!sides) {
        return fail(errc::reject, "model.merges: entry {}: expected \"a b\" or [\"a\", \"b\"], found {}",
            parts_.merges.size(), described(item));
      }
      const auto left = ids_.find(sides->first);
      const auto right = ids_.find(sides->second);
      const auto whole = ids_.find(std::string(sides->first) + std::string(sides->second));
      if (left == ids_.end() || right == ids_.end() || whole == ids_.end()) {
        return fail(errc::reject, "model.merges: entry {}: {} and {} or what they make are not in model.vocab",
            parts_.merges.size(), printable(sides->first), printable(sides->second));
      }
      // Otherwise a prompt could smuggle in control tokens although their text is not parsed.
      if (specials_.count(whole->second) != 0) {
        return fail(errc::reject, "model.merges: entry {} makes the special token {}", parts_.merges.size(),
            printable(whole->first));
      }
      parts_.merges.push_back({left->second, right->second, whole->second});
    }
    return {};
  }

  result<void> read_normalizer() {
    const auto& top = member(root_, "normalizer");
    const auto& list = text_of(member(top, "type")) == "Sequence" ? member(top, "normalizers") : top;
    const auto read_one = [&](const json& item) {
      if (text_of(member(item, "type")) == "NFC") return parts_.compose = true;
      return item.is_null();
    };
    if (!list.is_array()) return read_one(list) ? result<void>{} : unsupported("normalizer", list);
    for (const auto& item : list) {
      if (!read_one(item)) return unsupported("normalizer", item);
    }
    return {};
  }

  result<void> read_pre_tokenizer() {
    const auto& top = member(root_, "pre_tokenizer");
    bool byte_level = false;
    const auto read_one = [&](const json& item) -> result<void> {
      if (byte_level) return fail(errc::reject, "pre_tokenizer: {} after ByteLevel is not supported", described(item));
      const auto type = text_of(member(item, "type"));
      byte_level = type == "ByteLevel";
      if (byte_level) return read_byte_level(item);
      if (type == "Split") return read_split(item);
      if (type == "Digits") return add_split(is_true(member(item, "individual_digits")) ? R"(\p{N})" : R"(\p{N}+)");
      return unsupported("pre_tokenizer", item);
    };
    const json alone = json::array({top});
    const bool sequence = text_of(member(top, "type")) == "Sequence";
    for (const auto& item : sequence ? member(top, "pretokenizers") : alone) {
      if (auto status = read_one(item); !status) return status;
    }
    if (byte_level) return {};
    return fail(errc::reject, "pre_tokenizer: has no ByteLevel, so this is not a byte-level tokenizer");
  }

  result<void> read_byte_level(const json& item) {
    if (is_true(member(item, "add_prefix_space"))) {
      return fail(errc::reject, "pre_tokenizer: ByteLevel: add_prefix_space is not supported");
    }
    const auto& use_regex = member(item, "use_regex"); // older files have none and mean true
    return use_regex.is_null() || is_true(use_regex) ? add_split(byte_level_regex) : result<void>{};
  }

  result<void> read_split(const json& item) {
    const auto& regex = member(member(item, "pattern"), "Regex");
    if (!regex.is_string()) return fail(errc::reject, "pre_tokenizer: Split: expected pattern.Regex");
    if (text_of(member(item, "behavior")) != "Isolated" || is_true(member(item, "invert"))) {
      return fail(errc::reject, "pre_tokenizer: Split: only behavior Isolated without invert is supported");
    }
    return add_split(text_of(regex));
  }

  result<void> add_split(std::string_view pattern) {
    if (parts_.splits.size() == max_splits) return fail(errc::reject, "pre_tokenizer: more than {} splits", max_splits);
    auto split = split_regex::compile(pattern);
    if (!split) return fail(errc::reject, "pre_tokenizer: {}", split.error().message);
    parts_.splits.push_back(std::move(*split));
    return {};
  }

  result<void> read_post_processor() {
    const auto& top = member(root_, "post_processor");
    const auto read_one = [&](const json& item) -> result<void> {
      const auto type = text_of(member(item, "type"));
      if (item.is_null() || type == "ByteLevel") return {}; // ByteLevel here only trims offsets
      return type == "TemplateProcessing" ? read_template(item) : unsupported("post_processor", item);
    };
    if (text_of(member(top, "type")) != "Sequence") return read_one(top);
    for (const auto& item : member(top, "processors")) {
      if (auto status = read_one(item); !status) return status;
    }
    return {};
  }

  result<void> read_template(const json& item) {
    bool text_seen = false;
    for (const auto& part : member(item, "single")) {
      const auto name = text_of(member(member(part, "SpecialToken"), "id"));
      if (name.empty()) {
        if (text_seen || text_of(member(member(part, "Sequence"), "id")) != "A") {
          return fail(errc::reject, "post_processor: single: expected special tokens, then the sequence A");
        }
        text_seen = true;
        continue;
      }
      if (text_seen) return fail(errc::reject, "post_processor: single: tokens after the text are not supported");
      const auto& ids = member(member(member(item, "special_tokens"), std::string(name).c_str()), "ids");
      if (!ids.is_array() || ids.empty() || parts_.prefix.size() + ids.size() > max_prefix) {
        return fail(
            errc::reject, "post_processor: special_tokens: {}: expected 1 to {} ids", printable(name), max_prefix);
      }
      for (const auto& value : ids) {
        const auto id = id_of(value, name);
        if (!id) return pass(id.error());
        if (static_cast<std::size_t>(*id) >= known_.size() || !known_[static_cast<std::size_t>(*id)]) {
          return fail(errc::reject, "post_processor: special_tokens: {}: no token has id {}", printable(name), *id);
        }
        parts_.prefix.push_back(*id);
      }
    }
    if (text_seen) return {};
    return fail(errc::reject, "post_processor: single: has no sequence A, the text itself");
  }

  result<void> read_decoder() {
    const auto& top = member(root_, "decoder");
    return text_of(member(top, "type")) == "ByteLevel" ? result<void>{} : unsupported("decoder", top);
  }

  const json& root_;
  const json& model_;
  const byte_alphabet alphabet_;
  tokenizer_parts parts_;
  std::vector<bool> known_;                            ///< by id
  std::unordered_map<std::string_view, token_id> ids_; ///< model.vocab; the keys live in the document
  std::unordered_set<token_id> specials_;
};

} // namespace

result<tokenizer_parts> read_tokenizer(const json& document, const std::string& source) {
  auto parts = parser(document).run();
  if (!parts) return fail(errc::reject, "{}: {}", source, parts.error().message);
  return parts;
}

result<tokenizer_parts> parse_tokenizer(std::string_view text, const std::string& source) {
  const auto document = parse_json(text, source);
  if (!document) return pass(document.error());
  return read_tokenizer(*document, source);
}

result<tokenizer_parts> load_tokenizer_parts(const std::string& model) {
  const auto gguf = gguf_path_of(model);
  if (!gguf) return pass(gguf.error());
  if (*gguf) return load_gguf_tokenizer(**gguf);
  const auto path = model + "/tokenizer.json";
  return read_file(path, max_file_bytes).and_then([&](const std::string& text) { return parse_tokenizer(text, path); });
}

} // namespace hflex::gpu
