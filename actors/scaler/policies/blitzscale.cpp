// blitzscale: BlitzScale's load bounds (OSDI 25, section 5.3: monitor prefill throughput and decode memory, scale on
// bounds). Prefill load is tokens per second asked, and waiting, over what an instance can prefill at most; decode load
// is KV memory. Above the upper bound: as many as bring it to the bound, at once. Below the lower bound for the window:
// one less. Its scale-out is fast, its trigger knows no targets.
#include "actors/scaler/peaks.hpp"
#include "actors/scaler/policy.hpp"
#include <array>
#include <cmath>

namespace hflex::scaler {

namespace {

constexpr std::array blitzscale_table{
    knob{"blitzscale.upper", 0.8, 0.01, 2.0, "load per instance from which more are started"},
    knob{"blitzscale.lower", 0.4, 0.0, 2.0, "load per instance below which one goes"},
    knob{"blitzscale.window_s", 30.0, 0.1, 86400.0, "seconds below the lower bound until one goes"},
};
// Over how long arrivals are counted: its monitor looks each second or so.
constexpr duration rate_window{std::chrono::seconds{2}};

class blitzscale final : public policy {
public:
  explicit blitzscale(const options& opts)
      : upper_(blitzscale_table[0].of(opts)), lower_(blitzscale_table[1].of(opts)),
        window_(from_s(blitzscale_table[2].of(opts))) {}

  void told(const fleet_view&, const demand_report& d, time_point now) override {
    double tokens = 0;
    for (const auto& c : d.classes) tokens += c.prompt_tokens;
    came_.emplace_back(now, tokens);
    while (came_.size() > 1 && came_.front().first <= now - rate_window) came_.pop_front();
  }

  role_counts wanted(const fleet_view& v, time_point now) override {
    if (counts_.empty()) counts_ = v.configured;
    if (!v.demand_at) return counts_;
    reason_ = {};
    if (v.disaggregated()) {
      bound(v, instance_role::prefill, prefill_load(v, instance_role::prefill), now);
      bound(v, instance_role::decode, decode_load(v), now);
    } else {
      bound(v, instance_role::mixed, std::max(prefill_load(v, instance_role::mixed), decode_load(v)), now);
    }
    return counts_;
  }
  reasoning why() const override { return reason_; }
  std::optional<time_point> next_look(const fleet_view& v, time_point now) const override {
    return v.demand_at ? std::optional{now + std::chrono::seconds{1}} : std::nullopt;
  }

private:
  /// In instances.
  double prefill_load(const fleet_view& v, instance_role role) const {
    double tokens = 0;
    for (const auto& [when, n] : came_) tokens += n;
    double per_s = tokens / to_s(rate_window) + static_cast<double>(v.demand.waiting_tokens);
    double most = 0;
    for (const auto& i : v.demand.instances) {
      if (i.role != role) continue;
      step_shape full;
      full.add_prefill(i.max_batched_tokens, 0);
      most = std::max(most, i.max_batched_tokens / std::max(to_s(i.model.predict(full)), 1e-9));
    }
    return most > 0 ? per_s / most : 0;
  }

  static double decode_load(const fleet_view& v) {
    double taken = 0, most = 1;
    for (const auto& i : v.demand.instances) {
      if (!can_decode(i.role)) continue;
      taken += i.kv_blocks_taken;
      most = std::max<double>(most, i.kv_blocks);
    }
    return taken / most;
  }

  void bound(const fleet_view& v, instance_role role, double load, time_point now) {
    const auto running = std::max(v.running(role), 1U);
    auto& low_since = low_since_[role];
    auto& count = counts_[role];
    count = running;
    if (load > upper_ * running) {
      count = static_cast<std::uint32_t>(std::ceil(load / upper_));
      low_since.reset();
    } else if (load >= lower_ * running || running == 1) {
      low_since.reset();
    } else if (!low_since) {
      low_since = now;
    } else if (now - *low_since >= window_) {
      --count;
      low_since = now;
    }
    reason_.why =
        fmt::format("load {:.2f} instances, bounds {:.2f} and {:.2f}", load, lower_ * running, upper_ * running);
    reason_.numbers.push_back({"load", load});
  }

  double upper_, lower_;
  duration window_;
  std::deque<std::pair<time_point, double>> came_; ///< tokens, of the rate window
  std::map<instance_role, std::optional<time_point>> low_since_;
  role_counts counts_;
  reasoning reason_;
};

} // namespace

std::span<const knob> blitzscale_knobs() { return blitzscale_table; }
std::unique_ptr<policy> make_blitzscale(const options& opts) { return std::make_unique<blitzscale>(opts); }

} // namespace hflex::scaler
