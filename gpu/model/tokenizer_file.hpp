// Reads Hugging Face's tokenizer.json and judges it: what comes out has been checked and needs no further doubt. Called
// by tokenizer and by the model checks; encodes nothing itself.
#pragma once
#include "actors/common/request.hpp"
#include "actors/common/result.hpp"
#include "gpu/model/bpe.hpp"
#include "gpu/model/split_regex.hpp"
#include <array>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::gpu {

/// A token that is matched in the text as it stands, before any merging.
struct added_token {
  token_id id{};
  std::string content; ///< UTF-8, not empty
  bool special{};      ///< steers the model: only matched where the caller trusts the text
  bool normalized{};   ///< matched after NFC (its content is composed too), not before
};

/// A byte-level BPE tokenizer as the file describes it.
struct tokenizer_parts {
  std::vector<std::string> token_bytes;    ///< by id: what it decodes to; empty for an id that no token has
  std::array<token_id, 256> byte_tokens{}; ///< token of each single byte, or bpe::no_token
  std::vector<bpe_merge> merges;           ///< in order of rank
  bool ignore_merges{};                    ///< a whole piece that is a token is not merged
  std::vector<token_id> byte_level_tokens; ///< what ordinary text can become: the vocabulary without special tokens
  std::vector<added_token> added;
  bool compose{};                  ///< NFC before splitting
  std::vector<split_regex> splits; ///< each cuts the pieces of the one before
  std::vector<token_id> prefix;    ///< what the template puts before a text (bos)
};

/// The judgement on the text of a tokenizer.json; `source` is named in errors. errc::reject, at the first fault, for
/// malformed JSON, another kind of tokenizer (Unigram, WordPiece, WordLevel, a BPE that is not byte-level), a
/// normalizer, pre-tokenizer, post-processor or decoder that is not supported, ids that are out of range or used twice,
/// merges of tokens that do not exist, a byte of printable ASCII without a token, or a special token that ordinary text
/// could produce.
result<tokenizer_parts> parse_tokenizer(std::string_view text, const std::string& source);

/// The same on the document itself.
result<tokenizer_parts> read_tokenizer(const nlohmann::json& document, const std::string& source);

/// `model`/tokenizer.json, or the tokenizer of a GGUF file (gguf_path_of). Blocks on the disk.
result<tokenizer_parts> load_tokenizer_parts(const std::string& model);

} // namespace hflex::gpu
