#include "actors/scheduler/output_length.hpp"
#include <algorithm>
#include <cmath>

namespace hflex::scheduler {

namespace {
constexpr std::uint32_t enough = 16;
constexpr std::uint32_t halve_at = 2048;
constexpr std::size_t most_classes = 256; // class names come from configuration; this only bounds a mistake
} // namespace

std::size_t output_length_predictor::bucket_of(std::uint32_t tokens) {
  const auto index = std::log2(static_cast<double>(std::max(tokens, 1U))) * 8.0;
  return std::min(static_cast<std::size_t>(index), buckets - 1);
}

std::uint32_t output_length_predictor::upper_end(std::size_t bucket) {
  return static_cast<std::uint32_t>(std::ceil(std::exp2(static_cast<double>(bucket + 1) / 8.0)));
}

void output_length_predictor::observe(std::string_view slo_class, std::uint32_t tokens) {
  auto found = classes_.find(slo_class);
  if (found == classes_.end()) {
    if (classes_.size() >= most_classes) return;
    found = classes_.emplace(std::string(slo_class), histogram{}).first;
  }
  auto& h = found->second;
  ++h.counts[bucket_of(tokens)];
  if (++h.total < halve_at) return;
  h.total = 0;
  for (auto& count : h.counts) h.total += count /= 2;
}

std::uint32_t output_length_predictor::predict(
    std::string_view slo_class, std::uint32_t produced, std::uint32_t max_tokens) const {
  const auto ceiling = std::max(max_tokens, produced + 1);
  const auto found = classes_.find(slo_class);
  if (found == classes_.end() || found->second.total < enough) return ceiling;
  // Given that it is longer than `produced` already: the quantile of the rest of the distribution.
  const auto& h = found->second;
  std::uint32_t longer = 0;
  for (auto b = bucket_of(produced + 1); b < buckets; ++b) longer += h.counts[b];
  if (longer == 0) return ceiling;
  const auto wanted = quantile_ * longer;
  std::uint32_t sum = 0;
  for (auto b = bucket_of(produced + 1); b < buckets; ++b) {
    sum += h.counts[b];
    if (sum >= wanted) return std::clamp(upper_end(b), produced + 1, ceiling);
  }
  return ceiling;
}

} // namespace hflex::scheduler
