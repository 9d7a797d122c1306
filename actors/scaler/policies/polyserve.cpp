// polyserve: PolyServe's rule. One more when requests pend (no instance takes them within their targets) and none is on
// its way; one less when an instance is empty. Best with a scheduling policy that fills the most loaded first
// (`polyserve`): under one that spreads, no instance is ever empty.
#include "actors/scaler/policy.hpp"
#include <array>

namespace hflex::scaler {

namespace {

constexpr std::array polyserve_table{
    knob{"polyserve.empty_s", 5.0, 0.0, 86400.0, "seconds that an instance must have been empty"},
};

class polyserve final : public policy {
public:
  explicit polyserve(const options& opts) : empty_for_(from_s(polyserve_table[0].of(opts))) {}

  role_counts wanted(const fleet_view& v, time_point now) override {
    if (counts_.empty()) counts_ = v.configured;
    if (!v.demand_at) return counts_;
    note_empty(v, now);
    const auto& d = v.demand;
    if (v.disaggregated()) {
      look(v, instance_role::prefill, d.late + d.overdue, now);
      look(v, instance_role::decode, d.without_room, now);
    } else {
      look(v, instance_role::mixed, d.late + d.overdue + d.without_room, now);
    }
    return counts_;
  }
  reasoning why() const override { return reason_; }
  std::optional<time_point> next_look(const fleet_view& v, time_point now) const override {
    return v.demand_at ? std::optional{now + std::chrono::seconds{1}} : std::nullopt;
  }

private:
  void note_empty(const fleet_view& v, time_point now) {
    std::map<instance_id, time_point> since;
    for (const auto& i : v.demand.instances)
      if (!i.draining && i.decoding + i.promised == 0 && i.pending_prefill == 0) {
        const auto known = empty_since_.find(i.instance);
        since[i.instance] = known == empty_since_.end() ? now : known->second;
      }
    empty_since_ = std::move(since);
  }

  void look(const fleet_view& v, instance_role role, std::uint32_t pending, time_point now) {
    const auto running = v.running(role), ready = v.ready(role);
    auto& count = counts_[role];
    if (pending > 0) {
      if (running > ready) return;
      count = running + 1;
      reason_ = {fmt::format("{} pend", pending), {{"pending", static_cast<double>(pending)}}};
      return;
    }
    for (const auto& [id, i] : v.instances) {
      const auto empty = empty_since_.find(id);
      if (i.role != role || i.phase != life::ready || empty == empty_since_.end() || running <= 1) continue;
      if (now - std::max(empty->second, i.since) < empty_for_) continue;
      count = running - 1;
      reason_ = {fmt::format("{} is empty", to_string(id)), {}};
      return;
    }
  }

  duration empty_for_;
  std::map<instance_id, time_point> empty_since_;
  role_counts counts_;
  reasoning reason_;
};

} // namespace

std::span<const knob> polyserve_knobs() { return polyserve_table; }
std::unique_ptr<policy> make_polyserve(const options& opts) { return std::make_unique<polyserve>(opts); }

} // namespace hflex::scaler
