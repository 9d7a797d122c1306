#include "actors/common/step_time_fit.hpp"
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

namespace hflex {
namespace {

constexpr std::size_t terms = 6;
using vec = std::array<double, terms>;
constexpr std::uint32_t knees[] = {0, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512};
constexpr std::size_t fewest = 8;

vec features(const step_shape& s, std::uint32_t m0) {
  const double tokens = static_cast<double>(s.prefill_tokens) + s.decode_seqs;
  return {1.0, std::max(0.0, tokens - m0), s.query_key_pairs, static_cast<double>(s.decode_seqs), s.decode_context,
      s.prefill_tokens > 0 ? s.decode_context : 0.0};
}

step_time_model model_of(const vec& c, std::uint32_t m0) { return {c[0], c[1], m0, c[2], c[3], c[4], c[5], 1.0}; }

/// The c >= 0 that minimises |A c - 1|^2, by coordinate descent on the normal equations of columns scaled to length 1.
/// Six unknowns: hundreds of sweeps cost less than reading the steps.
vec non_negative_least_squares(const std::array<vec, terms>& gram, const vec& right) {
  vec scale{};
  for (std::size_t i = 0; i < terms; ++i) scale[i] = gram[i][i] > 0 ? 1.0 / std::sqrt(gram[i][i]) : 0.0;
  vec c{};
  for (int sweep = 0; sweep < 5000; ++sweep) {
    double moved = 0;
    for (std::size_t i = 0; i < terms; ++i) {
      if (scale[i] == 0.0) continue;
      double gradient = right[i] * scale[i];
      for (std::size_t j = 0; j < terms; ++j) gradient -= gram[i][j] * scale[i] * scale[j] * c[j];
      const double next = std::max(0.0, c[i] + gradient);
      moved = std::max(moved, std::abs(next - c[i]));
      c[i] = next;
    }
    if (moved < 1e-12) break;
  }
  for (std::size_t i = 0; i < terms; ++i) c[i] *= scale[i];
  return c;
}

double squared_error(std::span<const measured_step> steps, const step_time_model& model) {
  double sum = 0;
  for (const auto& s : steps) {
    const double measured = to_ms(s.elapsed);
    const double off = (to_ms(model.predict(s.shape)) - measured) / measured;
    sum += off * off;
  }
  return sum;
}

step_time_model fit_with(std::span<const measured_step> steps, std::uint32_t m0) {
  std::array<vec, terms> gram{};
  vec right{};
  for (const auto& s : steps) {
    vec row = features(s.shape, m0);
    for (auto& x : row) x /= to_ms(s.elapsed); // relative: a long step must not outweigh a hundred short ones
    for (std::size_t i = 0; i < terms; ++i) {
      right[i] += row[i];
      for (std::size_t j = 0; j < terms; ++j) gram[i][j] += row[i] * row[j];
    }
  }
  return model_of(non_negative_least_squares(gram, right), m0);
}

step_time_model best_fit(std::span<const measured_step> steps) {
  step_time_model best;
  double least = std::numeric_limits<double>::infinity();
  for (const std::uint32_t m0 : knees) {
    const auto model = fit_with(steps, m0);
    if (const double error = squared_error(steps, model); error < least) {
      least = error;
      best = model;
    }
  }
  return best;
}

double quantile(std::vector<double> values, double q) {
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(q * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

} // namespace

result<step_time_fit> fit_step_time(std::span<const measured_step> steps) {
  std::vector<measured_step> usable, fitted, held_out;
  for (const auto& s : steps)
    if (s.elapsed > duration::zero() && s.shape.prefill_tokens + s.shape.decode_seqs > 0) usable.push_back(s);
  if (usable.size() < fewest)
    return fail(errc::reject, "{} measured steps: a fit needs at least {}", usable.size(), fewest);
  for (std::size_t i = 0; i < usable.size(); ++i) (i % 4 == 3 ? held_out : fitted).push_back(usable[i]);

  step_time_fit out;
  out.fitted = fitted.size();
  out.held_out = held_out.size();
  const auto judged = best_fit(fitted);
  std::vector<double> errors;
  for (const auto& s : held_out) {
    const double measured = to_ms(s.elapsed);
    errors.push_back(std::abs(to_ms(judged.predict(s.shape)) - measured) / measured);
    out.mean_error += errors.back() / static_cast<double>(held_out.size());
  }
  out.p95_error = quantile(errors, 0.95);

  out.model = best_fit(usable);
  std::vector<double> ratios;
  for (const auto& s : usable) ratios.push_back(to_ms(s.elapsed) / std::max(to_ms(out.model.predict(s.shape)), 1e-9));
  out.model.safety = std::max(1.0, quantile(ratios, 0.95));
  return out;
}

} // namespace hflex
