// Reads Hugging Face's tokenizer.json and judges it: what comes out has been checked and needs no further doubt. Called
// by tokenizer and by the model checks; encodes nothing itself.
#pragma once
#include "actors/common/request.hpp"
#include "actors/common/result.hpp"
#include "gpu/model/alphabet.hpp"
#include "gpu/model/bpe.hpp"
#include "gpu/model/tokenizer_pipeline.hpp"
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace hflex::gpu {

/// A token that is matched in the text as it stands, before any merging.
struct added_token {
  token_id id{};
  std::string content; ///< UTF-8, not empty
  bool special{};      ///< steers the model: only matched where the caller trusts the text
  bool normalized{};   ///< matched in normalized text (its content is normalized too), not before
};

/// Looked up by views of other texts.
struct text_hash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};

/// A BPE tokenizer as the file describes it.
struct tokenizer_parts {
  std::vector<std::string> token_bytes; ///< by id: what it decodes to; empty for an id that no token has
  text_pipeline text;
  alphabet letters;
  std::vector<bpe_merge> merges;
  /// Pieces that are tokens as they stand and are not merged: the vocabulary without special tokens, where the file
  /// says ignore_merges.
  std::unordered_map<std::string, token_id, text_hash, std::equal_to<>> whole;
  std::vector<added_token> added;
  std::vector<token_id> prefix; ///< what the template puts before a text (bos)
};

/// The judgement on the text of a tokenizer.json; `source` is named in errors. errc::reject, at the first fault, for
/// malformed JSON, another kind of tokenizer (Unigram, WordPiece, WordLevel), a normalizer, pre-tokenizer,
/// post-processor or decoder that is not supported, ids that are out of range or used twice, merges of tokens that do
/// not exist, bytes without a token (printable ASCII in byte-level vocabularies, any where characters fall back to
/// bytes), or a special token that ordinary text could produce (but for the unknown token where there are no bytes).
result<tokenizer_parts> parse_tokenizer(std::string_view text, const std::string& source);

/// The same on the document itself.
result<tokenizer_parts> read_tokenizer(const nlohmann::json& document, const std::string& source);

/// `model`/tokenizer.json, or the tokenizer of a GGUF file (gguf_path_of). Blocks on the disk.
result<tokenizer_parts> load_tokenizer_parts(const std::string& model);

} // namespace hflex::gpu
