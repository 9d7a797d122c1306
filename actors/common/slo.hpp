// Service-level objectives and how attainment is measured: the one place where TTFT, TPOT and deadlines are defined.
// Used by runtime, simulator, benches and metrics alike.
#pragma once
#include "actors/common/time.hpp"
#include <cstdint>
#include <optional>
#include <string>

namespace hflex {

/// What to do with a request whose targets cannot be met any more.
enum class late_action : std::uint8_t { serve_late, shed };

/// The targets of one request.
struct slo_targets {
  duration ttft{};             ///< S1: arrival to first token
  duration tpot{};             ///< S2: mean time per output token after the first
  std::optional<duration> e2e; ///< arrival to last token, when the class sets one
  double weight{1.0};          ///< worth of attaining this request, relative to others
  late_action when_late{late_action::serve_late};
};

/// A named class from config/slo_classes.yaml. A request may override each number.
struct slo_class {
  std::string name;
  slo_targets targets;
  std::string source; ///< where the values come from
};

/// Measured times of one request; all points of one clock.
struct request_timing {
  time_point arrival;
  std::optional<time_point> first_token;
  std::optional<time_point> last_token;
  std::uint32_t output_tokens{};
};

/// D(i) = arrival + S1 + i * S2: when token i (0 = first) is due.
constexpr time_point token_deadline(time_point arrival, const slo_targets& slo, std::uint32_t index) {
  return arrival + slo.ttft + slo.tpot * static_cast<std::int64_t>(index);
}

/// Arrival to first token; nothing when none came.
std::optional<duration> ttft(const request_timing& t);
/// (last token - first token) / (n - 1); zero for one token, nothing for none.
std::optional<duration> tpot(const request_timing& t);
/// Arrival to last token.
std::optional<duration> e2e(const request_timing& t);
/// TTFT <= S1 and TPOT <= S2 and, when set, E2E <= its deadline. Only finished requests can attain: pass the timing of
/// one.
bool attained(const request_timing& t, const slo_targets& slo);

} // namespace hflex
