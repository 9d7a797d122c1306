// llumnix: B. Sun et al., "Llumnix: Dynamic Scheduling for Large Language Model Serving" (OSDI 2024). A baseline.
//
// What the paper does: each request has a virtual usage of KV memory: what it holds; when it waits, what it asks for;
// requests of high priority carry a headroom that keeps their instance less loaded; an instance that is to end counts
// as full. Freeness = (memory - summed virtual usage) / batch size: how many iterations its batch can still run. A
// request goes at once to the instance with the highest freeness. Now and then those below a threshold are paired,
// lowest first, with those above another, highest first, and move requests over, live, as long as they stay there: low
// priority before high, short before long.
//
// Here: memory in tokens; `decode_context` of the accounts is what all residents, queued ones included, hold or ask
// for. High priority is a weight above 1. One move at a time per source. The instances run first come, first served
// with a fixed token budget (vLLM's). P/D, which the paper does not have: prefill instances by pending tokens in place
// of memory, decode instances by freeness; moves go between instances that decode.
//
// Left out: scaling by average freeness (the scaler's business). Queued requests are not moved: the scheduler's
// accounts cannot take one back.
#include "actors/scheduler/policies/placing.hpp"
#include <array>
#include <cmath>

namespace hflex::scheduler {

namespace {

class llumnix final : public policy {
public:
  static constexpr knob headroom{
      "llumnix.headroom", 0.2, 0, 1, "share of the pool that a high-priority resident keeps free"};
  static constexpr knob low{"llumnix.low", 60, -1e6, 1e6, "freeness below which requests move away, iterations"};
  static constexpr knob high{"llumnix.high", 120, -1e6, 1e6, "freeness above which they may move to, iterations"};
  static constexpr knob period{"llumnix.period_ms", 100, 1, 60000, "between two rounds of pairing, ms"};
  static constexpr std::array knobs{headroom, low, high, period};

  explicit llumnix(const options& opts)
      : headroom_(headroom.of(opts)), low_(low.of(opts)), high_(high.of(opts)), period_(from_ms(period.of(opts))) {}

  void queued(const view&, const waiting_request& w) override { priorities_ = priorities_ || is_high(w.request); }

  void plan(const view& v, time_point, decisions& d) override {
    count_high(v);
    for (auto it = v.first_come.begin(); it != v.first_come.end();) {
      const auto key = it->second;
      ++it; // the dispatch takes it out
      const auto& r = v.waiting.at(key).request;
      using score = std::tuple<double, std::uint64_t>;
      const auto best = best_place(v, r, [&](const place& at) -> std::optional<score> {
        if (at.together()) return score{-freeness(*at.decode), at.prefill->pending_prefill};
        return score{static_cast<double>(at.prefill->pending_prefill) - freeness(*at.decode), 0};
      });
      if (!best) return;
      if (is_high(r)) ++high_at_[best->decode->is.instance];
      d.dispatch(key, best->with(0, true, fmt::format("freest: {:.0f} iterations", freeness(*best->decode))));
    }
  }

  void balance(const view& v, time_point now, decisions& d) override {
    if (v.placed.empty() || v.instances.size() < 2) return;
    if (now < next_round_) return d.wake(next_round_);
    next_round_ = now + period_;
    d.wake(next_round_);
    count_high(v);
    pair_up(v, d);
  }

private:
  static bool is_high(const request_arrived& r) { return r.slo.weight > 1.0; }

  void count_high(const view& v) {
    high_at_.clear();
    if (!priorities_) return;
    for (const auto& [key, p] : v.placed)
      if (is_high(p.request)) ++high_at_[p.decode];
  }

  double freeness(const instance_load& at) const {
    if (at.closed()) return -1e12;
    const double memory = static_cast<double>(at.is.kv_blocks) * at.is.block_size;
    const double kept = high_at_.contains(at.is.instance) ? headroom_ * memory : 0.0;
    return (memory - static_cast<double>(at.decode_context) - kept) / std::max(1U, at.sequences());
  }

  void pair_up(const view& v, decisions& d) {
    std::vector<std::pair<double, const instance_load*>> from, to;
    std::set<instance_id> moving;
    for (const auto& [key, p] : v.placed)
      if (p.moving_to) moving.insert({p.decode, p.moving_to});
    for (const auto& [id, at] : v.instances) {
      if (!can_decode(at.is.role) || moving.contains(id)) continue;
      const auto f = freeness(at);
      if (f < low_ && at.decoding > 0) from.emplace_back(f, &at);
      if (f > high_ && !at.closed()) to.emplace_back(-f, &at);
    }
    std::sort(from.begin(), from.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    std::sort(to.begin(), to.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (std::size_t i = 0; i < std::min(from.size(), to.size()); ++i) {
      if (-to[i].first <= from[i].first) return; // with `low` above `high`: it would move to where it is, or back
      move_one(v, *from[i].second, *to[i].second, d);
    }
  }

  // Low priority first, then the shortest: the cheapest to move.
  static void move_one(const view& v, const instance_load& from, const instance_load& to, decisions& d) {
    if (!has_room(v, to) || to.sequences() >= to.is.max_sequences) return;
    std::optional<std::tuple<bool, std::uint64_t, request_key>> best;
    for (const auto& [key, p] : v.placed) {
      if (p.decode != from.is.instance || !p.decodes || p.moving_to) continue;
      const std::tuple candidate{is_high(p.request), context_of(from, p), key};
      const auto blocks = blocks_for(to, std::get<1>(candidate) + p.output_to_come);
      if (blocks <= to.free_blocks() && blocks_at_most(to, p.request) <= to.is.kv_blocks &&
          (!best || candidate < *best))
        best = candidate;
    }
    if (best) d.migrate(std::get<2>(*best), to.is.instance, "from the least to the most free instance");
  }

  double headroom_;
  double low_;
  double high_;
  duration period_;
  bool priorities_{false}; ///< some request had a weight above 1
  std::map<instance_id, std::uint32_t> high_at_;
  time_point next_round_{time_point::min()};
};

} // namespace

std::span<const knob> llumnix_knobs() { return llumnix::knobs; }
std::unique_ptr<policy> make_llumnix(const options& opts) { return std::make_unique<llumnix>(opts); }

} // namespace hflex::scheduler
