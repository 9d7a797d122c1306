#include "config/rule.hpp"
#include <algorithm>
#include <charconv>
#include <cmath>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace hflex::config {

namespace {

constexpr std::size_t longest_text = 4096;

bool letter_or_digit(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

bool is_text(std::string_view text) {
  return text.size() <= longest_text && std::none_of(text.begin(), text.end(),
                                            [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

bool is_name(std::string_view text) {
  if (text.empty() || text.size() > 64 || !letter_or_digit(text.front())) return false;
  return std::all_of(
      text.begin(), text.end(), [](char c) { return letter_or_digit(c) || c == '-' || c == '_' || c == '.'; });
}

/// The whole of `text`, and nothing but it, as a number.
template <class Number>
std::optional<Number> number(std::string_view text) {
  Number n{};
  const char* end = text.data() + text.size();
  const auto [stopped, failure] = std::from_chars(text.data(), end, n);
  if (failure != std::errc{} || stopped != end) return std::nullopt;
  return n;
}

bool is_device(std::string_view text) {
  if (text == "auto") return true;
  for (const auto& [prefix, least] :
      {std::pair{std::string_view{"cpu:"}, 1U}, std::pair{std::string_view{"cuda:"}, 0U}}) {
    if (!text.starts_with(prefix)) continue;
    const auto n = number<std::uint32_t>(text.substr(prefix.size()));
    return n && *n >= least && *n <= 1024;
  }
  return false;
}

std::optional<value> check_number(const rule& r, std::string_view text) {
  value v;
  if (r.type == value_type::whole) {
    const auto n = number<std::uint64_t>(text);
    if (!n || static_cast<double>(*n) < r.min || static_cast<double>(*n) > r.max) return std::nullopt;
    v.whole = *n;
    return v;
  }
  const auto n = number<double>(text);
  if (!n || !std::isfinite(*n) || *n < r.min || *n > r.max) return std::nullopt;
  v.real = *n;
  v.span = duration{std::llround(*n * static_cast<double>(r.in.per_one.count()))};
  return v;
}

std::optional<value> check_text(const rule& r, std::string_view text) {
  value v;
  v.text = text;
  if (text.empty() && r.may_be_empty) {
    v.word = r.words.size();
    return v;
  }
  switch (r.type) {
  case value_type::name:
    return is_name(text) ? std::optional{v} : std::nullopt;
  case value_type::device:
    return is_device(text) ? std::optional{v} : std::nullopt;
  case value_type::word: {
    const auto found = std::find(r.words.begin(), r.words.end(), text);
    if (found == r.words.end()) return std::nullopt;
    v.word = static_cast<std::size_t>(found - r.words.begin());
    return v;
  }
  default:
    return !text.empty() && is_text(text) ? std::optional{v} : std::nullopt;
  }
}

} // namespace

std::string expectation(const rule& r) {
  const std::string_view or_empty = r.may_be_empty ? ", or \"\"" : "";
  switch (r.type) {
  case value_type::text:
    return fmt::format("text{}", or_empty);
  case value_type::name:
    return "a name of at most 64 letters, digits, '-', '_' and '.'";
  case value_type::path:
    return fmt::format("a path{}", or_empty);
  case value_type::device:
    return "auto, cpu:N (threads) or cuda:I (device)";
  case value_type::word:
    return fmt::format("one of {}{}", fmt::join(r.words, ", "), or_empty);
  case value_type::whole:
    return fmt::format("a whole number from {:.0f} to {:.0f}", r.min, r.max);
  case value_type::real:
    if (r.in.name.empty()) return fmt::format("a number from {} to {}", r.min, r.max);
    return fmt::format("a number of {} from {:.10g} to {:.10g}", r.in.name, r.min, r.max);
  case value_type::boolean:
    return "true or false";
  }
  return "a value";
}

std::optional<value> check(const rule& r, std::string_view text, bool in_quotes) {
  const bool number_or_boolean =
      r.type == value_type::whole || r.type == value_type::real || r.type == value_type::boolean;
  if (!number_or_boolean) return check_text(r, text);
  if (in_quotes) return std::nullopt;
  if (r.type != value_type::boolean) return check_number(r, text);
  if (text != "true" && text != "false") return std::nullopt;
  value v;
  v.yes = text == "true";
  return v;
}

} // namespace hflex::config
