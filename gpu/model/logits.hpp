// What a model says of a text in numbers: the logits at its last positions and along its greedy continuation. For tools
// and scripts that compare this engine with another; serving goes through device contexts.
#pragma once
#include "gpu/model/llama.hpp"
#include <vector>

namespace hflex::gpu {

/// What the model expects after the token at `position`.
struct logits_row {
  std::uint32_t position{};
  token_id best{}; ///< the greedy choice
  std::vector<float> logits;
};

struct logits_request {
  std::vector<token_id> tokens; ///< the text
  std::uint32_t last{1};        ///< rows for so many of its last positions
  std::uint32_t generate{0};    ///< then tokens of the greedy continuation, each fed but the last, with a row each
};

struct logits_answer {
  std::vector<token_id> continuation; ///< `generate` tokens
  std::vector<logits_row> rows;       ///< by position; the last token of the continuation is the last row's choice
};

/// Computes on `engine`, whose KV pool it uses from the first block on: nothing else may. Blocks for as long as it
/// takes. errc::reject for an empty text, more rows than tokens, tokens outside the vocabulary, or more positions than
/// pool and model have; errc::fatal as llama::run.
result<logits_answer> logits_of(llama& engine, const logits_request& request);

} // namespace hflex::gpu
