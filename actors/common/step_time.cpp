#include "actors/common/step_time.hpp"
#include "actors/common/check.hpp"
#include <algorithm>
#include <cmath>

namespace hflex {

namespace {

double predict_ms(const step_time_model& m, const step_shape& s) {
  const double tokens = static_cast<double>(s.prefill_tokens) + s.decode_seqs;
  const double mixed = s.prefill_tokens > 0 ? m.c5_ms : 0.0;
  return m.c0_ms + m.c1_ms * std::max(0.0, tokens - m.m0) + m.c2_ms * s.query_key_pairs + m.c3_ms * s.decode_seqs +
         (m.c4_ms + mixed) * s.decode_context;
}

// Typical sizes of the model's terms. The corrector works on coefficients times these, so that all are milliseconds of
// the same order and one covariance scale suits them.
constexpr std::array<double, 6> typical{1.0, 1e3, 1e6, 1e2, 1e5, 1e5};

// Relative noise of one measured step, a standard deviation: what the corrector weighs a measurement with.
constexpr double noise_deviation = 0.05;

// Steps that train before errors are judged: a wrong prior must neither be called an outlier nor become a safety
// factor.
constexpr std::uint64_t warm_up = 16;

} // namespace

duration step_time_model::predict(const step_shape& shape) const { return from_ms(predict_ms(*this, shape)); }

duration step_time_model::plan_ahead(const step_shape& shape) const {
  return from_ms(predict_ms(*this, shape) * safety);
}

namespace {

// Where the planned time of the step would reach `tau` if tokens were not whole: the root of
//   base + c1*max(0, n + D - m0) + c2*(n*ctx + n^2/2) = tau / safety.
double tokens_until(const step_time_model& m, duration tau, const step_shape& decodes, std::uint32_t ctx_before) {
  const double free = static_cast<double>(m.m0) - decodes.decode_seqs; // tokens that ride along
  const double left_ms =
      to_ms(tau) / m.safety - m.c0_ms - m.c3_ms * decodes.decode_seqs - (m.c4_ms + m.c5_ms) * decodes.decode_context;
  const auto root = [&](double per_token, double ms) {
    const double b = per_token + m.c2_ms * ctx_before;
    const double d = b * b + 2.0 * m.c2_ms * ms;
    return d > 0 ? 2.0 * ms / (b + std::sqrt(d)) : 0.0;
  };
  if (free <= 0) return root(m.c1_ms, left_ms + m.c1_ms * free);
  const double riding = root(0.0, left_ms);
  return riding <= free && m.c2_ms > 0 ? riding : std::max(free, root(m.c1_ms, left_ms + m.c1_ms * free));
}

} // namespace

std::uint32_t max_prefill_tokens(const step_time_model& model, duration tau, const step_shape& decodes,
    std::uint32_t ctx_before, std::uint32_t cap) {
  HFLEX_CHECK(decodes.prefill_tokens == 0);
  auto fits = [&](std::uint32_t n) {
    auto shape = decodes;
    shape.add_prefill(n, ctx_before);
    return model.plan_ahead(shape) <= tau;
  };
  // The time never falls with n, so the border between fitting and not fitting can be closed in on from a guess: a few
  // looks when it is good, as many as bisection takes when it is not.
  if (cap == 0 || fits(cap)) return cap;
  std::uint32_t good = 0; // 0 need not fit: it is the answer when nothing does
  std::uint32_t bad = cap;
  const double guess = tokens_until(model, tau, decodes, ctx_before);
  auto probe = guess >= 1.0 ? static_cast<std::uint32_t>(std::min<double>(guess, cap - 1)) : 1U;
  for (std::uint32_t stride = 1; bad - good > 1; stride *= 2) {
    probe = std::clamp(probe, good + 1, bad - 1);
    const bool fit = fits(probe);
    (fit ? good : bad) = probe;
    if (stride > 8)
      probe = good + (bad - good) / 2;
    else
      probe = fit ? probe + stride : probe - std::min(probe, stride);
  }
  return good;
}

step_time_corrector::step_time_corrector(const step_time_model& prior, corrector_options opts)
    : opts_(opts), model_(prior), log_quantile_(std::log(std::max(1.0, prior.safety))) {
  const vec given{prior.c0_ms, prior.c1_ms, prior.c2_ms, prior.c3_ms, prior.c4_ms, prior.c5_ms};
  for (std::size_t i = 0; i < terms; ++i) {
    theta_[i] = prior_[i] = given[i] * typical[i];
    // Trust what is given to about a third, and leave a coefficient that is zero room to grow.
    const double spread = 0.3 * prior_[i] + 0.1 * prior.c0_ms + 1e-3;
    spring_[i] = 1.0 / (spread * spread);
  }
}

step_time_corrector::vec step_time_corrector::features(const step_shape& s) const {
  const double tokens = static_cast<double>(s.prefill_tokens) + s.decode_seqs;
  const double mixed_context = s.prefill_tokens > 0 ? s.decode_context : 0.0;
  return {1.0, std::max(0.0, tokens - model_.m0) / typical[1], s.query_key_pairs / typical[2],
      s.decode_seqs / typical[3], s.decode_context / typical[4], mixed_context / typical[5]};
}

void step_time_corrector::observe(const step_shape& shape, duration elapsed) {
  if (shape.prefill_tokens == 0 && shape.decode_seqs == 0) return;
  const double measured = to_ms(elapsed);
  if (!(measured > 0)) return;
  const double ratio = measured / std::max(predict_ms(model_, shape), 1e-6);
  const bool warm = observed_ >= warm_up;
  if (warm) track_error(ratio);
  const bool strange = warm && (ratio > opts_.outlier || ratio < 1.0 / opts_.outlier);
  outliers_in_a_row_ = strange ? outliers_in_a_row_ + 1 : 0;
  // A freak step teaches nothing, but a device that has changed for good must be believed in the end.
  if (strange && outliers_in_a_row_ < warm_up) return;
  learn(features(shape), measured);
  ++observed_;
}

// Each step counts by its relative error: a long one must not outweigh a hundred short ones.
void step_time_corrector::learn(const vec& features_of_step, double measured_ms) {
  // Scaled by the noise's deviation here, so that nothing is divided below.
  const double scale = 1.0 / (measured_ms * noise_deviation);
  vec x = features_of_step;
  for (auto& v : x) v *= scale;
  for (std::size_t i = 0; i < terms; ++i) {
    for (std::size_t j = 0; j < terms; ++j) squares_[i][j] = opts_.forgetting * squares_[i][j] + x[i] * x[j];
    products_[i] = opts_.forgetting * products_[i] + x[i] * (1.0 / noise_deviation);
  }
  solve();
  model_.c0_ms = theta_[0] / typical[0];
  model_.c1_ms = theta_[1] / typical[1];
  model_.c2_ms = theta_[2] / typical[2];
  model_.c3_ms = theta_[3] / typical[3];
  model_.c4_ms = theta_[4] / typical[4];
  model_.c5_ms = theta_[5] / typical[5];
}

// The minimum of sum (1 - x.theta)^2 / noise + sum spring * (theta - prior)^2 over theta >= 0, by coordinate descent
// from where it was: the sum is strictly convex, so every sweep comes closer and none can run away.
void step_time_corrector::solve() {
  constexpr int sweeps = 3;
  vec pull, weight;
  for (std::size_t i = 0; i < terms; ++i) {
    pull[i] = products_[i] + spring_[i] * prior_[i];
    weight[i] = 1.0 / (squares_[i][i] + spring_[i]);
  }
  for (int sweep = 0; sweep < sweeps; ++sweep)
    for (std::size_t i = 0; i < terms; ++i) {
      static_assert(terms == 6); // three sums side by side: one after the other they would wait for each other
      const auto& s = squares_[i];
      const double even = s[0] * theta_[0] + s[2] * theta_[2];
      const double odd = s[1] * theta_[1] + s[3] * theta_[3];
      const double others = (even + odd) + (s[4] * theta_[4] + s[5] * theta_[5]) - s[i] * theta_[i];
      theta_[i] = std::max(0.0, (pull[i] - others) * weight[i]);
    }
}

// Stochastic approximation of a quantile: up by p, down by 1 - p; it rests where a share p of the errors lies below.
// The strides are a fraction of the usual error, so that a device without noise is planned without padding.
void step_time_corrector::track_error(double ratio) {
  const double error = std::clamp(std::log(ratio), -std::log(opts_.max_safety), std::log(opts_.max_safety));
  usual_error_ += 0.02 * (std::abs(error) - usual_error_);
  const double stride = 0.3 * usual_error_;
  log_quantile_ += error > log_quantile_ ? stride * opts_.safety_quantile : -stride * (1.0 - opts_.safety_quantile);
  log_quantile_ = std::clamp(log_quantile_, 0.0, std::log(opts_.max_safety));
  model_.safety = std::exp(log_quantile_);
}

} // namespace hflex
