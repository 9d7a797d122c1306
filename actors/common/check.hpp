// Assertions on our own invariants. They stay on in release builds: a wrong token or a leaked block is worse than a
// restart.
#pragma once

namespace hflex {

[[noreturn]] void check_failed(const char* condition, const char* file, int line);

} // namespace hflex

#define HFLEX_CHECK(condition)                                                                                         \
  (static_cast<bool>(condition) ? void() : ::hflex::check_failed(#condition, __FILE__, __LINE__))
