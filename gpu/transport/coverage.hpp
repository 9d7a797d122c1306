// Which (layer, token) cells of a transfer have arrived: each must come exactly once. Pure; used by the sink.
#pragma once
#include <cstdint>
#include <vector>

namespace hflex::gpu {

class coverage {
public:
  coverage(std::uint32_t layers, std::uint32_t tokens);
  /// True when rows [begin, begin + count) lie inside `layer`, are at least one, and none has arrived before.
  bool is_new(std::uint32_t layer, std::uint32_t begin, std::uint32_t count) const;
  /// Marks rows for which is_new holds.
  void mark(std::uint32_t layer, std::uint32_t begin, std::uint32_t count);
  bool complete() const { return missing_ == 0; }

private:
  /// Calls f(word, mask) for every 64-bit word that the rows touch; stops when f returns false.
  template <class F>
  bool each_word(std::uint32_t layer, std::uint32_t begin, std::uint32_t count, F f) const;

  std::uint32_t layers_;
  std::uint32_t tokens_;
  std::uint64_t words_per_layer_;
  std::uint64_t missing_;
  std::vector<std::uint64_t> bits_; // [layers][words_per_layer]
};

} // namespace hflex::gpu
