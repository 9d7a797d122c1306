// Cuts text where a tokenizer's regular expression says. The expressions are written for Oniguruma (that is what
// Hugging Face runs); PCRE2 runs them here, so an expression is let through only as far as both are known to agree on
// it.
#pragma once
#include "actors/common/result.hpp"
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::gpu {

/// Immutable; any number of threads may cut with it.
class split_regex {
public:
  /// errc::reject, without a file's name, says which part of `pattern` is not supported or malformed. Known to agree:
  /// literals, classes without set operations, general categories (\p{L}), \s \S \d \D, groups without captures by
  /// name, look-around, all quantifiers, (?i: ).
  static result<split_regex> compile(std::string_view pattern);

  /// Appends to `pieces` the matches in `text` and what lies between them, in order, none empty ("Isolated" in Hugging
  /// Face's words); they cover the text. `text` is valid UTF-8. Work per match is limited: what follows a match that
  /// exceeds it is one last piece, so a hostile text costs a bounded time and is still encoded in full.
  void split(std::string_view text, std::vector<std::string_view>& pieces) const;

private:
  explicit split_regex(std::shared_ptr<const void> code) : code_(std::move(code)) {}
  std::shared_ptr<const void> code_; ///< a pcre2_code
};

/// `pattern` in PCRE2's dialect, or errc::reject. Exposed for its test.
result<std::string> translate_regex(std::string_view pattern);

} // namespace hflex::gpu
