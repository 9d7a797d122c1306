// How well requests were served: per SLO class and overall. The figures are defined by actors/common/slo.hpp; benches,
// simulator and gateway report through this one summary. Pure: it is given the records and the wall time.
#pragma once
#include "actors/common/request.hpp"
#include "actors/common/slo.hpp"
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace hflex {

/// One request as it ended.
struct request_record {
  std::string slo_class;
  slo_targets slo;
  std::optional<outcome> result; ///< nothing = unfinished when the measurement ended: counts as missed
  request_timing timing;
  std::vector<time_point> token_times; ///< of every output token, in order; may be empty when not recorded
  std::uint32_t prompt_tokens{};       ///< 0 where nobody needs to know
};

/// A sample's mean and percentiles in milliseconds (linear interpolation between ranks); all 0 when `count` is 0.
struct distribution {
  std::uint64_t count{};
  double mean_ms{};
  double p50_ms{};
  double p90_ms{};
  double p99_ms{};
};

/// Latencies are of finished requests; shares are of all requests, so a shed, failed, cancelled or unfinished one is a
/// miss.
struct slo_summary {
  std::string slo_class; ///< empty for the overall summary
  std::uint64_t requests{};
  std::uint64_t finished{};
  std::uint64_t shed{};
  std::uint64_t cancelled{};
  std::uint64_t failed{};
  std::uint64_t unfinished{};
  std::uint64_t attained{};
  std::uint64_t output_tokens{}; ///< of finished requests
  double attainment{};           ///< attained / requests
  double weighted_attainment{};  ///< the same by slo_targets::weight
  std::optional<double>
      strict_attainment;  ///< every token i by D(i); nothing when a finished request has no token times
  double goodput_per_s{}; ///< attained requests per second of wall time
  distribution ttft;
  distribution tpot; ///< of requests with two tokens or more
  distribution itl;  ///< every gap between tokens of the requests that have token times
  distribution e2e;
};

struct slo_report {
  slo_summary overall;
  std::vector<slo_summary> classes; ///< by name
};

/// Every token i by D(i). `token_times` in order; false when empty.
bool strictly_attained(time_point arrival, const slo_targets& slo, std::span<const time_point> token_times);

/// `wall`: length of the measurement, > 0 (with 0 the goodput is 0). O(n log n).
slo_report summarize(std::span<const request_record> records, duration wall);

} // namespace hflex
