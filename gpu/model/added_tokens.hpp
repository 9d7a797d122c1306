// Finds added tokens in text. Built and used by the tokenizer.
#pragma once
#include "gpu/model/tokenizer_file.hpp"
#include <array>
#include <optional>
#include <string_view>
#include <vector>

namespace hflex::gpu {

/// Immutable; any number of threads may search with it.
class added_token_set {
public:
  /// Takes those of `tokens` that `chosen` says yes to.
  template <class Choice>
  added_token_set(const std::vector<added_token>& tokens, Choice chosen) {
    for (const auto& token : tokens) {
      if (chosen(token)) sorted_.push_back(token);
    }
    index();
  }

  struct hit {
    std::size_t begin{};
    std::size_t bytes{};
    token_id id{};
  };
  /// The leftmost token in `text` at or after `from`, the longest of those that begin there.
  std::optional<hit> find(std::string_view text, std::size_t from) const;

private:
  void index();
  std::optional<hit> longest_at(std::string_view text, std::size_t begin) const;

  std::vector<added_token> sorted_; ///< by content
  std::array<bool, 256> begins_{};  ///< whether any content begins with this byte
};

} // namespace hflex::gpu
