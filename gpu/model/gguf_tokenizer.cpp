#include "gpu/model/gguf_tokenizer.hpp"
#include "gpu/model/json_file.hpp"
#include "gpu/model/spm_merges.hpp"
#include "gpu/model/utf8.hpp"
#include <algorithm>
#include <array>
#include <cmath>

namespace hflex::gpu {
namespace {

using nlohmann::json;

/// How text is cut before merging: what tokenizer.ggml.pre names.
struct pre_tokenizer {
  std::string_view name;
  bool compose{};       ///< NFC first
  bool ignore_merges{}; ///< a whole piece that is a token is not merged
  bool add_bos{};       ///< where the file does not say
  std::array<std::string_view, 4> splits{};
};

constexpr std::string_view gpt2 = R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view digit = R"(\p{N})";
constexpr std::string_view llama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view tekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr std::array pre_tokenizers{
    pre_tokenizer{"smollm", false, false, false, {digit, gpt2}},
    pre_tokenizer{"starcoder", false, false, false, {digit, gpt2}},
    pre_tokenizer{"codeshell", false, false, false, {digit, gpt2}},
    pre_tokenizer{"gpt-2", false, false, false, {gpt2}},
    pre_tokenizer{"phi-2", false, false, false, {gpt2}},
    pre_tokenizer{"llama-bpe", false, true, true, {llama3}},
    pre_tokenizer{"llama3", false, true, true, {llama3}},
    pre_tokenizer{"llama-v3", false, true, true, {llama3}},
    pre_tokenizer{"qwen2", true, false, false, {qwen2}},
    pre_tokenizer{"deepseek-r1-qwen", true, false, false, {qwen2}},
    pre_tokenizer{"tekken", false, true, true, {tekken}},
    // What llama.cpp takes for vocabularies that its converter did not recognise.
    pre_tokenizer{"default", false, false, false, {R"([\p{P}\$\+<=>\^~\|]+)", gpt2, R"(\p{N}+)", R"([0-9][0-9][0-9])"}},
};

/// tokenizer.ggml.token_type
enum token_type : std::int64_t { normal = 1, unknown, control, user_defined, unused, byte };

/// Cutting a piece in all ways takes the square of its length; SentencePiece's own limit is 16 characters.
constexpr std::size_t max_piece_bytes = 256;
constexpr auto space_mark = "\xe2\x96\x81"; // U+2581, a blank in SentencePiece's vocabularies

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const auto step = next_utf8(text);
    if (step.what != utf8_step::kind::character) return false;
    text.remove_prefix(step.bytes);
  }
  return true;
}

class tokenizer_translator {
public:
  explicit tokenizer_translator(const gguf_content& content) : in_(content) {}

  result<tokenizer_parts> run() {
    document_["model"] = {{"type", "BPE"}};
    const auto status = read_kind();
    if (!status) return pass(status.error());
    for (const auto step : by_score_ ? score_steps() : merge_steps()) {
      if (auto done = (this->*step)(); !done) return pass(std::move(done.error()));
    }
    auto parts = read_tokenizer(document_, "tokenizer.ggml");
    if (parts && by_score_) parts->merges = merges_by_score(pieces_);
    return parts;
  }

private:
  using step_list = std::vector<result<void> (tokenizer_translator::*)()>;
  static step_list merge_steps() {
    return {&tokenizer_translator::read_pre, &tokenizer_translator::read_tokens, &tokenizer_translator::read_merges,
        &tokenizer_translator::read_prefix};
  }
  static step_list score_steps() {
    return {&tokenizer_translator::read_spaces, &tokenizer_translator::read_tokens, &tokenizer_translator::read_scores,
        &tokenizer_translator::read_prefix};
  }

  /// `found` as it is, or "nothing".
  static std::string shown(const gguf_value* found) { return found != nullptr ? described(*found) : "nothing"; }

  result<void> read_kind() {
    const auto* model = in_.find("tokenizer.ggml.model");
    by_score_ = text_of(model) == "llama";
    if (by_score_ || text_of(model) == "gpt2") return {};
    return fail(errc::reject,
        "tokenizer.ggml.model: expected \"gpt2\" (byte-level BPE) or \"llama\" (SentencePiece's), found {}",
        shown(model));
  }

