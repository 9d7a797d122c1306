#include "actors/common/check.hpp"
#include <cstdio>
#include <cstdlib>

namespace hflex {

void check_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "hflex: invariant broken: %s (%s:%d)\n", condition, file, line);
  std::abort();
}

} // namespace hflex
