#include "tools/bench/prompt_maker.hpp"
#include "tools/sim/random.hpp"
#include <algorithm>

namespace hflex::bench {

namespace {

constexpr std::size_t fewest_words = 64;

/// A blank and small letters: what every byte-level tokenizer takes for a word of its own.
bool is_word(std::string_view bytes) {
  return bytes.size() >= 3 && bytes.front() == ' ' &&
         std::all_of(bytes.begin() + 1, bytes.end(), [](char c) { return c >= 'a' && c <= 'z'; });
}

} // namespace

result<prompt_maker> prompt_maker::make(std::shared_ptr<const gpu::tokenizer> tokenizer) {
  prompt_maker m;
  const auto vocabulary = static_cast<token_id>(tokenizer->vocab_size());
  for (token_id id = 0; id < vocabulary; ++id) {
    const auto bytes = tokenizer->bytes_of(id);
    if (!is_word(bytes) || tokenizer->is_special(id)) continue;
    if (tokenizer->encode(bytes, {false, false}) == std::vector{id}) m.words_.emplace_back(bytes);
  }
  m.in_front_ = static_cast<std::uint32_t>(tokenizer->encode("").size());
  if (m.words_.size() < fewest_words)
    return fail(errc::reject, "the tokenizer has {} words of one token; {} are needed to make prompts", m.words_.size(),
        fewest_words);
  // Side by side they must stay what they are.
  sim::request sample;
  sample.prompt_tokens = 200;
  if (const auto made = tokenizer->encode(m.text(sample, 0, 512)).size(); made != sample.prompt_tokens)
    return fail(errc::reject, "the tokenizer makes {} tokens of a prompt of {} words", made, sample.prompt_tokens);
  return m;
}

std::string prompt_maker::text(const sim::request& r, std::size_t index, std::uint32_t block_tokens) const {
  std::string out;
  for (std::uint32_t i = in_front_; i < r.prompt_tokens; ++i) {
    const auto block = i / block_tokens;
    const auto id = block < r.prefix_blocks.size() ? r.prefix_blocks[block] * 2 : index * 2 + 1;
    out += words_[sim::mix_bits(sim::mix_bits(id) + i % block_tokens) % words_.size()];
  }
  return out;
}

} // namespace hflex::bench
