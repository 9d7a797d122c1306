// reactive: one more when requests are late (waiting beyond their target, or planned to be), then a pause of a lead
// time, so that it can help; one less after a quiet time without any.
#include "actors/scaler/policy.hpp"
#include <array>

namespace hflex::scaler {

namespace {

constexpr std::array reactive_table{
    knob{"reactive.step", 1.0, 1.0, 1000.0, "instances that are added at a time"},
    knob{"reactive.quiet_s", 60.0, 0.1, 86400.0, "seconds without lateness until one goes"},
};

class reactive final : public policy {
public:
  explicit reactive(const options& opts)
      : step_(static_cast<std::uint32_t>(reactive_table[0].of(opts))), quiet_(from_s(reactive_table[1].of(opts))) {}

  role_counts wanted(const fleet_view& v, time_point now) override {
    if (counts_.empty()) counts_ = v.configured;
    if (!v.demand_at) return counts_;
    if (!quiet_since_) quiet_since_ = now;
    const auto& d = v.demand;
    if (v.disaggregated()) {
      look(v, instance_role::prefill, d.late + d.overdue, now);
      look(v, instance_role::decode, d.without_room + over_their_targets(d), now);
    } else {
      look(v, instance_role::mixed, d.late + d.overdue + d.without_room + over_their_targets(d), now);
    }
    return counts_;
  }
  reasoning why() const override { return reason_; }
  std::optional<time_point> next_look(const fleet_view& v, time_point now) const override {
    return v.demand_at ? std::optional{now + std::chrono::seconds{1}} : std::nullopt;
  }

private:
  static std::uint32_t over_their_targets(const demand_report& d) {
    std::uint32_t n = 0;
    for (const auto& i : d.instances) n += i.tpot_headroom < 0 ? 1 : 0;
    return n;
  }

  void look(const fleet_view& v, instance_role role, std::uint32_t late, time_point now) {
    const auto running = v.running(role);
    auto& count = counts_[role];
    auto& last_up = last_up_[role];
    auto& quiet_since = late_at_.try_emplace(role, *quiet_since_).first->second;
    if (late > 0) {
      quiet_since = now;
      if (last_up && now - *last_up < v.lead_time) return;
      last_up = now;
      count = running + step_;
      reason_ = {fmt::format("{} late", late), {{"late", static_cast<double>(late)}}};
    } else if (now - quiet_since >= quiet_ && running > 1) {
      quiet_since = now;
      count = running - 1;
      reason_ = {fmt::format("nothing late for {:.0f} s", to_s(quiet_)), {}};
    }
  }

  std::uint32_t step_;
  duration quiet_;
  std::optional<time_point> quiet_since_;
  std::map<instance_role, std::optional<time_point>> last_up_;
  std::map<instance_role, time_point> late_at_;
  role_counts counts_;
  reasoning reason_;
};

} // namespace

std::span<const knob> reactive_knobs() { return reactive_table; }
std::unique_ptr<policy> make_reactive(const options& opts) { return std::make_unique<reactive>(opts); }

} // namespace hflex::scaler
