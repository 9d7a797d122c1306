// Reads how a tokenizer.json treats text around its vocabulary: normalizer, pre-tokenizer and decoder. Called by
// tokenizer_file, which judges the vocabulary. Two kinds are known: byte-level (GPT-2, Llama 3, Qwen) and
// SentencePiece's (Llama 2, TinyLlama, Mistral 7B), whose blanks are marks and whose rare characters are bytes.
#pragma once
#include "actors/common/result.hpp"
#include "gpu/model/split_regex.hpp"
#include "gpu/model/text_steps.hpp"
#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::gpu {

/// What is done to text on its way to the vocabulary and back, checked.
struct text_pipeline {
  bool byte_level{};                       ///< else SentencePiece's
  std::vector<normalizer_step> normalizer; ///< before anything is cut
  std::optional<metaspace> spaces;         ///< then, blanks as marks
  std::vector<split_regex> splits;         ///< then, each cuts the pieces of the one before

  std::vector<normalizer_step> decoded; ///< replacements in each token's text on the way back
  bool decodes_bytes{};                 ///< a token spelled <0x0A> stands for that byte
  std::size_t strip_blanks{};           ///< so many blanks at the very start of a decoded text go
};

/// errc::reject, at the first fault: a step that is not supported, or that does not belong to this kind of tokenizer.
result<text_pipeline> read_pipeline(const nlohmann::json& root);

/// The byte that a token spelled "<0x0A>" stands for, if it is spelled so.
std::optional<unsigned char> byte_of_piece(std::string_view piece);

/// The bytes that a token with this text decodes to in SentencePiece's kind.
std::string decoded_piece(std::string_view piece, const text_pipeline& how);

} // namespace hflex::gpu