  result<void> read_pre() {
    const auto* name = in_.find("tokenizer.ggml.pre");
    std::vector<std::string_view> names;
    for (const auto& pre : pre_tokenizers) {
      if (text_of(name) == pre.name) pre_ = &pre;
      names.push_back(pre.name);
    }
    if (pre_ == nullptr) {
      return fail(errc::reject, "tokenizer.ggml.pre: found {}; known: {}", shown(name), fmt::join(names, ", "));
    }
    const auto spaces = flag("tokenizer.ggml.add_space_prefix", false);
    if (!spaces) return pass(spaces.error());
    if (*spaces) return fail(errc::reject, "tokenizer.ggml.add_space_prefix: true is not supported for \"gpt2\"");
    add_bos_ = pre_->add_bos;
    document_["decoder"] = {{"type", "ByteLevel"}};
    document_["model"]["ignore_merges"] = pre_->ignore_merges;
    if (pre_->compose) document_["normalizer"] = {{"type", "NFC"}};
    json steps = json::array();
    for (const auto regex : pre_->splits) {
      if (regex.empty()) continue;
      steps.push_back({{"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", std::string(regex)}}}});
    }
    steps.push_back({{"type", "ByteLevel"}, {"use_regex", false}});
    document_["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
    return {};
  }

  /// Blanks are marks, one more before each run of text; what has no piece is spelled in bytes.
  result<void> read_spaces() {
    const auto prefix = flag("tokenizer.ggml.add_space_prefix", true);
    if (!prefix) return pass(prefix.error());
    const auto replace = [](const char* from, const char* to) {
      return json{{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
    };
    json before = json::array();
    json after = {replace(space_mark, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
    if (*prefix) {
      before.push_back({{"type", "Prepend"}, {"prepend", space_mark}});
      after.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1U}, {"stop", 0U}});
    }
    before.push_back(replace(" ", space_mark));
    document_["normalizer"] = {{"type", "Sequence"}, {"normalizers", std::move(before)}};
    document_["decoder"] = {{"type", "Sequence"}, {"decoders", std::move(after)}};
    document_["model"]["byte_fallback"] = true;
    document_["model"]["merges"] = json::array(); // the scores say it
    add_bos_ = true;
    return {};
  }

  result<void> read_scores() {
    const auto* value = in_.find("tokenizer.ggml.scores");
    const auto scores = value != nullptr ? reals_of(*value) : std::nullopt;
    if (!scores || scores->size() != token_count_) {
      return fail(errc::reject, "tokenizer.ggml.scores: expected a list of {} numbers (f32), found {}", token_count_,
          shown(value));
    }
    for (auto& piece : pieces_) {
      piece.score = (*scores)[static_cast<std::size_t>(piece.id)];
      if (!std::isfinite(piece.score))
        return fail(errc::reject, "tokenizer.ggml.scores: entry {}: {} is no number", piece.id, piece.score);
      if (piece.text.size() > max_piece_bytes)
        return fail(errc::reject, "tokenizer.ggml.tokens: entry {}, {}, has more than {} bytes", piece.id,
            printable(piece.text), max_piece_bytes);
    }
    return {};
  }

  result<std::vector<std::string_view>> strings(const char* key) const {
    const auto* value = in_.find(key);
    auto list = value != nullptr ? strings_of(*value) : std::nullopt;
    if (!list) return fail(errc::reject, "{}: expected a list of strings, found {}", key, shown(value));
    for (std::size_t i = 0; i < list->size(); ++i) {
      if (is_utf8((*list)[i])) continue;
      return fail(errc::reject, "{}: entry {}, {}, is not UTF-8", key, i, printable((*list)[i]));
    }
    return std::move(*list);
  }

  result<void> read_tokens() {
    auto tokens = strings("tokenizer.ggml.tokens");
    if (!tokens) return pass(std::move(tokens.error()));
    const auto* value = in_.find("tokenizer.ggml.token_type");
    const auto types = value != nullptr ? integers_of(*value) : std::nullopt;
    if (!types || types->size() != tokens->size()) {
      return fail(errc::reject, "tokenizer.ggml.token_type: expected a list of {} integers, found {}", tokens->size(),
          shown(value));
    }
    json::object_t vocab;
    json added = json::array();
    for (std::size_t id = 0; id < tokens->size(); ++id) {
      const std::string text((*tokens)[id]);
      const bool merges = (*types)[id] == normal || (*types)[id] == user_defined;
      if (by_score_ && merges && !text.empty()) pieces_.push_back({(*tokens)[id], static_cast<token_id>(id)});
      switch ((*types)[id]) {
      case normal:
      case byte:
        break;
      case unknown:
      case control:
      case user_defined:
        added.push_back({{"id", id}, {"content", text}, {"special", (*types)[id] != user_defined}});
        break;
      case unused: // keeps a place in the embeddings free
        continue;
      default:
        return fail(errc::reject, "tokenizer.ggml.token_type: entry {}: {} is unknown", id, (*types)[id]);
      }
      if (vocab.emplace(text, id).second) continue;
      return fail(errc::reject, "tokenizer.ggml.tokens: entry {}, {}, is there twice", id, printable(text));
    }
    token_count_ = tokens->size();
    document_["model"]["vocab"] = std::move(vocab);
    document_["added_tokens"] = std::move(added);
    return {};
  }

  result<void> read_merges() {
    auto merges = strings("tokenizer.ggml.merges");
    if (!merges) return pass(std::move(merges.error()));
    json list = json::array();
    for (const auto merge : *merges) list.push_back(std::string(merge));
    document_["model"]["merges"] = std::move(list);
    return {};
  }

  result<bool> flag(const char* key, bool absent) const {
    const auto* value = in_.find(key);
    if (value == nullptr) return absent;
    if (const auto* set = std::get_if<bool>(value)) return *set;
    return fail(errc::reject, "{}: expected true or false, found {}", key, described(*value));
  }

  /// What stands before every text: bos or nothing.
  result<void> read_prefix() {
    const auto add_eos = flag("tokenizer.ggml.add_eos_token", false);
    if (!add_eos) return pass(add_eos.error());
    if (*add_eos) return fail(errc::reject, "tokenizer.ggml.add_eos_token: true is not supported");
    const auto add_bos = flag("tokenizer.ggml.add_bos_token", add_bos_);
    if (!add_bos) return pass(add_bos.error());
    if (!*add_bos) return {};
    const auto* bos = in_.find("tokenizer.ggml.bos_token_id");
    const auto id = natural_of(bos);
    if (!id || *id >= token_count_) {
      return fail(errc::reject, "tokenizer.ggml.bos_token_id: expected a token id below {}, found {}", token_count_,
          shown(bos));
    }
    document_["post_processor"] = {{"type", "TemplateProcessing"},
        {"single", {{{"SpecialToken", {{"id", "bos"}}}}, {{"Sequence", {{"id", "A"}}}}}},
        {"special_tokens", {{"bos", {{"ids", {*id}}}}}}};
    return {};
  }

  const gguf_content& in_;
  bool by_score_{false}; ///< SentencePiece's kind
  bool add_bos_{false};  ///< where the file does not say
  const pre_tokenizer* pre_{nullptr};
  std::vector<scored_piece> pieces_; ///< by_score_ only: what text is merged into
  std::size_t token_count_{};
  json document_;
};

} // namespace

result<tokenizer_parts> read_gguf_tokenizer(const gguf_content& content, const std::string& source) {
  auto parts = tokenizer_translator(content).run();
  if (!parts) return fail(errc::reject, "{}: {}", source, parts.error().message);
  return parts;
}

result<tokenizer_parts> load_gguf_tokenizer(const std::string& path) {
  return open_gguf(path).and_then([&](const gguf_file& file) { return read_gguf_tokenizer(file.content, path); });
}

std::optional<std::string> gguf_chat_template(const std::string& model) {
  const auto path = gguf_path_of(model);
  if (!path || !*path) return std::nullopt;
  const auto file = open_gguf(**path);
  if (!file) return std::nullopt;
  const auto text = text_of(file->content.find("tokenizer.chat_template"));
  return text ? std::optional<std::string>(*text) : std::nullopt;
}

} // namespace hflex::gpu
