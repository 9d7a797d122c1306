// SentencePiece's BPE as llama.cpp keeps it: a score for each piece instead of a list of merges. Says which merges that
// is. Called by gguf_tokenizer. Pure.
#pragma once
#include "gpu/model/bpe.hpp"
#include <span>
#include <string_view>
#include <vector>

namespace hflex::gpu {

struct scored_piece {
  std::string_view text; ///< valid UTF-8, not empty; no other piece's
  token_id id{};
  float score{}; ///< a number, larger is better
};

/// Of neighbours whose joined text is a piece, those of the best score are joined first, the leftmost of equals: the
/// merges that `bpe` does so with, one for each way to cut a piece into two pieces. Pieces of one score share a rank.
/// Time and memory grow with the pieces' lengths, time with their squares: the caller bounds them.
std::vector<bpe_merge> merges_by_score(std::span<const scored_piece> pieces);

} // namespace hflex::gpu
