#include "actors/common/slo.hpp"

namespace hflex {

std::optional<duration> ttft(const request_timing& t) {
  if (!t.first_token) return std::nullopt;
  return *t.first_token - t.arrival;
}

std::optional<duration> tpot(const request_timing& t) {
  if (!t.first_token || !t.last_token || t.output_tokens == 0) return std::nullopt;
  if (t.output_tokens == 1) return duration{0};
  return (*t.last_token - *t.first_token) / static_cast<std::int64_t>(t.output_tokens - 1);
}

std::optional<duration> e2e(const request_timing& t) {
  if (!t.last_token) return std::nullopt;
  return *t.last_token - t.arrival;
}

bool attained(const request_timing& t, const slo_targets& slo) {
  auto first = ttft(t);
  auto per_token = tpot(t);
  auto whole = e2e(t);
  if (!first || !per_token || !whole) return false;
  return *first <= slo.ttft && *per_token <= slo.tpot && (!slo.e2e || *whole <= *slo.e2e);
}

} // namespace hflex
