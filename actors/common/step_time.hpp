// The step-time model: the ground of every budget.
//   t = c0 + c1*max(0, P+D-m0) + c2*Q + c3*D + c4*K + c5*K*[P>0]
// P prefill tokens, D decode sequences, Q query-key pairs of the prefill chunks, K summed context of the decode
// sequences (design/scheduling.md, section 2). Batcher, scheduler, scaler and simulator all ask this one model. Pure:
// it reads no clock.
#pragma once
#include "actors/common/time.hpp"
#include <algorithm>
#include <array>
#include <cstdint>

namespace hflex {

/// How an instance plans its steps: who is in one, in which order, and how many prefill tokens. A scheduling policy
/// says which one goes with it; the instance's batcher takes it.
enum class step_policy : std::uint8_t {
  fixed_budget,     ///< first come, first served; every decode, then prefill up to max_batched_tokens
  slack_budget,     ///< earliest deadline first; the prefill chunk is the largest that keeps the decodes' slack
  hybrid_priority,  ///< as slack_budget, but ordered by deadline + a time per prefill token left, the late ones last
  credits,          ///< a decode takes part in tightest / own TPOT target of the steps, none longer than the tightest
  token_allocation, ///< decodes that another step still serves in time leave this one to prefill, the late ones last
  layered_budget,   ///< as hybrid_priority; the late get short steps, and early decodes give way to pressing prefill
};

/// What one step works on. `ctx_before` is a chunk's position when it starts: Q grows by n*(ctx_before + n/2).
struct step_shape {
  std::uint32_t prefill_tokens{}; ///< P
  std::uint32_t decode_seqs{};    ///< D
  double query_key_pairs{};       ///< Q
  double decode_context{};        ///< K
  constexpr void add_prefill(std::uint32_t n, std::uint32_t ctx_before) {
    prefill_tokens += n;
    query_key_pairs += static_cast<double>(n) * (static_cast<double>(ctx_before) + n * 0.5);
  }
  constexpr void add_decode(std::uint32_t context) {
    decode_seqs += 1;
    decode_context += context;
  }
  friend bool operator==(const step_shape&, const step_shape&) = default;
};

/// layered_budget: how long a step with only late prefill may take, so that a newcomer need not wait long. Half as long
/// again as its decodes alone, where prefill costs little, or a tenth of the tightest time to a first token that
/// anybody there was promised, as the next newcomer may be promised as much.
constexpr duration brief_step(duration decodes_alone, duration promised_ttft) {
  return std::max(decodes_alone * 3 / 2, promised_ttft / 10);
}

/// One instance's coefficients, all in milliseconds and all >= 0. A plain value: copied into events and configs.
struct step_time_model {
  double c0_ms{};     ///< per step
  double c1_ms{};     ///< per token beyond the knee
  std::uint32_t m0{}; ///< the knee: tokens that ride along with the reading of the weights
  double c2_ms{};     ///< per query-key pair of the prefill chunks
  double c3_ms{};     ///< per decode sequence
  double c4_ms{};     ///< per context token of the decode sequences
  double c5_ms{};     ///< per context token again when the step also prefills (the mixed-step extra)
  double safety{1.0}; ///< measured/predicted at the quantile to plan with; >= 1

  /// The expected time of a step.
  duration predict(const step_shape& shape) const;
  /// The time to plan with: predict() times `safety`.
  duration plan_ahead(const step_shape& shape) const;
  friend bool operator==(const step_time_model&, const step_time_model&) = default;
};

/// What a device is taken for before one of its steps was measured: a few times slower than a GPU with an 8B model.
inline constexpr step_time_model unmeasured_step_time{
    .c0_ms = 10.0, .c1_ms = 0.05, .m0 = 64, .c2_ms = 4e-6, .c3_ms = 0.02, .c4_ms = 1e-4};

/// The token budget: the largest n such that the step of `decodes` (no prefill in it) plus one chunk of n tokens
/// starting at position `ctx_before` is planned (plan_ahead) to take at most `tau`; 0 when not even one token fits. At
/// most `cap`.
std::uint32_t max_prefill_tokens(
    const step_time_model& model, duration tau, const step_shape& decodes, std::uint32_t ctx_before, std::uint32_t cap);

/// How the corrector learns.
struct corrector_options {
  double forgetting{0.995};     ///< weight of the past per step, (0.9, 1]: 0.995 remembers about 200 steps
  double safety_quantile{0.95}; ///< which quantile of measured/predicted becomes `safety`
  double max_safety{3.0};       ///< one freak step must not close admission
  double outlier{8.0};          ///< a step this many times longer or shorter than predicted trains nothing
};

/// Keeps a model true to the steps that really ran: least squares on the relative error with forgetting, drawn to the
/// model it began with by a spring, coefficients kept >= 0, plus a running quantile of measured/predicted. What lately
/// ran says little about (prefill, while only decodes run) goes back to the beginning's value instead of adrift. The
/// knee m0 is not learned.
class step_time_corrector {
public:
  explicit step_time_corrector(const step_time_model& prior, corrector_options opts = {});
  /// One measured step. Shapes without work and times <= 0 are ignored. O(1).
  void observe(const step_shape& shape, duration elapsed);
  /// The current model, its `safety` included.
  const step_time_model& model() const { return model_; }
  /// Steps that trained the model.
  std::uint64_t observed() const { return observed_; }

private:
  static constexpr std::size_t terms = 6;
  using vec = std::array<double, terms>;
  vec features(const step_shape& shape) const;
  void learn(const vec& features_of_step, double measured_ms);
  void solve();
  void track_error(double ratio);

  corrector_options opts_;
  step_time_model model_;
  vec prior_;                        ///< coefficients times their typical sizes: ms
  vec spring_;                       ///< how surely each is known beforehand: 1 / variance
  vec theta_;                        ///< now
  std::array<vec, terms> squares_{}; ///< of what ran, forgetting: sum of x x^T / noise
  vec products_{};                   ///< likewise: sum of x / noise
  std::uint64_t observed_{};
  std::uint32_t outliers_in_a_row_{};
  double log_quantile_{}; ///< of measured/predicted
  double usual_error_{};  ///< running mean of |log(measured/predicted)|
};

} // namespace hflex
