// What each instance looks like to hyperflexis, kept up to date per instance that changes, and in which order to look
// at them: so that a plan neither works out every instance's budget anew nor walks the fleet. It decides nothing:
// whoever asks looks at a few instances, the most promising first, and takes one. Used by hyperflexis.cpp only.
//
// A small fleet (options::walk_all_up_to) is walked whole, in id order: the choice is the best there is. In a large one
// the choice is the best of those looked at. The orders come from the accounts for typical requests; what is found
// there is judged for the request at hand.
#pragma once
#include "actors/scheduler/budget.hpp"
#include "actors/scheduler/policies/hyperflexis_division.hpp"
#include "actors/scheduler/policies/ranking.hpp"
#include <tuple>

namespace hflex::scheduler {

/// A request whose prefill an instance has in hand.
struct prefill_in_hand {
  time_point due; ///< its first token; min(): had that already
  time_point goes_last_after;
  duration promised{}; ///< its time to the first token
  std::uint32_t tokens{};
  bool best_effort{false};
};

class hyperflexis_fleet {
public:
  /// Late binding: what goes before a request, the step under way included, and its own first chunk fill so many steps.
  /// Less than 1.6, and the next step begins half empty; more is work that a tighter newcomer finds before it, which
  /// only those can bear whose time to the first token is many steps.
  static constexpr double least_steps_ahead = 1.6;
  static constexpr double most_steps_ahead = 3.0;
  /// The same for a request with that target: a quarter of the time that its first token has may go by on work that
  /// cannot be sent elsewhere any more.
  double steps_ahead(const instance_load& at, duration ttft);

  explicit hyperflexis_fleet(const options& opts) : opts_(&opts), duties_(opts) {}

  void changed(const view& v, const instance_load& at);
  void gone(const instance_load& at);
  static bool is_small(const view& v) { return v.instances.size() <= v.opts->walk_all_up_to; }
  void arrived(const view& v, const waiting_request& w) {
    if (v.fleet.mixed >= 2) duties_.arrived(w);
  }
  void finished(const view& v, const placed_request& p, std::uint32_t output_tokens) {
    if (v.fleet.mixed >= 2) duties_.finished(p, output_tokens);
  }
  /// Brings what has changed up to date. Before anything below is asked.
  void refresh(time_point now);
  /// Before a plan: settles what mixed instances are used for, now and then, and tells so. Then as refresh().
  void review(const view& v, time_point now, decisions& d);

  instance_role duty_of(const instance_load& at) const { return duties_.of(at); }
  bool prefills(const instance_load& at) const { return at.may_prefill() && can_prefill(duty_of(at)); }
  bool decodes(const instance_load& at) const { return at.may_decode() && can_decode(duty_of(at)); }
  bool apart() const { return duties_.apart(); }
  /// Whether some instance does both.
  bool some_do_both(const view& v) const { return v.fleet.mixed > 0 && !duties_.apart(); }
  bool takes_decodes(const instance_load& at) const { return at.may_decode() && duties_.takes_decodes(at); }
  /// A request finds no place to decode.
  void want_host() {
    if (duties_.divided()) duties_.want_host();
  }

  const prefill_budget& budget_of(const instance_load& at) { return fresh(at).budget; }
  /// The planned time of its decode step as it is.
  duration decode_step_of(const instance_load& at) { return fresh(at).decode_step; }
  /// The expected time of a step with its decodes and as much of the pending prefill as goes into one.
  duration running_step_of(const instance_load& at) { return fresh(at).running_step; }
  /// How long until something new can begin: the step under way ends first. Its tokens count as pending until it is
  /// reported, so that a plan is late by up to a step: whoever is said to be in time mostly is. Nor does anything end
  /// before the weights are there.
  duration rest_of_step(const instance_load& at, time_point now);
  /// Prefill there that goes before a request due at `due`: an instance works by deadline, so a tight newcomer
  /// overtakes the rest. What is late for certain comes last: it counts only if `late_too`.
  std::uint64_t ahead_of(const instance_load& at, time_point due, time_point now, bool late_too);

