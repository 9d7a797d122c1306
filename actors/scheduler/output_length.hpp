// How long an answer will be: per SLO class, a quantile of the output lengths seen lately. Kept by the ledger; used to
// reserve KV blocks. Until a class has been seen often enough the answer is "as long as it may".
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace hflex::scheduler {

class output_length_predictor {
public:
  explicit output_length_predictor(double quantile) : quantile_(quantile) {}
  /// A request of that class ended well after so many output tokens.
  void observe(std::string_view slo_class, std::uint32_t tokens);
  /// Output tokens over its whole life, > `produced` and at most max(max_tokens, produced + 1).
  std::uint32_t predict(std::string_view slo_class, std::uint32_t produced, std::uint32_t max_tokens) const;

private:
  // Eight buckets per doubling: 9 % wide. Counts are halved now and then, so that old days fade.
  static constexpr std::size_t buckets = 8 * 24;
  static std::size_t bucket_of(std::uint32_t tokens);
  static std::uint32_t upper_end(std::size_t bucket);
  struct histogram {
    std::array<std::uint32_t, buckets> counts{};
    std::uint32_t total{};
  };
  double quantile_;
  std::map<std::string, histogram, std::less<>> classes_;
};

} // namespace hflex::scheduler
