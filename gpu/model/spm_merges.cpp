#include "gpu/model/spm_merges.hpp"
#include "gpu/model/utf8.hpp"
#include <algorithm>
#include <functional>
#include <unordered_map>

namespace hflex::gpu {

std::vector<bpe_merge> merges_by_score(std::span<const scored_piece> pieces) {
  std::vector<float> scores;
  std::unordered_map<std::string_view, token_id> ids;
  scores.reserve(pieces.size());
  ids.reserve(pieces.size());
  for (const auto& piece : pieces) {
    scores.push_back(piece.score);
    ids.emplace(piece.text, piece.id);
  }
  std::sort(scores.begin(), scores.end(), std::greater<>());
  scores.erase(std::unique(scores.begin(), scores.end()), scores.end());

  std::vector<bpe_merge> out;
  for (const auto& piece : pieces) {
    const auto at = std::lower_bound(scores.begin(), scores.end(), piece.score, std::greater<>());
    const auto rank = static_cast<std::uint32_t>(at - scores.begin());
    for (auto cut = next_utf8(piece.text).bytes; cut < piece.text.size();
         cut += next_utf8(piece.text.substr(cut)).bytes) {
      const auto left = ids.find(piece.text.substr(0, cut));
      const auto right = ids.find(piece.text.substr(cut));
      if (left != ids.end() && right != ids.end()) out.push_back({left->second, right->second, piece.id, rank});
    }
  }
  return out;
}

} // namespace hflex::gpu