  /// The orders are for requests in general: calls look(instance) for those that have most of this one's text, `most`
  /// at most, whatever it returns.
  template <class Look>
  static void walk_where_cached(const view& v, const waiting_request& w, std::uint32_t most, Look look);
  /// Calls look(instance) for instances that prefill, until it returns false: of those with room for prefill first
  /// the cheapest by `output` tokens (or, `soonest`, those with the least to do), then those where a request due at
  /// `due` may overtake.
  template <class Look>
  void walk_prefill(const view& v, double output, bool soonest, time_point due, Look look);
  /// After a walk by cost whose looks were all true: the walk by the least to do, without what would be the same looks
  /// again.
  template <class Look>
  void walk_prefill_again(const view& v, double output, time_point due, Look look);
  /// Whether the orders show every change: where they do not, looking at an instance brings its place up to date, and
  /// who looks at fewer changes the walks that follow.
  bool orders_are_fresh() const { return stale_ == 0; }
  /// The same for instances that only decode: the cheapest by `output` tokens first.
  template <class Look>
  void walk_decode(const view& v, double output, Look look);
  /// Instances that decode, those with the most free blocks first.
  template <class Look>
  void walk_roomy(const view& v, Look look);

  /// Prefill tokens dispatched and not done, in the fleet.
  std::uint64_t pending_prefill() const { return pending_; }
  double tokens_per_s() const { return static_cast<double>(rate_) * 1e-3; }
  double best_tokens_per_s() const { return rates_.empty() ? 0.0 : -rates_.least(); }

  /// One that prefills, one that decodes: good ones, when there is a choice. Null: nobody.
  const instance_load* some_prefill() const { return by_wait_.empty() ? nullptr : outlooks_[by_wait_.first()].at; }
  const instance_load* some_decode(const view& v) const;

  /// What no instance is faster than: the least of each coefficient. Worked out anew now and then.
  struct best {
    step_time_model at_prefill;
    step_time_model at_decode;
    std::uint32_t max_batched_tokens{};
    bool prefills{false};
    bool decodes{false};
    bool guess{false}; ///< some instance was not measured
  };
  const best& best_case(const view& v, time_point now);

  /// Instances looked at so far: how much work the plans were.
  std::uint64_t looks() const { return looks_; }

private:
  static constexpr std::array<double, 3> typical_outputs{32, 128, 512};
  static constexpr std::uint32_t most_prefills = 16; ///< looks at one order

  /// What was worked out from an instance's accounts.
  struct outlook {
    const instance_load* at{}; ///< none: that slot is free
    bool dirty{false};
    bool silent{false};                   ///< heard of too long ago: believed to be done
    bool knows_in_hand{false};            ///< the next one is up to date: it is worked out when somebody asks
    std::vector<prefill_in_hand> in_hand; ///< in dispatch order
    prefill_budget budget;
    duration decode_step{};
    duration running_step{};
    std::uint64_t pending{}; ///< as counted in pending_
    std::int64_t rate{};     ///< as counted in rate_
  };

  static std::size_t typical_of(double output);
  outlook& fresh(const instance_load& at);
  const std::vector<prefill_in_hand>& in_hand_of(outlook& o) const;
  void update(outlook& o);
  double typical_wait_ms(const outlook& o) const;
  void rank(outlook& o, double wait_ms);
  void rank_roomy(const instance_load& at);
  void count(outlook& o, std::uint64_t pending, std::int64_t rate);
  template <class Look>
  bool walk(const ranking& order, std::uint32_t most, Look& look);

