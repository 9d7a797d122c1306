// The prefix cache as sequences use it: what of their tokens the pool has, and what they leave there.
#include "actors/common/check.hpp"
#include "actors/instance/batcher.hpp"

namespace hflex::instance {

/// Hashes of the first `blocks` blocks of its tokens. Each is computed once in a sequence's life: tokens only grow.
std::span<const block_hash> core::chain_of(sequence& s, std::uint32_t blocks) {
  const auto size = options_.block_size;
  const std::span<const token_id> tokens(s.spec.tokens);
  HFLEX_CHECK(std::uint64_t{blocks} * size <= tokens.size());
  while (s.chain.size() < blocks) {
    const auto parent = s.chain.empty() ? block_hash{} : s.chain.back();
    s.chain.push_back(chain_hash(options_.prefix_seed, parent, tokens.subspan(s.chain.size() * size, size)));
  }
  return std::span<const block_hash>(s.chain).first(blocks);
}

/// Of a sequence without blocks. The last token is never among what is found: its logits are needed.
prefix_hit core::find_prefix(sequence& s) {
  if (!options_.prefix_cache) return {};
  return pool_.find(chain_of(s, (s.length() - 1) / options_.block_size), s.spec.tokens);
}

/// The full blocks of what is computed: to be called when the step that filled them has ended well, or the hand-over
/// that brought them. Where a transfer knows the block table, the table must stay as it is.
void core::publish(sequence& s) {
  if (!options_.prefix_cache) return;
  const auto size = options_.block_size;
  const auto chain = chain_of(s, s.num_computed_tokens / size);
  const std::span<const token_id> tokens(s.spec.tokens);
  for (; s.published < chain.size(); ++s.published)
    pool_.publish(
        s.blocks[s.published], chain[s.published], tokens.subspan(std::size_t{s.published} * size, size), !s.transfer);
}

/// All that is full can be found, and all that is still to be written is the sequence's own.
void core::check_prefix(const sequence& s) const {
  const auto full = s.num_computed_tokens / options_.block_size;
  HFLEX_CHECK(s.published == (options_.prefix_cache ? full : 0));
  HFLEX_CHECK(s.published <= s.chain.size());
  for (std::size_t i = full; i < s.blocks.size(); ++i) HFLEX_CHECK(pool_.users(s.blocks[i]) == 1);
}

} // namespace hflex::instance
