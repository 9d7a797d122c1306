// How long prompts and answers are: a distribution known by some of its quantiles. Used by the generator.
#pragma once
#include "actors/common/result.hpp"
#include "tools/sim/random.hpp"
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::sim {

/// A prompt or an answer that is longer is a slip in a file.
inline constexpr double most_tokens = 1U << 24U;

/// Between two known quantiles the logarithm of the length is linear in the normal quantile: two of them make a
/// log-normal distribution, more bend it, and beyond the outermost ones it goes on as it was.
class length_distribution {
public:
  /// One of
  ///   512                            always the same
  ///   p50:512/p90:2048/p99:6000      quantiles, 0 to 100; p0 and p100 are bounds
  ///   mean:800/cv:1.2                log-normal by mean and coefficient of variation
  ///   median:512/sigma:0.8           log-normal by median and standard deviation of the logarithm
  /// the last three with /min:N and /max:N (1 and 131072 when left out). errc::reject says what was expected.
  static result<length_distribution> parse(std::string_view text);

  struct quantile {
    double percent{}; ///< (0, 100)
    double tokens{};  ///< >= 1
  };
  /// The same from a table; `what` names it in messages. In any order, percentages distinct, at least one.
  static result<length_distribution> from_quantiles(std::vector<quantile> known, std::string_view what);

  std::uint32_t sample(random_source& random) const { return at(random.normal()); }
  /// The length that a share `p` in (0, 1) of all requests does not exceed.
  std::uint32_t quantile_at(double p) const { return at(normal_quantile(p)); }

private:
  struct knot {
    double z{};
    double log_tokens{};
  };
  std::uint32_t at(double z) const;

  std::vector<knot> knots_; ///< by z; one = always the same
  double min_{1};
  double max_{131072};
};

} // namespace hflex::sim
