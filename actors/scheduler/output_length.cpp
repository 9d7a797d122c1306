#include "actors/scheduler/output_length.hpp"
#include <algorithm>
#include <cmath>

namespace hflex::scheduler {

namespace {
constexpr std::uint32_t enough = 16;
constexpr std::uint32_t hold_every = 16; // observations
constexpr double usual_hold = 512;
constexpr std::uint32_t halve_at = 2048;
constexpr std::size_t most_classes = 256; // class names come from configuration; this only bounds a mistake
constexpr std::uint32_t nobody = ~std::uint32_t{0};
} // namespace

std::uint32_t output_length_predictor::number_of(std::string_view slo_class) {
  // A handful: looking at all of them is faster than hashing the name.
  const auto found =
      std::find_if(classes_.begin(), classes_.end(), [&](const histogram& h) { return h.name == slo_class; });
  if (found != classes_.end()) return static_cast<std::uint32_t>(found - classes_.begin());
  if (classes_.size() >= most_classes) return nobody;
  classes_.emplace_back().name = slo_class;
  return static_cast<std::uint32_t>(classes_.size() - 1);
}

std::size_t output_length_predictor::bucket_of(std::uint32_t tokens) {
  const auto index = std::log2(static_cast<double>(std::max(tokens, 1U))) * 8.0;
  return std::min(static_cast<std::size_t>(index), buckets - 1);
}

std::uint32_t output_length_predictor::upper_end(std::size_t bucket) {
  static const auto ends = [] {
    std::array<std::uint32_t, buckets> all{};
    for (std::size_t b = 0; b < buckets; ++b)
      all[b] = static_cast<std::uint32_t>(std::ceil(std::exp2(static_cast<double>(b + 1) / 8.0)));
    return all;
  }();
  return ends[bucket];
}

void output_length_predictor::observe(std::uint32_t class_number, std::uint32_t tokens) {
  if (class_number == nobody) return;
  auto& h = classes_[class_number];
  const auto bucket = bucket_of(tokens);
  ++h.counts[bucket];
  ++tally_.finished;
  tally_.outputs += tokens;
  if (tally_.finished >= halve_at) tally_.fade(0.5);
  if (bucket < h.quantile_bucket) ++h.below;
  if (++h.total >= halve_at) {
    h.total = 0;
    for (auto& count : h.counts) h.total += count /= 2;
    h.quantile_bucket = h.below = 0;
  }
  settle_quantile(h);
  if (h.total % hold_every == 0) h.hold = hold_from(h, 0);
}

void output_length_predictor::settle_quantile(histogram& h) const {
  const auto wanted = quantile_ * h.total;
  while (h.quantile_bucket + 1 < buckets && h.below + h.counts[h.quantile_bucket] < wanted)
    h.below += h.counts[h.quantile_bucket++];
  while (h.quantile_bucket > 0 && h.below >= wanted) h.below -= h.counts[--h.quantile_bucket];
}

std::size_t output_length_predictor::quantile_from(const histogram& h, std::size_t from) const {
  std::uint32_t longer = 0;
  for (auto b = from; b < buckets; ++b) longer += h.counts[b];
  if (longer == 0) return buckets;
  const auto wanted = quantile_ * longer;
  std::uint32_t sum = 0;
  for (auto b = from; b < buckets; ++b)
    if ((sum += h.counts[b]) >= wanted) return b;
  return buckets;
}

std::uint32_t output_length_predictor::predict(
    std::uint32_t class_number, std::uint32_t produced, std::uint32_t max_tokens) const {
  const auto ceiling = std::max(max_tokens, produced + 1);
  if (class_number == nobody || classes_[class_number].total < enough) return ceiling;
  // Given that it is longer than `produced` already: the quantile of the rest of the distribution.
  const auto& h = classes_[class_number];
  const auto bucket = produced == 0 ? h.quantile_bucket : quantile_from(h, bucket_of(produced + 1));
  return bucket < buckets ? std::clamp(upper_end(bucket), produced + 1, ceiling) : ceiling;
}

double output_length_predictor::hold_from(const histogram& h, std::uint32_t produced) {
  const auto from = bucket_of(produced + 1);
  std::uint32_t longer = 0, left = 0;
  for (auto b = from; b < buckets; ++b) longer += h.counts[b];
  double most = 0;
  left = longer;
  for (auto b = from; b < buckets && left > 0; left -= h.counts[b++])
    most = std::max(most, (static_cast<double>(upper_end(b)) - produced) * left / longer);
  return most;
}

std::uint32_t output_length_predictor::expected_hold(
    std::uint32_t class_number, std::uint32_t produced, std::uint32_t max_tokens) const {
  const auto most = std::max(max_tokens, produced + 1) - produced;
  double hold = usual_hold;
  if (class_number != nobody && classes_[class_number].total >= enough) {
    const auto& h = classes_[class_number];
    hold = (produced == 0 ? h.hold : hold_from(h, produced)) * tally_.stretch();
  }
  return static_cast<std::uint32_t>(std::clamp(hold, 1.0, static_cast<double>(most)));
}

} // namespace hflex::scheduler
