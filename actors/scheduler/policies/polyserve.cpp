// polyserve: K. Zhu, H. Shi, L. Xu, J. Shan, A. Krishnamurthy, B. Kasikci, L. Xie, "PolyServe: Efficient Multi-SLO
// Serving at Scale" (arXiv 2507.17769). A baseline.
//
// What the paper does: requests are binned by TPOT, and each bin (tier) has instances of its own. Of a tier's instances
// a request goes to the most loaded one that still attains everybody's targets, by profiled step times: its first token
// within S1 (chunks as they will be, pending prefills by deadline), the second within S1 + S2, and the decode step of
// the grown batch at the KV that it will have within S2. So load forms a gradient, and the last instance of a tier runs
// empty and can go back to the pool. When a tier cannot take a request, a tighter tier may (lazy promotion, the nearest
// first); when that cannot either, the tier gets an instance from the pool. Chunks are dynamic; requests wait in
// deadline order.
//
// Here: the pool is what is idle of the fleet that there is (adding instances beyond is the scaler's). `promote_first`
// says whether promotion comes before taking an idle instance: as in the paper 1, which saves instances; 0 attains more
// when they are there anyway. When the pool is empty and a request would be late, its tier takes over the least loaded
// instance of a looser one, at most one each `retier_ms`; the residents there count as promoted. Dynamic chunks are the
// step policy slack_budget. P/D: prefill instances have no tier (the most loaded that attains S1), decode instances do.
// The paper places a decode after the prefill; here a request is bound when its prefill is about to start.
//
// Left out: nothing is sent away; who has lost its targets is served where it does least harm (place_for_lost).
#include "actors/scheduler/policies/placing.hpp"
#include <array>

namespace hflex::scheduler {

namespace {

constexpr knob edge_1{"polyserve.tier_1_ms", 20, 1, 10000, "TPOT of the 2nd tightest tier, ms; tiers are [edge, next)"};
constexpr knob edge_2{"polyserve.tier_2_ms", 30, 1, 10000, "TPOT of the 3rd tightest tier, ms"};
constexpr knob edge_3{"polyserve.tier_3_ms", 50, 1, 10000, "TPOT of the 4th tightest tier, ms"};
constexpr knob edge_4{"polyserve.tier_4_ms", 100, 1, 10000, "TPOT of the loosest tier, ms"};
constexpr knob headroom{"polyserve.headroom", 0.95, 0.3, 1.5, "share of the targets that predictions may take"};
constexpr knob growth{"polyserve.growth", 0.5, 0, 1, "share of the predicted output by which a context is to grow"};
constexpr knob promote_first{"polyserve.promote_first", 0, 0, 1, "1: promotion before an idle instance; 0: after"};
class polyserve final : public policy {
public:
  static constexpr knob retier{
      "polyserve.retier_ms", 1000, 1, 1e6, "between two take-overs of a looser tier's instance, ms"};
  static constexpr knob window{
      "polyserve.window", 2.0, 1, 1e6, "P/D: prefill that may be pending at an instance, in steps"};
  static constexpr std::array knobs{edge_1, edge_2, edge_3, edge_4, headroom, growth, promote_first, retier, window};

  explicit polyserve(const options& opts)
      : edges_{from_ms(edge_1.of(opts)), from_ms(edge_2.of(opts)), from_ms(edge_3.of(opts)), from_ms(edge_4.of(opts))},
        headroom_(headroom.of(opts)), growth_(growth.of(opts)), promote_first_(promote_first.of(opts) > 0.5),
        retier_every_(from_ms(retier.of(opts))), window_(window.of(opts)), lost_after_(opts.lost_after) {}

  void queued(const view&, const waiting_request& w) override { order_.add(w); }
  void unqueued(const view&, const waiting_request& w) override { order_.remove(w); }

  void plan(const view& v, time_point now, decisions& d) override {
    return_empty(v);
    budgets_.clear();
    std::vector<request_key> lost;
    bool others_wait = false;
    int failed = 0;
    std::uint32_t looked_at = 0;
    for (auto it = order_.slots.begin(); it != order_.slots.end() && failed < patience;) {
      const auto key = std::get<2>(*it++);
      if (++looked_at > v.opts->plan_depth) break;
      const auto& w = v.waiting.at(key);
      if (is_lost(v, w.request, now)) {
        lost.push_back(key);
        continue;
      }
      const bool served = serve(v, w, now, d);
      failed = served ? 0 : failed + 1;
      others_wait = others_wait || !served;
    }
    for (auto key : lost) {
      const auto& w = v.waiting.at(key);
      const auto best = place_for_lost(v, w, now, others_wait);
      if (!best) return;
      d.dispatch(key, best->with(blocks_of(*best->decode, w), true, "its targets are lost"));
    }
  }

private:
  // 0 is the tightest.
  int tier_of(duration tpot) const {
    return static_cast<int>(std::upper_bound(edges_.begin(), edges_.end(), tpot) - edges_.begin());
  }
  // Those in the pool have none.
  std::optional<int> tier_at(const instance_load& at) const {
    const auto found = tiers_.find(at.is.instance);
    return found == tiers_.end() ? std::nullopt : std::optional{found->second};
  }

