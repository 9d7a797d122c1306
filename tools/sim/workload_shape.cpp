#include "tools/sim/workload_shape.hpp"
#include "actors/common/check.hpp"
#include "tools/sim/random.hpp"
#include <algorithm>
#include <cmath>

namespace hflex::sim {

namespace {

/// Every subset of that size is equally likely (selection sampling, Knuth 3.4.2, algorithm S); the order stays.
void thin(workload& load, std::size_t wanted, std::uint64_t seed) {
  random_source random(seed, 11);
  std::size_t left = load.requests.size();
  std::vector<request> kept;
  for (auto& r : load.requests) {
    const auto missing = static_cast<double>(wanted - kept.size());
    if (random.uniform() * static_cast<double>(left--) < missing) kept.push_back(std::move(r));
  }
  load.requests = std::move(kept);
}

/// Arrivals count from the first one that is left.
double compress(workload& load, duration to) {
  const auto first = load.requests.front().arrival;
  const auto length = load.requests.back().arrival - first;
  const double factor = length > duration{0} ? to_s(to) / to_s(length) : 1.0;
  for (auto& r : load.requests)
    r.arrival = duration{std::llround(static_cast<double>((r.arrival - first).count()) * factor)};
  return factor > 0 ? 1.0 / factor : 1.0;
}

void make_arrivals(workload& load, double rate, double burstiness, std::uint64_t seed) {
  random_source random(seed, 12);
  double at = 0;
  for (auto& r : load.requests) {
    r.arrival = from_s(at);
    if (std::isfinite(rate)) at += random.gamma(burstiness) / burstiness / rate;
  }
}

std::uint32_t times(std::uint32_t tokens, double factor) {
  return static_cast<std::uint32_t>(std::max(1.0, std::round(static_cast<double>(tokens) * factor)));
}

void fit_context(workload& load, const shape_options& o, shape_report& report) {
  const auto context = *o.context;
  HFLEX_CHECK(context > o.min_prompt_tokens);
  std::vector<std::uint64_t> totals;
  for (const auto& r : load.requests) totals.push_back(std::uint64_t{r.prompt_tokens} + r.output_tokens);
  const auto rank = (totals.size() - 1) * 99 / 100;
  std::nth_element(totals.begin(), totals.begin() + static_cast<std::ptrdiff_t>(rank), totals.end());
  report.length_scale = std::min(1.0, static_cast<double>(context) / static_cast<double>(totals[rank]));
  if (report.length_scale < 1) load.prefix_block_tokens = times(load.prefix_block_tokens, report.length_scale);
  for (auto& r : load.requests) {
    r.prompt_tokens = times(r.prompt_tokens, report.length_scale);
    r.output_tokens = times(r.output_tokens, report.length_scale);
    if (r.prompt_tokens + r.output_tokens <= context) continue;
    ++report.cut;
    r.output_tokens = std::min(r.output_tokens, context - o.min_prompt_tokens);
    r.prompt_tokens = std::min(r.prompt_tokens, context - r.output_tokens);
  }
}

} // namespace

shape_report shape(workload& load, const shape_options& o) {
  HFLEX_CHECK(!load.requests.empty() && o.burstiness > 0 && o.request_rate.value_or(1) > 0);
  shape_report report;
  report.offered = load.requests.size();
  if (o.requests && *o.requests < load.requests.size()) thin(load, std::max<std::size_t>(*o.requests, 1), o.seed);
  if (o.compress_to) report.rate_scale = compress(load, *o.compress_to);
  if (o.request_rate) make_arrivals(load, *o.request_rate, o.burstiness, o.seed);
  if (o.context) fit_context(load, o, report);
  for (auto& r : load.requests) {
    r.prompt_tokens = std::max(r.prompt_tokens, o.min_prompt_tokens);
    if (o.context) r.output_tokens = std::min(r.output_tokens, *o.context - r.prompt_tokens);
  }
  return report;
}

} // namespace hflex::sim
