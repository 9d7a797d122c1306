#include "actors/scaler/forecast.hpp"
#include <algorithm>
#include <cmath>
#include <utility>

namespace hflex::scaler {

namespace {

constexpr duration bin_width{std::chrono::seconds{1}};

// How much a bin's excess weighs against the past: about two minutes are remembered.
constexpr double newest_excess = 1.0 / 120;

// The trend is fitted over that many leads, within these bounds.
constexpr double trend_leads = 12;
constexpr std::size_t least_trend_bins = 12, most_trend_bins = 300;

// So many standard errors are no accident.
constexpr double beyond_chance = 2.0;

std::size_t bins_in(duration d) {
  return static_cast<std::size_t>(std::clamp<std::int64_t>((d + bin_width / 2) / bin_width, 1, 600));
}

} // namespace

void rate_forecast::close_bins(time_point now) {
  latest_ = now;
  // A silence longer than all that is kept says no more than one of that length.
  const auto oldest = now - bin_width * static_cast<std::int64_t>(most_bins + 1);
  if (*open_since_ < oldest) open_since_ = oldest;
  while (now - *open_since_ >= bin_width) {
    bins_.push_back(std::exchange(open_, 0.0));
    ++serial_;
    if (bins_.size() > most_bins) bins_.pop_front();
    *open_since_ += bin_width;
  }
}

void rate_forecast::add(time_point now, double amount) {
  if (!open_since_) open_since_ = now;
  open_ += amount; // it came before now
  close_bins(now);
}

double rate_forecast::mean_of_last(std::size_t bins) const {
  const auto n = std::min(bins, bins_.size());
  if (n == 0) return 0;
  double sum = 0;
  for (auto i = bins_.size() - n; i < bins_.size(); ++i) sum += bins_[i];
  return sum / static_cast<double>(n);
}

double rate_forecast::lately(duration window) const {
  if (!open_since_) return 0;
  const auto open_for = latest_ - *open_since_;
  const auto closed = window > open_for ? std::min(bins_in(window - open_for), bins_.size()) : 0;
  const double seconds = static_cast<double>(closed) + to_s(open_for);
  // Less than a bin says little: it counts as one, so that the first arrivals do not look like a storm.
  return (mean_of_last(closed) * static_cast<double>(closed) + open_) / std::max(seconds, 1.0);
}

// A line through the bins of a longer while, if its slope is more than chance; else their mean. A level of the latest
// while counts when it is above that by more than chance: a jump.
double rate_forecast::expected(duration ahead) const {
  const auto jump = lately(std::max<duration>(ahead, std::chrono::seconds{3}));
  const auto wanted = static_cast<std::size_t>(trend_leads * static_cast<double>(bins_in(ahead)));
  const auto n = std::min(std::clamp(wanted, least_trend_bins, most_trend_bins), bins_.size());
  if (n < least_trend_bins) return jump;
  // Least squares over the bins, x from -(n-1)/2 to (n-1)/2.
  const double count = static_cast<double>(n);
  double sum = 0, products = 0, squares = 0, sum_of_squares = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const double x = static_cast<double>(i) - (count - 1) / 2;
    const double y = bins_[bins_.size() - n + i];
    sum += y;
    products += x * y;
    squares += x * x;
    sum_of_squares += y * y;
  }
  const double slope = products / squares;
  const double mean = sum / count;
  const double around_line = std::max(0.0, sum_of_squares - sum * mean - slope * products);
  const double variance = around_line / (count - 2);
  const bool rises = slope > beyond_chance * std::sqrt(variance / squares);
  const bool falls = slope < -beyond_chance * std::sqrt(variance / squares);
  // A line says nothing about longer than it was seen to hold, and what falls is not extrapolated.
  double level = mean;
  if (rises) level = mean + slope * (count / 2 + std::min(to_s(ahead), count / 2));
  if (falls) level = std::max(0.0, mean + slope * count / 2);
  const double window = std::max(to_s(ahead), 3.0);
  const double chance = beyond_chance * std::sqrt(variance / window);
  return jump > level + chance ? jump : level;
}

double rate_forecast::variance(duration window) const {
  const auto n = std::min(bins_in(window), bins_.size());
  if (n < 2) return 0;
  const double mean = mean_of_last(n);
  double squares = 0;
  for (auto i = bins_.size() - n; i < bins_.size(); ++i) squares += (bins_[i] - mean) * (bins_[i] - mean);
  return squares / static_cast<double>(n - 1);
}

void rate_forecast::learn(duration lead) {
  if (serial_ == learned_) return;
  learned_ = serial_;
  const auto bins = bins_in(lead);
  while (!promises_.empty() && promises_.front().due <= serial_) {
    const auto p = promises_.front();
    promises_.pop_front();
    // Over the second half of the lead: what a start decided then would have had to serve at its beginning.
    const double came = mean_of_last(std::max<std::size_t>(p.bins / 2, 2));
    const double excess = std::max(0.0, came - p.rate);
    excess_squared_ += newest_excess * (excess * excess - excess_squared_);
  }
  if (bins_.size() >= least_trend_bins / 2) promises_.push_back({serial_ + bins, expected(lead), bins});
  if (promises_.size() > most_bins) promises_.pop_front();
}

double rate_forecast::usual_excess() const { return std::sqrt(excess_squared_); }

} // namespace hflex::scaler
