#include "gpu/transport/coverage.hpp"
#include "actors/common/check.hpp"
#include <algorithm>

namespace hflex::gpu {

coverage::coverage(std::uint32_t layers, std::uint32_t tokens)
    : layers_{layers}, tokens_{tokens},
      words_per_layer_{(std::uint64_t{tokens} + 63) / 64}, missing_{std::uint64_t{layers} * tokens},
      bits_(words_per_layer_ * layers) {}

template <class F>
bool coverage::each_word(std::uint32_t layer, std::uint32_t begin, std::uint32_t count, F f) const {
  std::uint64_t at = begin;
  const std::uint64_t end = at + count;
  while (at < end) {
    const std::uint64_t bit = at % 64;
    const std::uint64_t here = std::min(64 - bit, end - at);
    const std::uint64_t mask = (here == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << here) - 1) << bit;
    if (!f(layer * words_per_layer_ + at / 64, mask)) return false;
    at += here;
  }
  return true;
}

bool coverage::is_new(std::uint32_t layer, std::uint32_t begin, std::uint32_t count) const {
  if (layer >= layers_ || count == 0 || count > tokens_ || begin > tokens_ - count) return false;
  return each_word(
      layer, begin, count, [&](std::uint64_t word, std::uint64_t mask) { return (bits_[word] & mask) == 0; });
}

void coverage::mark(std::uint32_t layer, std::uint32_t begin, std::uint32_t count) {
  HFLEX_CHECK(is_new(layer, begin, count));
  each_word(layer, begin, count, [&](std::uint64_t word, std::uint64_t mask) {
    bits_[word] |= mask;
    return true;
  });
  missing_ -= count;
}

} // namespace hflex::gpu
