// What one scalar value may be: type, range, allowed words. One check for values from files, the environment and flags,
// and one place for the words that say what was expected.
#pragma once
#include "actors/common/time.hpp"
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace hflex::config {

enum class value_type : std::uint8_t {
  text,    ///< any text without control characters
  name,    ///< letters, digits, '-', '_', '.'; starts with a letter or digit
  path,    ///< of a file or folder; a relative one in a file is relative to that file
  device,  ///< "auto", "cpu:N" or "cuda:I"
  word,    ///< one of `words`
  whole,   ///< whole number in [min, max]
  real,    ///< number in [min, max]
  boolean, ///< true or false
};

/// Time per unit of a `real` that stands for a duration; zero for a bare number.
struct unit {
  std::string_view name;
  duration per_one{};
};

struct rule {
  value_type type{value_type::text};
  double min{};
  double max{};
  std::span<const std::string_view> words{};
  unit in{};
  bool may_be_empty{false}; ///< text, path and word: "" is a value
};

/// A value that passed its rule; only the member of its type is set.
struct value {
  std::string text;   ///< text, name, path, device
  std::size_t word{}; ///< index into `words`; words.size() for an allowed empty word
  std::uint64_t whole{};
  double real{};
  duration span{}; ///< a real with a unit
  bool yes{};
};

/// "a whole number from 1 to 65535", "one of collocated, disaggregated".
std::string expectation(const rule& r);

/// Nothing when `text` breaks the rule. `in_quotes`: the file marks the value as text, so it cannot be a number or
/// boolean.
std::optional<value> check(const rule& r, std::string_view text, bool in_quotes);

} // namespace hflex::config
