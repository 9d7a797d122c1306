#include "actors/scheduler/policies/hyperflexis_fleet.hpp"
#include "actors/scheduler/policies/hyperflexis_queue.hpp"
#include "actors/scheduler/policy.hpp"
#include <cmath>

namespace hflex::scheduler {

namespace {

// The request that the orders are made for.
constexpr std::uint32_t typical_tokens = 1024;
constexpr double never_ms = 1e9;

double as_number(time_point t) { return static_cast<double>(t.time_since_epoch().count()); }

// Before which due time a newcomer has less than `room` tokens before it there: the rest it overtakes.
time_point overtakes_before(const std::vector<prefill_in_hand>& in_hand, double room) {
  std::array<std::pair<time_point, std::uint32_t>, 16> parts;
  std::size_t count = 0;
  for (const auto& p : in_hand) {
    if (p.tokens == 0 || p.best_effort) continue;
    if (count == parts.size()) return time_point::min(); // so much work that nobody fits
    parts[count++] = {p.due, p.tokens};
  }
  std::sort(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(count));
  double before = 0;
  for (std::size_t i = 0; i < count; ++i)
    if ((before += parts[i].second) >= room) return parts[i].first;
  return time_point::max();
}

// Where all prefill is late for certain, the batcher keeps steps brief: how long they may take.
std::optional<duration> brief_step_of(
    const instance_load& at, const std::vector<prefill_in_hand>& in_hand, step_shape decodes, time_point now) {
  auto promised = duration::max();
  for (const auto& p : in_hand) {
    if (p.tokens > 0 && now <= p.goes_last_after) return std::nullopt;
    promised = std::min(promised, p.promised);
  }
  if (decodes.decode_seqs == 0) decodes.add_decode(1);
  return brief_step(at.model().predict(decodes), promised);
}

} // namespace

std::size_t hyperflexis_fleet::typical_of(double output) {
  if (output < std::sqrt(typical_outputs[0] * typical_outputs[1])) return 0;
  return output < std::sqrt(typical_outputs[1] * typical_outputs[2]) ? 1 : 2;
}

void hyperflexis_fleet::changed(const view& v, const instance_load& at) {
  if (at.slot >= outlooks_.size()) outlooks_.resize(at.slot + 1);
  auto& o = outlooks_[at.slot];
  view_ = &v;
  o.at = &at;
  if (std::exchange(o.dirty, true)) return;
  ++stale_;
  dirty_.push_back(at.slot);
}

void hyperflexis_fleet::gone(const instance_load& at) {
  for (auto* orders : {&mixed_by_cost_, &decode_by_cost_})
    for (auto& order : *orders) order.drop(at.slot);
  for (auto* order : {&by_wait_, &prefill_by_wait_, &overtake_, &quiet_, &roomy_, &rates_}) order->drop(at.slot);
  duties_.gone(at);
  auto& o = outlooks_[at.slot];
  count(o, 0, 0);
  stale_ -= o.dirty ? 1 : 0;
  o = {};
  best_case_until_ = time_point::min();
}

void hyperflexis_fleet::review(const view& v, time_point now, decisions& d) {
  duties_.review(v, now, [&](const instance_load& at) {
    changed(v, at);
    if (at.is.role == instance_role::mixed) d.used_for(at.is.instance, duties_.of(at));
  });
  refresh(now);
}

void hyperflexis_fleet::refresh(time_point now) {
  now_ = now;
  for (auto slot : dirty_)
    if (outlooks_[slot].dirty) update(outlooks_[slot]);
  dirty_.clear();
  while (!quiet_.empty()) {
    auto& o = outlooks_[quiet_.first()];
    if (now - o.at->last_heard <= opts_->report_timeout) break;
    update(o); // which takes it out
  }
}

hyperflexis_fleet::outlook& hyperflexis_fleet::fresh(const instance_load& at) {
  auto& o = outlooks_[at.slot];
  if (o.dirty) update(o);
  return o;
}

const std::vector<prefill_in_hand>& hyperflexis_fleet::in_hand_of(outlook& o) const {
  if (std::exchange(o.knows_in_hand, true)) return o.in_hand;
  o.in_hand.clear();
  for (auto key : o.at->prefilling) {
    const auto& p = view_->placed.at(key);
    const auto& r = p.request;
    o.in_hand.push_back({r.produced > 0 ? time_point::min() : token_deadline(r.arrival, r.slo, 0),
        goes_last_after(*o.at, p), r.slo.ttft, p.prefill_left, p.best_effort});
  }
  return o.in_hand;
}

double hyperflexis_fleet::steps_ahead(const instance_load& at, duration ttft) {
  if (duty_of(at) != instance_role::mixed) return least_steps_ahead;
  const auto step = at.tightest_tpot().value_or(running_step_of(at));
  return std::clamp(to_ms(ttft) / 4 / std::max(to_ms(step), 1e-3), least_steps_ahead, most_steps_ahead);
}

duration hyperflexis_fleet::rest_of_step(const instance_load& at, time_point now) {
  const auto loads = at.until_weights(now);
  if (at.pending_prefill == 0) return loads;
  return std::max(loads, at.last_heard + running_step_of(at) - now);
}

std::uint64_t hyperflexis_fleet::ahead_of(const instance_load& at, time_point due, time_point now, bool late_too) {
  std::uint64_t tokens = 0;
  for (const auto& p : in_hand_of(fresh(at)))
    if (p.due <= due && (late_too || now <= p.goes_last_after)) tokens += p.tokens;
  return tokens;
}

void hyperflexis_fleet::update(outlook& o) {
  const auto& at = *o.at;
  stale_ -= std::exchange(o.dirty, false) ? 1 : 0;
  ++updates_;
  o.knows_in_hand = false;
  o.silent = at.is_silent(now_, opts_->report_timeout);
  // Nobody asks how much prefill one would take that does none.
  const bool can = can_prefill(duty_of(at));
  o.budget = can ? estimate_prefill(at, opts_->lost_after) : prefill_budget{};
  auto shape = at.decode_shape();
  o.decode_step = at.model().plan_ahead(shape);
  std::optional<duration> brief;
  if (duty_of(at) != instance_role::mixed && !at.prefilling.empty())
    brief = brief_step_of(at, in_hand_of(o), shape, now_);
  shape.add_prefill(
      static_cast<std::uint32_t>(std::min<std::uint64_t>(at.pending_prefill, o.budget.next_step)), typical_tokens / 2);
  o.running_step = std::min(at.model().predict(shape), brief.value_or(duration::max()));
  const bool counts = prefills(at) && !at.weights_at;
  count(o, counts ? at.pending_prefill : 0, counts ? std::llround(prefill_rate(at, o.budget) * 1e3) : std::int64_t{0});
  if (counts)
    rates_.set(at.slot, -static_cast<double>(o.rate) * 1e-3, at.is.instance);
  else
    rates_.drop(at.slot);
  rank_roomy(at);
  rank(o, can ? typical_wait_ms(o) : never_ms);
}

// Until a typical prefill would be done.
double hyperflexis_fleet::typical_wait_ms(const outlook& o) const {
  const auto& at = *o.at;
  const auto first = work_time(at, o.budget, at.pending_prefill + typical_tokens, typical_tokens / 2);
  const auto rest = std::max(at.pending_prefill > 0 ? o.running_step / 2 : duration{0}, at.until_weights(now_));
  return first ? to_ms(*first + rest) : never_ms;
}

void hyperflexis_fleet::rank_roomy(const instance_load& at) {
  if (decodes(at))
    roomy_.set(at.slot, -static_cast<double>(at.free_blocks()), at.is.instance);
  else
    roomy_.drop(at.slot);
}

void hyperflexis_fleet::rank(outlook& o, double wait_ms) {
  const auto& at = *o.at;
  const auto id = at.is.instance;
  const bool has_hands = room_in(*opts_, at) > 0;
  const double step = std::max(o.budget.next_step, o.budget.steady_step);
  const bool does_both = duty_of(at) == instance_role::mixed;
  const bool may_prefill = prefills(at) && has_hands;
  const double room =
      (does_both ? most_steps_ahead : least_steps_ahead) * step - static_cast<double>(at.pending_prefill);
  const bool takes = may_prefill && (o.silent || room >= 1 || at.pending_prefill == 0);
  const auto keep = [&](ranking& order, bool in, double number) {
    if (in)
      order.set(at.slot, number, id);
    else
      order.drop(at.slot);
  };
  keep(by_wait_, takes, wait_ms);
  keep(prefill_by_wait_, takes && !does_both, wait_ms);
  const bool full = may_prefill && !takes;
  keep(quiet_, full && !at.weights_at, as_number(at.last_heard));
  keep(overtake_, full && step > 0, full ? -as_number(overtakes_before(in_hand_of(o), least_steps_ahead * step)) : 0.0);

  const bool may_decode = decodes(at) && has_hands && at.sequences() < at.is.max_sequences && at.free_blocks() > 0;
  const double alone_ms = to_ms(o.decode_step);
  const double per_context = at.model().c4_ms * at.model().safety;
  const double first_ms = may_decode ? to_ms(decode_step_with(at, typical_tokens)) : 0.0;
  for (std::size_t i = 0; i < typical_outputs.size(); ++i) {
    const double output = typical_outputs[i];
    const double step_ms = first_ms + per_context * output * 0.5;
    const double cost = output * (step_ms + at.sequences() * (step_ms - alone_ms));
    keep(mixed_by_cost_[i], does_both && takes && may_decode, cost + wait_ms);
    keep(decode_by_cost_[i], may_decode && duties_.takes_decodes(at), cost);
  }
}

const instance_load* hyperflexis_fleet::some_decode(const view& v) const {
  if (!mixed_by_cost_[1].empty()) return outlooks_[mixed_by_cost_[1].first()].at;
  return (v.fleet.decode > 0 || duties_.divided()) && !decode_by_cost_[1].empty()
             ? outlooks_[decode_by_cost_[1].first()].at
             : nullptr;
}

const hyperflexis_fleet::best& hyperflexis_fleet::best_case(const view& v, time_point now) {
  if (now < best_case_until_) return best_case_;
  best_case_until_ = now + opts_->replan_every;
  best_case_ = {};
  const auto take = [](step_time_model& least, const step_time_model& m, bool first) {
    least = first ? m
                  : step_time_model{std::min(least.c0_ms, m.c0_ms), std::min(least.c1_ms, m.c1_ms),
                        std::max(least.m0, m.m0), std::min(least.c2_ms, m.c2_ms), std::min(least.c3_ms, m.c3_ms),
                        std::min(least.c4_ms, m.c4_ms), std::min(least.c5_ms, m.c5_ms), 1.0};
  };
  for (const auto& [id, at] : v.instances) {
    best_case_.guess = best_case_.guess || !at.measured;
    if (can_prefill(at.is.role)) {
      take(best_case_.at_prefill, at.model(), !best_case_.prefills);
      best_case_.max_batched_tokens = std::max(best_case_.max_batched_tokens, at.is.max_batched_tokens);
      best_case_.prefills = true;
    }
    if (can_decode(at.is.role)) {
      take(best_case_.at_decode, at.model(), !best_case_.decodes);
      best_case_.decodes = true;
    }
  }
  return best_case_;
}

void hyperflexis_fleet::count(outlook& o, std::uint64_t pending, std::int64_t rate) {
  pending_ += pending - o.pending;
  rate_ += rate - o.rate;
  o.pending = pending;
  o.rate = rate;
}

} // namespace hflex::scheduler
