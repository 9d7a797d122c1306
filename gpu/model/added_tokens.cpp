#include "gpu/model/added_tokens.hpp"
#include <algorithm>

namespace hflex::gpu {

void added_token_set::index() {
  std::sort(sorted_.begin(), sorted_.end(), [](const auto& a, const auto& b) { return a.content < b.content; });
  for (const auto& token : sorted_) begins_[static_cast<unsigned char>(token.content[0])] = true;
}

std::optional<added_token_set::hit> added_token_set::find(std::string_view text, std::size_t from) const {
  for (std::size_t at = from; at < text.size(); ++at) {
    if (!begins_[static_cast<unsigned char>(text[at])]) continue;
    if (const auto found = longest_at(text, at)) return found;
  }
  return std::nullopt;
}

std::optional<added_token_set::hit> added_token_set::longest_at(std::string_view text, std::size_t begin) const {
  // [first, last) are the contents that agree with the text so far; being sorted, a content that ends here comes first.
  auto first = sorted_.begin();
  auto last = sorted_.end();
  std::optional<hit> best;
  for (std::size_t n = 0; begin + n < text.size() && first != last; ++n) {
    const auto want = static_cast<unsigned char>(text[begin + n]);
    // A content of n bytes has no byte to compare and sorts before all others: it has been noted and falls away.
    const auto byte = [n](const added_token& t) {
      return n < t.content.size() ? static_cast<int>(static_cast<unsigned char>(t.content[n])) : -1;
    };
    first = std::partition_point(first, last, [&](const auto& t) { return byte(t) < want; });
    last = std::partition_point(first, last, [&](const auto& t) { return byte(t) == want; });
    if (first != last && first->content.size() == n + 1) best = hit{begin, n + 1, first->id};
  }
  return best;
}

} // namespace hflex::gpu
