// What a piece of text is made of before anything merges: a token for each byte (byte-level vocabularies), or for each
// character, with bytes or the unknown token for characters that have none (SentencePiece's vocabularies). Pure; filled
// by tokenizer_file, used by the tokenizer.
#pragma once
#include "actors/common/request.hpp"
#include <array>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace hflex::gpu {

/// Immutable once it is filled; any number of threads may spell with it.
struct alphabet {
  /// In place of a token that there is not.
  static constexpr token_id no_token = -1;

  alphabet() { bytes.fill(no_token); }

  bool by_character{};                                 ///< else by byte
  std::unordered_map<char32_t, token_id> characters{}; ///< by_character only
  std::array<token_id, 256> bytes{};                   ///< by_character: all of them or none
  token_id unknown{no_token}; ///< by_character: for a character without a token when no byte has one
  bool fuse_unknown{};        ///< unknown characters in a row become one token

  /// Appends the symbols of `piece` to `out`. By character, `piece` is valid UTF-8. What nothing stands for is left
  /// out, as Hugging Face does.
  void spell(std::string_view piece, std::vector<token_id>& out) const;

private:
  void spell_characters(std::string_view piece, std::vector<token_id>& out) const;
};

} // namespace hflex::gpu
