#include "actors/common/nearest.hpp"
#include <algorithm>
#include <array>
#include <fmt/format.h>

namespace hflex {

namespace {

constexpr std::size_t longest_word = 64;

} // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
  if (a.size() > longest_word || b.size() > longest_word) return std::max(a.size(), b.size());
  using row = std::array<std::size_t, longest_word + 1>;
  row before{}; // distances from a[0, i - 2] ...
  row above{};  // ... and a[0, i - 1] to every prefix of b
  row current{};
  for (std::size_t j = 0; j <= b.size(); ++j) above[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      current[j] = std::min({above[j] + 1, current[j - 1] + 1, replaced});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) current[j] = std::min(current[j], before[j - 2] + 1);
    }
    before = above;
    above = current;
  }
  return above[b.size()];
}

std::string_view nearest_word(std::string_view word, std::span<const std::string_view> known) {
  std::string_view best;
  std::size_t best_distance = 0;
  for (std::string_view candidate : known) {
    const std::size_t longer = std::max(word.size(), candidate.size());
    const std::size_t distance = edit_distance(word, candidate);
    if (distance > std::max<std::size_t>(1, longer / 3) || distance >= longer ||
        (!best.empty() && distance >= best_distance))
      continue;
    best = candidate;
    best_distance = distance;
  }
  return best;
}

std::string did_you_mean(std::string_view word, std::span<const std::string_view> known) {
  const std::string_view near = nearest_word(word, known);
  return near.empty() ? std::string{} : fmt::format("did you mean '{}'?", near);
}

} // namespace hflex
