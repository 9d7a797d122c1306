// slos_serve: S. Chen, Z. Jia, S. Khan, A. Krishnamurthy, P. B. Gibbons, "SLOs-Serve: Optimized Serving of Multi-SLO
// LLMs" (arXiv 2504.08784). A baseline.
//
// What the paper does: on each replica a dynamic program over prefill deadlines, token budgets and memory decides which
// new requests can be admitted so that all that were admitted attain; those are guaranteed, the rest is best effort and
// gets the tokens that are left over. Steps last as long as the tightest TPOT tier allows; within one, each tier gets
// as many tokens as its target asks for, what is left goes to prefill by deadline. Several replicas: a request goes to
// one, and to the next one in turn when that declines; declined by all, it stays best effort.
//
// Here: the dynamic program is slos_serve_plan.cpp; so many requests as the knob says are decided together. Every
// request is offered once around, from a replica that moves on by one each time, as a load balancer in turn would. The
// batches are the instances' step policy `token_allocation`. Best-effort requests stay in the scheduler's queue, in
// deadline order, and go where there is about half a step's work, so that they never stand before guaranteed ones; they
// may still come in time. P/D, which the paper does not have: the program runs on the prefill instance without decodes;
// the decode instance is the first in turn whose step stays within all targets. It decides when the prefill could start
// within about a step: admitted earlier, a request would hold memory of a decode instance for nothing.
//
// Left out: speculative decoding (no draft models here), and taking a best-effort request's KV memory back for a
// guaranteed one.
#include "actors/scheduler/policies/placing.hpp"
#include "actors/scheduler/policies/slos_serve_plan.hpp"
#include <array>

namespace hflex::scheduler {

namespace {

class slos_serve final : public policy {
public:
  static constexpr knob margin{"slos_serve.margin", 0.9, 0.3, 1.5, "share of the targets that planned steps may take"};
  static constexpr knob step{"slos_serve.longest_step_ms", 100, 1, 10000, "prefill step when nobody decodes, ms"};
  static constexpr knob growth{
      "slos_serve.growth", 1.0, 0, 1, "share of the predicted output that memory is reserved for"};
  static constexpr knob together{"slos_serve.together", 1, 1, 64, "new requests that are decided at once, at most"};
  static constexpr knob window{
      "slos_serve.window", 2.0, 1, 1e6, "P/D: prefill that may be pending at an instance, in full steps"};
  static constexpr std::array knobs{margin, step, growth, together, window};

  explicit slos_serve(const options& opts)
      : settings_{margin.of(opts), from_ms(step.of(opts)), true}, growth_(growth.of(opts)),
        together_(static_cast<std::size_t>(together.of(opts))), window_(window.of(opts)) {}

  void queued(const view&, const waiting_request& w) override { fresh_.add(w); }
  void unqueued(const view&, const waiting_request& w) override {
    fresh_.remove(w);
    best_effort_.remove(w);
  }

  void plan(const view& v, time_point now, decisions& d) override {
    while (!fresh_.slots.empty() && admit_some(v, now, d)) continue;
    for (auto it = best_effort_.slots.begin(); it != best_effort_.slots.end();) {
      const auto& w = v.waiting.at(std::get<2>(*it++));
      const auto best = place_for_lost(v, w, now, false);
      if (!best) return;
      d.dispatch(w.request.key, best->with(blocks_of(*best->decode, w), true, "best effort: declined by all"));
    }
  }

private:
  // Offers the most urgent new ones around the replicas; nobody of them is new after that. False: no replica is ready
  // to decide.
  bool admit_some(const view& v, time_point now, decisions& d) {
    std::vector<request_key> batch;
    for (auto it = fresh_.slots.begin(); it != fresh_.slots.end() && batch.size() < together_; ++it)
      batch.push_back(std::get<2>(*it));
    const auto count = v.instances.size();
    bool decided = false;
    for (std::size_t turn = 0; turn < count && !batch.empty(); ++turn) {
      const auto& at = std::next(v.instances.begin(), static_cast<std::ptrdiff_t>((first_ + turn) % count))->second;
      if (!at.may_prefill()) continue;
      if (at.is.role != instance_role::mixed && !starts_soon(v, at, 0, at.is.max_batched_tokens, window_ - 1, now))
        continue;
      decided = true;
      if (has_room(v, at)) offer(v, at, batch, now, d);
    }
    if (!decided) return false;
    ++first_;
    for (auto key : batch) {
      const auto& w = v.waiting.at(key);
      fresh_.remove(w);
      best_effort_.add(w);
    }
    return true;
  }

