// utilisation: what a Kubernetes HPA does with an engine's own metrics. Each period, desired = ceil(running *
// utilisation / target), unless within the tolerance; down only to the highest desired of the stabilisation window, up
// at most twofold or by four. Utilisation is sequences in hand or waiting over max_sequences, or KV memory, whichever
// is higher; of prefill instances, prefill tokens over what one step takes. Knows neither targets nor step times.
#include "actors/scaler/peaks.hpp"
#include "actors/scaler/policy.hpp"
#include <array>
#include <cmath>

namespace hflex::scaler {

namespace {

constexpr std::array utilisation_table{
    knob{"utilisation.target", 0.3, 0.001, 10.0, "utilisation to keep"},
    knob{"utilisation.period_s", 15.0, 0.1, 3600.0, "seconds between looks"},
    knob{"utilisation.window_s", 300.0, 0.0, 86400.0, "stabilisation window for going down, seconds"},
};
constexpr double tolerance = 0.1;

class utilisation final : public policy {
public:
  explicit utilisation(const options& opts)
      : target_(utilisation_table[0].of(opts)), period_(from_s(utilisation_table[1].of(opts))),
        window_(from_s(utilisation_table[2].of(opts))) {}

  role_counts wanted(const fleet_view& v, time_point now) override {
    auto counts = counts_.empty() ? v.configured : counts_;
    if (!v.demand_at || (looked_ && now - *looked_ < period_)) return counts;
    looked_ = now;
    reason_ = {};
    for (auto role : {instance_role::prefill, instance_role::decode, instance_role::mixed})
      if (v.configured.count(role)) counts[role] = look(v, role, now);
    return counts_ = counts;
  }
  reasoning why() const override { return reason_; }
  std::optional<time_point> next_look(const fleet_view& v, time_point now) const override {
    return v.demand_at ? std::optional{std::max(now, looked_.value_or(now) + period_)} : std::nullopt;
  }

private:
  std::uint32_t look(const fleet_view& v, instance_role role, time_point now) {
    const auto n = std::max(v.running(role), 1U);
    const double used = utilisation_of(v, role) / n;
    double desired = n;
    if (std::abs(used / target_ - 1) > tolerance) desired = std::ceil(n * used / target_);
    desired = std::clamp(desired, 1.0, std::max(2.0 * n, n + 4.0));
    auto& recommended = recommended_[role];
    recommended.add(now, desired);
    const double stable =
        recommended.covers(window_) ? recommended.over(window_, window_) : std::max<double>(n, desired);
    reason_.why = fmt::format("utilisation {:.2f}, target {:.2f}", used, target_);
    reason_.numbers.push_back({"utilisation", used});
    return static_cast<std::uint32_t>(desired > n ? desired : std::min<double>(n, std::max(stable, desired)));
  }

  // In instances.
  static double utilisation_of(const fleet_view& v, instance_role role) {
    double sequences = role == instance_role::prefill ? 0 : v.demand.waiting, most = 1, kv = 0, kv_most = 1;
    double tokens = static_cast<double>(v.demand.waiting_tokens), step = 1;
    for (const auto& i : v.demand.instances) {
      if (i.role != role) continue;
      sequences += i.decoding + i.promised;
      most = std::max<double>(most, i.max_sequences);
      kv += i.kv_blocks_taken;
      kv_most = std::max<double>(kv_most, i.kv_blocks);
      tokens += static_cast<double>(i.pending_prefill);
      step = std::max<double>(step, i.max_batched_tokens);
    }
    return role == instance_role::prefill ? tokens / step : std::max(sequences / most, kv / kv_most);
  }

  double target_;
  duration period_, window_;
  std::optional<time_point> looked_;
  std::map<instance_role, peaks> recommended_;
  role_counts counts_;
  reasoning reason_;
};

} // namespace

std::span<const knob> utilisation_knobs() { return utilisation_table; }
std::unique_ptr<policy> make_utilisation(const options& opts) { return std::make_unique<utilisation>(opts); }

} // namespace hflex::scaler
