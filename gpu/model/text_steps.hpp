// What happens to text between its added tokens before it is cut and merged: a normalizer's steps, and SentencePiece's
// way of writing blanks as a visible mark. Pure; filled by tokenizer_pipeline, used by the tokenizer.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::gpu {

struct normalizer_step {
  enum class kind : std::uint8_t {
    compose, ///< NFC
    prepend, ///< `to` before text that is not empty
    replace, ///< `from` (not empty) by `to`, wherever it stands
  };
  kind what{};
  std::string from{};
  std::string to{};
};

/// Valid UTF-8 in and out; the steps one after the other.
std::string normalized(std::string_view text, std::span<const normalizer_step> steps);

std::string replaced(std::string_view text, std::string_view from, std::string_view to);

/// Hugging Face's pre-tokenizer Metaspace.
struct metaspace {
  enum class scheme : std::uint8_t { always, first, never };
  std::string mark; ///< stands for a blank; one character
  scheme prepend{}; ///< whether text that does not begin with the mark gets one: any, the start of the whole, none
  bool cuts{};      ///< each mark begins a piece
};

/// `text` with marks for its blanks, and one in front where the scheme says so. `at_start`: nothing stands before it.
std::string marked(std::string_view text, const metaspace& how, bool at_start);

/// Appends the pieces of `text` to `pieces`: each begins with a mark, but perhaps the first. They cover the text.
void cut_at_marks(std::string_view text, std::string_view mark, std::vector<std::string_view>& pieces);

} // namespace hflex::gpu
