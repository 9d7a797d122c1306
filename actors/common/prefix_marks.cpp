#include "actors/common/prefix_marks.hpp"

namespace hflex {

std::uint32_t mark_length(std::size_t i) {
  constexpr std::size_t dense = 16, middle = 28; // marks by 64 tokens, by 256
  if (i < dense) return static_cast<std::uint32_t>(64 * (i + 1));
  if (i < dense + middle) return static_cast<std::uint32_t>(1024 + 256 * (i - dense + 1));
  return static_cast<std::uint32_t>(8192 + 1024 * (i - dense - middle + 1));
}

std::vector<prefix_mark> prefix_marks(const hash_key& key, std::span<const token_id> tokens) {
  std::vector<prefix_mark> marks;
  block_hash last{};
  std::uint32_t begin = 0;
  for (std::size_t i = 0; i < most_prefix_marks; ++i) {
    const auto end = mark_length(i);
    if (end > tokens.size()) break;
    last = chain_hash(key, last, tokens.subspan(begin, end - begin));
    marks.push_back(last.low);
    begin = end;
  }
  return marks;
}

} // namespace hflex
