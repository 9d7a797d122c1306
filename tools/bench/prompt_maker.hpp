// Prompts of a wanted length for a model: words that are one token each, drawn by seed. Requests that share blocks of
// a trace's prefixes share their text, as in the simulator; all others differ from their first words on. Used by
// `hflex bench load`.
#pragma once
#include "gpu/model/tokenizer.hpp"
#include "tools/sim/workload.hpp"
#include <memory>
#include <string>
#include <vector>

namespace hflex::bench {

class prompt_maker {
public:
  /// errc::reject for a tokenizer whose vocabulary has too few words that stay one token beside others.
  static result<prompt_maker> make(std::shared_ptr<const gpu::tokenizer> tokenizer);

  /// Tokens that every prompt has: what the tokenizer puts in front, and a word.
  std::uint32_t fewest_tokens() const { return in_front_ + 1; }
  /// A text of exactly r.prompt_tokens tokens (at least fewest_tokens()). `index` tells requests apart;
  /// `block_tokens`: workload::prefix_block_tokens.
  std::string text(const sim::request& r, std::size_t index, std::uint32_t block_tokens) const;

private:
  std::vector<std::string> words_; ///< each with the blank before it
  std::uint32_t in_front_{};
};

} // namespace hflex::bench
