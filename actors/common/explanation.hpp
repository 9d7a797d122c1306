// Why something was decided, for people. Made at every decision and read at few: so it keeps what the sentence is made
// of, and makes the sentence when asked. Plain value.
#pragma once
#include <array>
#include <fmt/format.h>
#include <string>
#include <string_view>
#include <type_traits>

namespace hflex {

class explanation {
public:
  static constexpr std::size_t most_numbers = 4;

  explanation() = default;
  explanation(std::string text) : own_(std::move(text)) {}     // NOLINT(google-explicit-constructor): a sentence is one
  explanation(const char* text) : form_(text), plain_(true) {} // NOLINT(google-explicit-constructor): lives for ever
  /// `form`: a literal in fmt's notation with one {...} per number, e.g. "due in {:.0f} ms"; it must outlive this.
  template <class... Numbers>
  requires(sizeof...(Numbers) > 0 && sizeof...(Numbers) <= most_numbers && (std::is_arithmetic_v<Numbers> && ...))
      explanation(std::string_view form, Numbers... numbers)
      : form_(form), numbers_{static_cast<double>(numbers)...} {}

  bool empty() const { return form_.empty() && own_.empty(); }
  std::string text() const {
    if (form_.empty()) return own_;
    if (plain_) return std::string(form_);
    static_assert(most_numbers == 4);
    return fmt::format(fmt::runtime(form_), numbers_[0], numbers_[1], numbers_[2], numbers_[3]);
  }

private:
  std::string_view form_;
  std::string own_;
  std::array<double, most_numbers> numbers_{};
  bool plain_{false};
};

} // namespace hflex