  const options* opts_;
  const view* view_{};
  mixed_duties duties_;
  std::vector<outlook> outlooks_;       ///< by slot
  std::vector<std::uint32_t> dirty_;    ///< slots
  std::size_t stale_{};                 ///< outlooks that are dirty
  std::uint64_t updates_{};             ///< of outlooks so far
  std::uint64_t updates_before_walk_{}; ///< when the last walk_prefill began
  time_point now_{};
  // Of those that may take a request now:
  std::array<ranking, 3> mixed_by_cost_;  ///< by typical output
  std::array<ranking, 3> decode_by_cost_; ///< those that only decode, likewise
  ranking by_wait_;                       ///< all that prefill, by the time until a typical prefill would be done
  ranking prefill_by_wait_;               ///< those that only prefill, likewise
  ranking overtake_; ///< without room for prefill; by the due time before which a newcomer would still be first, latest
                     ///< first
  ranking quiet_;    ///< those, by when they were last heard of
  ranking roomy_;    ///< all that decode, by free blocks, most first
  ranking rates_;    ///< all that prefill, by prefill tokens per second, most first
  std::uint64_t pending_{};
  std::int64_t rate_{}; ///< thousandths of tokens per second: whole numbers, so that sums do not drift
  std::uint64_t looks_{};
  best best_case_;
  time_point best_case_until_{time_point::min()};
};

template <class Look>
bool hyperflexis_fleet::walk(const ranking& order, std::uint32_t most, Look& look) {
  bool more = true;
  order.walk(most, [&](std::uint32_t slot) {
    ++looks_;
    return more = look(*outlooks_[slot].at);
  });
  return more;
}

template <class Look>
void hyperflexis_fleet::walk_where_cached(const view& v, const waiting_request& w, std::uint32_t most, Look look) {
  auto hits = w.cached;
  const auto first = std::min<std::size_t>(hits.size(), most);
  std::partial_sort(hits.begin(), hits.begin() + static_cast<std::ptrdiff_t>(first), hits.end(),
      [](const auto& a, const auto& b) { return std::tie(b.tokens, a.instance) < std::tie(a.tokens, b.instance); });
  for (std::size_t i = 0; i < first; ++i)
    if (const auto at = v.instances.find(hits[i].instance); at != v.instances.end()) look(at->second);
}

template <class Look>
void hyperflexis_fleet::walk_prefill(const view& v, double output, bool soonest, time_point due, Look look) {
  if (is_small(v)) {
    for (const auto& [id, at] : v.instances) {
      ++looks_;
      if (!look(at)) return;
    }
    return;
  }
  updates_before_walk_ = updates_;
  if (!soonest && !walk(mixed_by_cost_[typical_of(output)], most_prefills, look)) return;
  if (!walk(soonest ? by_wait_ : prefill_by_wait_, most_prefills, look)) return;
  auto before = [&](const instance_load& at) {
    if (!overtake_.contains(at.slot)) return true; // an earlier look has taken it out
    return !at.prefilling.empty() &&
           -overtake_.number_of(at.slot) > static_cast<double>(due.time_since_epoch().count()) && look(at);
  };
  walk(overtake_, most_prefills / 2, before);
}

template <class Look>
void hyperflexis_fleet::walk_prefill_again(const view& v, double output, time_point due, Look look) {
  if (updates_ != updates_before_walk_)
    walk_prefill(v, output, true, due, look); // what it found out has changed the orders
  else if (by_wait_.size() > prefill_by_wait_.size())
    walk(by_wait_, most_prefills, look); // some are mixed: in another order
}

template <class Look>
void hyperflexis_fleet::walk_decode(const view& v, double output, Look look) {
  if (is_small(v)) {
    for (const auto& [id, at] : v.instances) {
      ++looks_;
      if (!look(at)) return;
    }
    return;
  }
  walk(decode_by_cost_[typical_of(output)], ranking::most_looks, look);
}

template <class Look>
void hyperflexis_fleet::walk_roomy(const view& v, Look look) {
  if (is_small(v)) {
    for (const auto& [id, at] : v.instances)
      if (!look(at)) return;
    return;
  }
  walk(roomy_, ranking::most_looks, look);
}

} // namespace hflex::scheduler