  // Takes those that it admits out of the batch.
  void offer(const view& v, const instance_load& at, std::vector<request_key>& batch, time_point now, decisions& d) {
    const bool mixed = at.is.role == instance_role::mixed;
    std::vector<prefill_job> jobs;
    std::vector<request_key> keys;
    for (auto key : batch) {
      const auto& w = v.waiting.at(key);
      if (!can_prefill_there(v, at, w.request)) continue;
      jobs.push_back({due_of(w.request) - now, w.request.tokens, w.request.tokens + output_to_come(w) / 2,
          mixed ? blocks_of(at, w) : blocks_for(at, w.request.tokens), w.request.slo.tpot, false});
      keys.push_back(key);
    }
    if (jobs.empty()) return;
    for (auto key : at.prefilling) {
      const auto& p = v.placed.at(key);
      const auto due = p.best_effort ? std::chrono::hours{24} : due_of(p.request) - now;
      jobs.push_back({due, p.prefill_left, 0, 0, p.request.slo.tpot, true});
    }
    auto settings = settings_;
    settings.decodes_here = mixed;
    const auto sequences = mixed ? at.is.max_sequences - std::min(at.is.max_sequences, at.sequences())
                                 : std::numeric_limits<std::uint32_t>::max();
    const auto room = std::min(sequences, room_in(*v.opts, at));
    for (auto i : accept_jobs(at, jobs, at.free_blocks(), room, settings)) {
      const auto& w = v.waiting.at(keys[i]);
      const auto* to = mixed ? &at : decode_for(v, at, w);
      if (!to) continue;
      std::erase(batch, keys[i]);
      d.dispatch(keys[i], place{&at, to}.with(blocks_of(*to, w), false, "admitted: all that were stay in time"));
    }
  }

  static bool can_prefill_there(const view& v, const instance_load& at, const request_arrived& r) {
    if (at.is.role == instance_role::mixed) return can_serve(at, at, r, true);
    return std::any_of(
        v.instances.begin(), v.instances.end(), [&](const auto& i) { return can_serve(at, i.second, r, true); });
  }

  const instance_load* decode_for(const view& v, const instance_load& p, const waiting_request& w) const {
    const auto count = v.instances.size();
    for (std::size_t turn = 0; turn < count; ++turn) {
      const auto& d = std::next(v.instances.begin(), static_cast<std::ptrdiff_t>((first_ + turn) % count))->second;
      if (!has_room(v, d) || !can_serve(p, d, w.request, true)) continue;
      if (!has_space({&p, &d}, w.request, blocks_of(d, w))) continue;
      const auto limit = std::min(w.request.slo.tpot, d.tightest_tpot().value_or(duration::max()));
      const auto takes = decode_step_with(d, w.request.tokens + output_to_come(w) / 2);
      if (to_ms(takes) <= settings_.margin * to_ms(limit)) return &d;
    }
    return nullptr;
  }

  std::uint32_t blocks_of(const instance_load& d, const waiting_request& w) const {
    return blocks_with_output(d, w.request, growth_ * output_to_come(w));
  }

  slos_serve_settings settings_;
  double growth_;
  std::size_t together_;
  double window_;
  due_order fresh_; ///< not offered yet
  due_order best_effort_;
  std::size_t first_{};
};

} // namespace

std::span<const knob> slos_serve_knobs() { return slos_serve::knobs; }
std::unique_ptr<policy> make_slos_serve(const options& opts) { return std::make_unique<slos_serve>(opts); }

} // namespace hflex::scheduler
