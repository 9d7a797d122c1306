// What the baseline policies share: the places that a request may go to, deadline order, predicted times, and where to
// put a request whose targets are lost. Used by policies/ only. It decides nothing for those that can still attain.
#pragma once
#include "actors/scheduler/budget.hpp"
#include "actors/scheduler/policy.hpp"
#include <set>
#include <tuple>

namespace hflex::scheduler {

/// Where a request could go; the same instance twice when collocated.
struct place {
  const instance_load* prefill{};
  const instance_load* decode{};

  bool together() const { return prefill == decode; }
  placement with(std::uint32_t blocks, bool best_effort, std::string why) const {
    return {prefill->is.instance, decode->is.instance, blocks, best_effort, std::move(why)};
  }
};

/// Calls `f(place)` for each that may take the request now, by roles, drains and max_outstanding; in id order.
template <class F>
void each_place(const view& v, const request_arrived& r, F f) {
  for (const auto& [pid, p] : v.instances) {
    if (!p.may_prefill() || !has_room(v, p)) continue;
    if (p.is.role == instance_role::mixed) {
      if (can_serve(p, p, r, true)) f(place{&p, &p});
      continue;
    }
    for (const auto& [did, d] : v.instances)
      if (has_room(v, d) && can_serve(p, d, r, true)) f(place{&p, &d});
  }
}

/// The place with the smallest score, the first of equals. `score(place)` gives an optional of anything that is
/// ordered: nothing for a place that will not do.
template <class Score>
std::optional<place> best_place(const view& v, const request_arrived& r, Score score) {
  std::optional<place> best;
  decltype(score(place{})) lowest;
  each_place(v, r, [&](const place& at) {
    auto s = score(at);
    if (!s || (lowest && !(*s < *lowest))) return;
    lowest = std::move(s);
    best = at;
  });
  return best;
}

/// When its next token is due.
time_point due_of(const request_arrived& r);

/// Waiting requests by due time, then first come. A policy keeps one with queued() and unqueued().
struct due_order {
  using slot = std::tuple<time_point, std::uint64_t, request_key>;
  void add(const waiting_request& w) { slots.insert(slot_of(w)); }
  void remove(const waiting_request& w) { slots.erase(slot_of(w)); }
  static slot slot_of(const waiting_request& w) { return {due_of(w.request), w.order, w.request.key}; }
  std::set<slot> slots;
};

/// Whether the decode side takes one more sequence and has so many blocks, and the prefill side holds the prompt.
bool has_space(const place& at, const request_arrived& r, std::uint32_t blocks);
/// KV blocks for what it brings and so many tokens of output.
std::uint32_t blocks_with_output(const instance_load& d, const request_arrived& r, double output);
/// Output tokens still to come: the true number when the simulator has told it, else the prediction.
std::uint32_t output_to_come(const waiting_request& w);

/// P/D: whether the prefill instance, at `step` tokens a step, has so little pending that the prefill would end within
/// about `window` steps. Whoever binds a request earlier holds KV memory of a decode instance for nothing. An instance
/// that has gone silent is believed to be done.
bool starts_soon(
    const view& v, const instance_load& p, std::uint32_t tokens, double step, double window, time_point now);

/// The planned time of the pending prefill and `tokens` more in steps of max_batched_tokens, decodes included: what
/// chunks of a fixed budget take. From the instance's last report.
duration fixed_prefill_time(const instance_load& at, std::uint32_t tokens);
/// How long one of those steps takes, for so much work.
duration fixed_step(const instance_load& at, std::uint64_t work);

/// When the prefill of the request would be done there if pending prefills ran by earliest deadline: time from now.
/// Nothing when that is never, or when one of those pending, in time without it, would be late.
std::optional<duration> prefill_by_deadline(
    const view& v, const instance_load& p, const prefill_budget& budget, const request_arrived& r, time_point now);

/// Whether no instance can bring its first token in time any more, or its TPOT target is below a step of its own: it is
/// served for its own sake only. Instances whose model is a guess prove nothing.
bool is_lost(const view& v, const request_arrived& r, time_point now);
/// Whether it has waited so long that it is served whatever that costs others (options::ageing_*).
bool has_aged(const waiting_request& w, time_point now, const options& opts);

/// Where a lost request does least harm: about half a step's work pending, a decode step that stays within the
/// residents' targets, the least work. While others wait that have a chance (`others_wait`), only an aged one, and only
/// where no prefill is pending. The targets of residents do not hold an aged one back. Nothing: it goes on waiting.
std::optional<place> place_for_lost(const view& v, const waiting_request& w, time_point now, bool others_wait);

/// How many requests in a row may find no place before a plan ends: a full fleet must not cost a walk through the
/// queue.
inline constexpr int patience = 32;

} // namespace hflex::scheduler
