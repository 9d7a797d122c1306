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

// Relative noise of one measured step, as a variance: what the corrector weighs a measurement with.
constexpr double noise = 0.05 * 0.05;

// Steps that train before errors are judged: a wrong prior must neither be called an outlier nor become a safety
// factor.
constexpr std::uint64_t warm_up = 16;

} // namespace

duration step_time_model::predict(const step_shape& shape) const { return from_ms(predict_ms(*this, shape)); }

duration step_time_model::plan_ahead(const step_shape& shape) const {
  return from_ms(predict_ms(*this, shape) * safety);
}

std::uint32_t max_prefill_tokens(const step_time_model& model, duration tau, const step_shape& decodes,
    std::uint32_t ctx_before, std::uint32_t cap) {
  HFLEX_CHECK(decodes.prefill_tokens == 0);
  auto fits = [&](std::uint32_t n) {
    auto shape = decodes;
    shape.add_prefill(n, ctx_before);
    return model.plan_ahead(shape) <= tau;
  };
  // The time never falls with n, so the border between fitting and not fitting is found by bisection.
  std::uint32_t good = 0;
  std::uint32_t bad = cap + 1;
  if (cap > 0 && fits(cap)) return cap;
  while (bad - good > 1) {
    const auto middle = good + (bad - good) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  return good;
}

step_time_corrector::step_time_corrector(const step_time_model& prior, corrector_options opts)
    : opts_(opts), model_(prior), log_quantile_(std::log(std::max(1.0, prior.safety))) {
  reset_covariance();
}

void step_time_corrector::reset_covariance() {
  const vec now{model_.c0_ms, model_.c1_ms, model_.c2_ms, model_.c3_ms, model_.c4_ms, model_.c5_ms};
  covariance_ = {};
  for (std::size_t i = 0; i < terms; ++i) {
    // Trust the prior to about a third, and leave a coefficient that is zero room to grow.
    const double spread = 0.3 * now[i] * typical[i] + 0.1 * model_.c0_ms + 1e-3;
    covariance_[i][i] = spread * spread;
  }
  initial_trace_ = trace();
}

double step_time_corrector::trace() const {
  double sum = 0;
  for (std::size_t i = 0; i < terms; ++i) sum += covariance_[i][i];
  return sum;
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

// Recursive least squares on (measured - x.theta)/measured: a long step must not outweigh a hundred short ones.
void step_time_corrector::learn(const vec& features_of_step, double measured_ms) {
  vec x = features_of_step;
  for (auto& v : x) v /= measured_ms;
  vec theta{model_.c0_ms, model_.c1_ms, model_.c2_ms, model_.c3_ms, model_.c4_ms, model_.c5_ms};
  vec px{};
  double predicted = 0;
  double xpx = 0;
  for (std::size_t i = 0; i < terms; ++i) {
    for (std::size_t j = 0; j < terms; ++j) px[i] += covariance_[i][j] * x[j];
    predicted += theta[i] * typical[i] * x[i];
    xpx += x[i] * px[i];
  }
  // Forgetting inflates what is not excited without limit (wind-up): stop once as unsure as at the start.
  const double lambda = trace() < initial_trace_ ? opts_.forgetting : 1.0;
  const double denominator = lambda * noise + xpx;
  bool sound = std::isfinite(denominator);
  for (std::size_t i = 0; i < terms; ++i) {
    theta[i] = std::max(0.0, theta[i] + px[i] / denominator * (1.0 - predicted) / typical[i]);
    sound = sound && std::isfinite(theta[i]);
  }
  if (!sound) return reset_covariance();
  set_coefficients(theta);
  for (std::size_t i = 0; i < terms; ++i)
    for (std::size_t j = 0; j <= i; ++j) {
      const double p = (covariance_[i][j] - px[i] * px[j] / denominator) / lambda;
      covariance_[i][j] = covariance_[j][i] = p;
      sound = sound && std::isfinite(p) && (i != j || p > 0);
    }
  if (!sound) reset_covariance();
}

void step_time_corrector::set_coefficients(const vec& theta) {
  model_.c0_ms = theta[0];
  model_.c1_ms = theta[1];
  model_.c2_ms = theta[2];
  model_.c3_ms = theta[3];
  model_.c4_ms = theta[4];
  model_.c5_ms = theta[5];
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