  void return_empty(const view& v) {
    std::erase_if(tiers_, [&](const auto& t) {
      const auto at = v.instances.find(t.first);
      return at == v.instances.end() || at->second.outstanding == 0;
    });
  }

  bool serve(const view& v, const waiting_request& w, time_point now, decisions& d) {
    const auto own = tier_of(w.request.slo.tpot);
    if (serve_in(v, w, own, now, "own tier", d)) return true;
    if (promote_first_ && promote(v, w, own, now, d)) return true;
    if (serve_in(v, w, std::nullopt, now, "tier grows", d)) return true;
    if (!promote_first_ && promote(v, w, own, now, d)) return true;
    return take_over(v, w, own, now) && serve_in(v, w, own, now, "tier takes over", d);
  }

  bool promote(const view& v, const waiting_request& w, int own, time_point now, decisions& d) {
    for (int tighter = own - 1; tighter >= 0; --tighter)
      if (serve_in(v, w, tighter, now, "promoted", d)) return true;
    return false;
  }

  bool serve_in(const view& v, const waiting_request& w, std::optional<int> tier, time_point now, std::string_view why,
      decisions& d) {
    using score = std::tuple<std::int64_t, std::int64_t>; // most loaded first
    const auto best = best_place(v, w.request, [&](const place& at) -> std::optional<score> {
      if (tier_at(*at.decode) != tier || !attains(v, at, w, now)) return std::nullopt;
      return score{-static_cast<std::int64_t>(at.decode->outstanding_tokens),
          -static_cast<std::int64_t>(at.prefill->pending_prefill)};
    });
    if (!best) return false;
    if (!tier) tiers_.emplace(best->decode->is.instance, tier_of(w.request.slo.tpot));
    budgets_.erase(best->prefill->is.instance);
    budgets_.erase(best->decode->is.instance);
    d.dispatch(w.request.key,
        best->with(blocks_of(*best->decode, w), false, fmt::format("{}: the most loaded that attains", why)));
    return true;
  }

  // The least loaded instance of the loosest tier becomes one of a tier that would be late otherwise.
  bool take_over(const view& v, const waiting_request& w, int own, time_point now) {
    const auto waited = now - w.request.arrival;
    if (now < next_take_over_ || 2 * waited < w.request.slo.ttft) return false;
    std::optional<std::tuple<int, std::uint64_t, instance_id>> best;
    for (const auto& [id, tier] : tiers_) {
      if (tier <= own) continue;
      const std::tuple candidate{-tier, v.instances.at(id).outstanding_tokens, id};
      if (!best || candidate < *best) best = candidate;
    }
    if (!best) return false;
    next_take_over_ = now + retier_every_;
    tiers_[std::get<2>(*best)] = own;
    return true;
  }

  std::uint32_t blocks_of(const instance_load& d, const waiting_request& w) const {
    return blocks_with_output(d, w.request, output_to_come(w));
  }
  const prefill_budget& budget_of(const instance_load& at) {
    auto [found, fresh] = budgets_.try_emplace(at.is.instance);
    if (fresh) found->second = estimate_prefill(at, lost_after_);
    return found->second;
  }
  duration share(duration target) const {
    return duration{static_cast<std::int64_t>(headroom_ * static_cast<double>(target.count()))};
  }

  bool attains(const view& v, const place& at, const waiting_request& w, time_point now) {
    const auto& r = w.request;
    const auto& d = *at.decode;
    if (!has_space(at, r, blocks_of(d, w))) return false;
    const auto step = decode_step_with(d, r.tokens + static_cast<std::uint32_t>(growth_ * output_to_come(w)));
    const auto tightest = std::min(r.slo.tpot, d.tightest_tpot().value_or(duration::max()));
    if (step > share(tightest)) return false;
    const auto& budget = budget_of(*at.prefill);
    if (!at.together() && !starts_soon(v, *at.prefill, r.tokens, budget.next_step, window_, now)) return false;
    const auto first = prefill_by_deadline(v, *at.prefill, budget, r, now);
    if (!first) return false;
    const auto laxity = due_of(r) - now;
    return *first <= laxity - (r.slo.ttft - share(r.slo.ttft)) && *first + step <= laxity + r.slo.tpot;
  }

  std::array<duration, 4> edges_;
  double headroom_;
  double growth_;
  bool promote_first_;
  duration retier_every_;
  double window_;
  double lost_after_;
  due_order order_;
  std::map<instance_id, int> tiers_; ///< of instances that decode and are not in the pool
  std::map<instance_id, prefill_budget> budgets_;
  time_point next_take_over_{time_point::min()};
};

} // namespace

std::span<const knob> polyserve_knobs() { return polyserve::knobs; }
std::unique_ptr<policy> make_polyserve(const options& opts) { return std::make_unique<polyserve>(opts); }

} // namespace hflex::scheduler
