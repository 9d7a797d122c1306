// How long an answer will be, per SLO class, from the output lengths seen lately: a quantile of them, and what room to
// keep for one of many. Kept by the ledger; used to reserve KV blocks. Until a class has been seen often enough the
// first answer is "as long as it may", the second a usual length.
#pragma once
#include "actors/common/output_tally.hpp"
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::scheduler {

class output_length_predictor {
public:
  explicit output_length_predictor(double quantile) : quantile_(quantile) {}
  /// A number for the class, to ask by in constant time.
  std::uint32_t number_of(std::string_view slo_class);
  /// A request of that class ended well after so many output tokens.
  void observe(std::uint32_t class_number, std::uint32_t tokens);
  void observe(std::string_view slo_class, std::uint32_t tokens) { observe(number_of(slo_class), tokens); }
  /// Output tokens over its whole life, > `produced` and at most max(max_tokens, produced + 1).
  std::uint32_t predict(std::uint32_t class_number, std::uint32_t produced, std::uint32_t max_tokens) const;
  std::uint32_t predict(std::string_view slo_class, std::uint32_t produced, std::uint32_t max_tokens) {
    return predict(number_of(slo_class), produced, max_tokens);
  }

  /// Output tokens after the first ones that were made by all requests, those that go on as well.
  void made(std::uint64_t tokens) { tally_.made += static_cast<double>(tokens); }
  /// Output tokens beyond `produced` to keep room for in a pool that many share: as many as such a request is expected
  /// to hold when that is most, which is the maximum over t of t * P(it makes more than t). They do not all come to an
  /// end at once: in the mean a sum of these is not exceeded at any time. >= 1, and no more than may come.
  std::uint32_t expected_hold(std::uint32_t class_number, std::uint32_t produced, std::uint32_t max_tokens) const;

private:
  // Eight buckets per doubling: 9 % wide. Counts are halved now and then, so that old days fade.
  static constexpr std::size_t buckets = 8 * 24;
  static std::size_t bucket_of(std::uint32_t tokens);
  static std::uint32_t upper_end(std::size_t bucket);
  struct histogram {
    std::string name;
    std::array<std::uint32_t, buckets> counts{};
    std::uint32_t total{};
    // Where the quantile of all lies: moved along with each observation, so that a fresh request is predicted at once.
    std::size_t quantile_bucket{};
    std::uint32_t below{}; ///< counts of the buckets before it
    double hold{};         ///< of a fresh request; brought up to date now and then
  };
  void settle_quantile(histogram& h) const;
  /// The first bucket from `from` on that the quantile of what lies there is in.
  std::size_t quantile_from(const histogram& h, std::size_t from) const;
  static double hold_from(const histogram& h, std::uint32_t produced);

  double quantile_;
  std::vector<histogram> classes_;
  output_tally tally_;
};

} // namespace hflex::scheduler
