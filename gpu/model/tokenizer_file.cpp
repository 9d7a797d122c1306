#include "gpu/model/tokenizer_file.hpp"
#include "gpu/model/gguf_tokenizer.hpp"
#include "gpu/model/json_file.hpp"
#include "gpu/model/json_view.hpp"
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
constexpr std::size_t max_prefix = 16;

constexpr auto no_token = alphabet::no_token;

/// Byte-level vocabularies write each byte as one printable character: itself where that is printable, the others as
/// U+0100 onwards in order.
class byte_spelling {
public:
  byte_spelling() {
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
    for (const auto step :
        {&parser::read_kind, &parser::read_pipeline_of, &parser::read_vocabulary, &parser::read_added,
            &parser::read_letters, &parser::read_merges, &parser::read_whole, &parser::read_post_processor}) {
      if (auto status = (this->*step)(); !status) return pass(std::move(status.error()));
    }
    return std::move(parts_);
  }

private:
  result<void> read_kind() {
    if (!root_.is_object()) return fail(errc::reject, "expected an object, found {}", described(root_));
    const auto type = text_of(member(model_, "type"));
    if (type != "BPE") {
      return fail(errc::reject, "model: {} is not supported; byte-level BPE and SentencePiece's BPE are",
          type.empty() ? described(model_) : printable(type));
    }
    for (const auto* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const auto& value = member(model_, key);
      if (!value.is_null() && value != "")
        return fail(errc::reject, "model.{}: {} is not supported", key, described(value));
    }
    const auto& dropout = member(model_, "dropout");
    if (!dropout.is_null() && dropout != 0)
      return fail(errc::reject, "model.dropout: {} is not supported", described(dropout));
    return {};
  }

  result<void> read_pipeline_of() {
    auto read = read_pipeline(root_);
    if (!read) return pass(std::move(read.error()));
    parts_.text = std::move(*read);
    if (parts_.text.byte_level && is_true(member(model_, "byte_fallback")))
      return fail(errc::reject, "model.byte_fallback: true is not supported in a byte-level tokenizer");
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
    parts_.token_bytes[at] = parts_.text.byte_level ? spelling_.bytes_of(text).value_or(std::string(text))
                                                    : decoded_piece(text, parts_.text);
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
      const bool normal = is_true(member(item, "normalized"));
      if (normal && !parts_.text.byte_level) // it was found with the mark that the normalizer put before it
        parts_.token_bytes[static_cast<std::size_t>(*id)] =
            decoded_piece(normalized(content, parts_.text.normalizer), parts_.text);
      const bool special = is_true(member(item, "special"));
      if (special) specials_.insert(*id);
      parts_.added.push_back({*id, std::string(content), special, normal});
    }
    return {};
  }

  result<void> read_letters() { return parts_.text.byte_level ? read_bytes() : read_characters(); }

  bool is_ordinary(token_id id) const { return specials_.count(id) == 0; }

  /// The tokens of single bytes of a byte-level vocabulary.
  result<void> read_bytes() {
    auto& bytes = parts_.letters.bytes;
    for (const auto& [text, id] : ids_) {
      const auto spelled = spelling_.bytes_of(text);
      if (!spelled || spelled->size() != 1 || !is_ordinary(id)) continue;
      bytes[static_cast<unsigned char>(spelled->front())] = id;
    }
    // Vocabularies made from text alone (SmolLM2's) lack bytes that it does not hold.
    constexpr std::string_view blanks = "\t\n\r";
    for (std::size_t byte = 0; byte < bytes.size(); ++byte) {
      const bool needed = (byte >= 0x20 && byte < 0x7f) || blanks.find(static_cast<char>(byte)) != blanks.npos;
      if (!needed || bytes[byte] != no_token) continue;
      return fail(errc::reject,
          "model.vocab: byte 0x{:02x} has no (ordinary) token; a byte-level vocabulary has all of printable ASCII",
          byte);
    }
    return {};
  }

  /// The tokens of single characters, of the bytes that others fall back to, or of the unknown.
  result<void> read_characters() {
    auto& letters = parts_.letters;
    letters.by_character = true;
    for (const auto& [text, id] : ids_) {
      if (text.empty() || next_utf8(text).bytes != text.size()) continue;
      if (!is_ordinary(id))
        return fail(errc::reject, "special token {}: is one character, which any text may hold", printable(text));
      letters.characters.emplace(code_point(text), id);
    }
    if (is_true(member(model_, "byte_fallback"))) return read_fallback_bytes();
    const auto& unknown = member(model_, "unk_token");
    if (unknown.is_null()) return {};
    const auto found = ids_.find(text_of(unknown));
    if (found == ids_.end()) return fail(errc::reject, "model.unk_token: {} is not in model.vocab", described(unknown));
    letters.unknown = found->second;
    letters.fuse_unknown = is_true(member(model_, "fuse_unk"));
    return {};
  }

  result<void> read_fallback_bytes() {
    for (std::size_t byte = 0; byte < parts_.letters.bytes.size(); ++byte) {
      const auto name = fmt::format("<0x{:02X}>", byte);
      const auto found = ids_.find(name);
      if (found == ids_.end() || !is_ordinary(found->second)) {
        return fail(errc::reject,
            "model.vocab: byte_fallback is true, but {} has no (ordinary) token; all 256 bytes are expected", name);
      }
      parts_.letters.bytes[byte] = found->second;
    }
    return {};
  }

  /// What a whole piece is looked up in when it need not be merged.
  result<void> read_whole() {
    if (!is_true(member(model_, "ignore_merges"))) return {};
    parts_.whole.reserve(ids_.size());
    for (const auto& [text, id] : ids_) {
      const auto spelled = parts_.text.byte_level ? spelling_.bytes_of(text) : std::optional(std::string(text));
      if (spelled && !spelled->empty() && is_ordinary(id)) parts_.whole.emplace(*spelled, id);
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
      const auto rank = static_cast<std::uint32_t>(parts_.merges.size());
      parts_.merges.push_back({left->second, right->second, whole->second, rank});
    }
    return {};
  }

  result<void> read_post_processor() {
    const auto& top = member(root_, "post_processor");
    const auto read_one = [&](const json& item) -> result<void> {
      const auto type = text_of(member(item, "type"));
      if (item.is_null() || type == "ByteLevel") return {}; // ByteLevel here only trims offsets
      return type == "TemplateProcessing" ? read_template(item)
                                          : fail(errc::reject, "post_processor: {} is not supported",
                                                type.empty() ? described(item) : printable(type));
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

  const json& root_;
  const json& model_;
  const byte_spelling spelling_;
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
