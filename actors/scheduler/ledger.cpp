#include "actors/scheduler/ledger.hpp"
#include "actors/common/check.hpp"
#include <algorithm>

namespace hflex::scheduler {

namespace {

// Steps after which a model that was not measured at the start is believed.
constexpr std::uint64_t enough_steps = 32;

// Targets beyond these bind nobody; deadlines are sums of targets and must not leave the clock's range.
constexpr duration longest_ttft = std::chrono::hours{24};
constexpr duration longest_tpot = std::chrono::seconds{10};

} // namespace

ledger::ledger(const options& opts, std::unique_ptr<policy> p)
    : opts_(opts), policy_(std::move(p)), lengths_(opts.length_quantile) {
  view_.opts = &opts_;
}

instance_load* ledger::find(instance_id id) {
  const auto slot = slots_.find(id.value);
  return slot == id_map::none ? nullptr : loads_[slot];
}

std::optional<request_key> ledger::known_attempt(request_id id) const {
  if (const auto waiting = view_.waiting.attempt_of(id)) return waiting;
  return view_.placed.attempt_of(id);
}

void ledger::take_in(const request_arrived& r, time_point now) {
  HFLEX_CHECK(!has_newcomer_);
  auto& w = newcomer_;
  w.request = r;
  w.queued_at = now;
  w.order = next_order_++;
  w.length_class = lengths_.number_of(r.slo_class);
  w.output_to_come = lengths_.predict(w.length_class, r.produced, r.max_output_tokens) - r.produced;
  w.output_hold = std::min(w.output_to_come, lengths_.expected_hold(w.length_class, r.produced, r.max_output_tokens));
  w.cached.clear();
  if (!r.prefix.empty()) w.cached = prefixes_.find(r.prefix);
  auto& slo = w.request.slo;
  slo.ttft = std::clamp(slo.ttft, duration{0}, longest_ttft);
  slo.tpot = std::clamp(slo.tpot, duration{1}, longest_tpot);
  has_newcomer_ = true;
  policy_->arrived(view_, w);
}

void ledger::queue_newcomer() {
  const auto key = newcomer_.request.key;
  newcomer_.place_in_line = view_.first_come.join(newcomer_.order, key);
  auto& w = view_.waiting.add(key, std::move(newcomer_));
  has_newcomer_ = false;
  policy_->queued(view_, w);
}

void ledger::drop_waiting(request_key key) {
  const auto& w = view_.waiting.at(key);
  policy_->unqueued(view_, w);
  view_.first_come.leave(w.place_in_line);
  view_.waiting.remove(key);
}

void ledger::place(request_key key, const placement& to, time_point now) {
  const bool is_newcomer = has_newcomer_ && newcomer_.request.key == key;
  auto& w = is_newcomer ? newcomer_ : view_.waiting.at(key);
  auto* p = find(to.prefill);
  auto* d = find(to.decode);
  HFLEX_CHECK(p && d);
  HFLEX_CHECK(can_serve(*p, *d, w.request, true) && has_room(view_, *p) && has_room(view_, *d));
  HFLEX_CHECK(to.reserved_blocks <= d->free_blocks());

  placed_request placed;
  placed.prefill = to.prefill;
  placed.decode = to.decode;
  placed.decode_blocks = to.reserved_blocks;
  placed.prefill_work = placed.prefill_left = prefill_work(w, to.prefill);
  placed.output_to_come = w.output_to_come;
  placed.length_class = w.length_class;
  placed.best_effort = to.best_effort;
  if (p != d && to.reserved_blocks > 0)
    placed.prefill_blocks = std::min(blocks_for(*p, w.request.tokens), p->free_blocks());

  p->reserved_blocks += placed.prefill_blocks;
  p->pending_prefill += placed.prefill_left;
  p->outstanding_tokens += placed.prefill_left;
  p->prefilling.push_back(key);
  ++p->outstanding;
  if (p != d) ++d->outstanding;
  d->reserved_blocks += placed.decode_blocks;
  d->outstanding_tokens += placed.output_to_come;
  d->decode_context += w.request.tokens;
  ++d->promised;
  if (!to.best_effort) d->tiers.join(w.request.slo.tpot);
  if (!w.request.prefix.empty()) {
    // What it computes, and what comes over to decode, can be found there again.
    prefixes_.learn(to.prefill, w.request.prefix);
    if (p != d) prefixes_.learn(to.decode, w.request.prefix);
  }
  // A silence that let this one through holds the next one back again: one per report_timeout.
  if (now - p->last_heard > opts_.report_timeout) p->last_heard = now;
  if (is_newcomer) {
    has_newcomer_ = false;
    placed.request = std::move(w.request);
  } else {
    placed.request = w.request; // the policy is still to hear of it
    drop_waiting(key);
  }
  join_residents(view_.placed.add(key, std::move(placed)), key, *d);
  changed(*p);
  if (p != d) changed(*d);
}

void ledger::join_residents(placed_request& p, request_key key, instance_load& at) {
  p.resident_at = static_cast<std::uint32_t>(at.residents.size());
  at.residents.push_back(key);
}

void ledger::leave_residents(placed_request& p, instance_load& at) {
  const auto last = at.residents.back();
  at.residents[p.resident_at] = last;
  view_.placed.at(last).resident_at = p.resident_at;
  at.residents.pop_back();
}

// Work is credited in the order of dispatch, and an instance may have done it in another: what a finished one was not
// credited with went to others, who still have it to do.
void ledger::return_credit(const placed_request& finished, request_key key, instance_load& at) {
  auto wrong = finished.prefill_left;
  for (auto it = at.prefilling.begin(); wrong > 0 && it != at.prefilling.end(); ++it) {
    if (*it == key) continue;
    auto& other = view_.placed.at(*it);
    const auto back = std::min(wrong, other.prefill_work - other.prefill_left);
    other.prefill_left += back;
    wrong -= back;
    at.pending_prefill += back;
    at.outstanding_tokens += back;
  }
}

// What it had to compute is known now: what it was credited beyond that, or not yet, is settled by return_credit.
void ledger::correct_work(placed_request& p, std::uint32_t cached_tokens, instance_load& at) {
  if (p.prefill_work + cached_tokens < p.request.tokens) prefixes_.correct(p.prefill, p.request.prefix, cached_tokens);
  const auto credited = p.prefill_work - p.prefill_left;
  at.pending_prefill -= p.prefill_left;
  at.outstanding_tokens -= p.prefill_left;
  p.prefill_work = std::max(p.request.tokens - std::min(cached_tokens, p.request.tokens), 1U);
  p.prefill_left = p.prefill_work - std::min(credited, p.prefill_work);
  at.pending_prefill += p.prefill_left;
  at.outstanding_tokens += p.prefill_left;
}

void ledger::leave_prefill(placed_request& p, request_key key, instance_load& at) {
  at.pending_prefill -= p.prefill_left;
  at.outstanding_tokens -= p.prefill_left;
  p.prefill_left = 0;
  at.reserved_blocks -= p.prefill_blocks;
  p.prefill_blocks = 0;
  at.prefilling.erase(std::find(at.prefilling.begin(), at.prefilling.end(), key));
  if (p.prefill != p.decode) --at.outstanding;
}

void ledger::finish_prefill(request_key key, std::optional<std::uint32_t> cached_tokens, time_point now) {
  auto* found = view_.placed.get(key);
  if (!found || found->decodes) return;
  auto& p = *found;
  auto& before = *find(p.prefill);
  if (cached_tokens) correct_work(p, *cached_tokens, before);
  return_credit(p, key, before);
  leave_prefill(p, key, before);
  auto& at = *find(p.decode);
  start_decoding(p, now, at);
  changed(before);
  if (&before != &at) changed(at);
}

void ledger::start_decoding(placed_request& p, time_point now, instance_load& at) {
  p.decodes = true;
  --at.promised;
  ++at.decoding;
  p.steps_before = at.decode_steps;
  if (p.best_effort) return;
  // TPOT counts from the first token, so an early first token banks nothing for the later ones, and a late one has lost
  // them all. A resumed request has had its first token long ago: what counts is D(i) of the token that came now.
  const auto& r = p.request;
  const auto due = token_deadline(r.arrival, r.slo, r.produced);
  if (r.produced == 0 && now > due) {
    p.best_effort = true;
    at.tiers.leave(r.slo.tpot);
    return;
  }
  p.binds = true;
  p.anchor = (r.produced == 0 ? now : due) - r.slo.tpot * static_cast<std::int64_t>(at.decode_steps);
  at.tiers.anchors_of(r.slo.tpot).insert(p.anchor);
}

void ledger::leave_tier(const placed_request& p, instance_load& at) {
  if (p.best_effort) return;
  if (p.binds) at.tiers.anchors_of(p.request.slo.tpot).erase_one(p.anchor);
  at.tiers.leave(p.request.slo.tpot);
}

void ledger::take_off(placed_request& p) {
  if (auto* at = find(p.decode)) {
    leave_residents(p, *at);
    at->reserved_blocks -= p.decode_blocks;
    at->outstanding_tokens -= p.output_to_come;
    at->decode_context -= context_of(*at, p);
    --(p.decodes ? at->decoding : at->promised);
    --at->outstanding;
    at->overshoot_blocks = 0; // told again by the next report
    leave_tier(p, *at);
    if (at->decoding == 0) at->decode_steps = 0; // nobody's deadlines count from it
    changed(*at);
  }
}

instance_id ledger::begin_move(request_key key, instance_id to) {
  auto& p = view_.placed.at(key);
  auto* there = find(to);
  HFLEX_CHECK(p.decodes && !p.moving_to && p.decode != to && there && there->may_decode() && has_room(view_, *there));
  const auto context = context_of(*find(p.decode), p);
  p.moving_to = to;
  p.moving_context = context;
  p.moving_blocks =
      std::min(blocks_for(*there, std::max<std::uint64_t>(context + 1, p.request.tokens + p.output_to_come)),
          there->free_blocks());
  ++there->outstanding;
  ++there->promised;
  there->reserved_blocks += p.moving_blocks;
  there->outstanding_tokens += p.output_to_come;
  there->decode_context += p.moving_context;
  if (!p.best_effort) there->tiers.join(p.request.slo.tpot);
  changed(*there);
  return p.decode;
}

// What begin_move has promised.
void ledger::take_off_promise(placed_request& p) {
  if (auto* there = find(p.moving_to)) {
    --there->outstanding;
    --there->promised;
    there->reserved_blocks -= p.moving_blocks;
    there->outstanding_tokens -= p.output_to_come;
    there->decode_context -= p.moving_context;
    if (!p.best_effort) there->tiers.leave(p.request.slo.tpot);
    changed(*there);
  }
  p.moving_to = {};
}

void ledger::end_move(request_key key, instance_id at) {
  auto* found = view_.placed.get(key);
  if (!found || !found->moving_to) return;
  auto& p = *found;
  auto& here = *find(p.decode);
  auto* there = find(at);
  // Moved to one that is gone by now: it is lost there, and the router's next attempt takes its place.
  if (at != p.moving_to || !there) return take_off_promise(p);
  const auto context = context_of(here, p);
  const auto steps_here = here.decode_steps;
  take_off(p);
  there->decode_context += context - p.moving_context;
  --there->promised;
  ++there->decoding;
  // Modulo 2^64 on purpose: only differences of steps count, and it has made steps elsewhere.
  p.steps_before = there->decode_steps - (context - p.request.tokens);
  p.decode = at;
  p.decode_blocks = p.moving_blocks;
  p.moving_to = {};
  join_residents(p, key, *there);
  if (p.binds) {
    p.anchor +=
        p.request.slo.tpot * (static_cast<std::int64_t>(steps_here) - static_cast<std::int64_t>(there->decode_steps));
    there->tiers.anchors_of(p.request.slo.tpot).insert(p.anchor);
  }
  changed(*there);
}

bool ledger::end(request_key key, std::optional<std::uint32_t> output_tokens) {
  if (view_.waiting.contains(key)) {
    drop_waiting(key);
    return true;
  }
  auto* found = view_.placed.get(key);
  if (!found) return false;
  auto& p = *found;
  if (output_tokens) {
    lengths_.observe(p.length_class, *output_tokens);
    policy_->finished(view_, p, *output_tokens);
  }
  if (auto* at = find(p.prefill); at && !p.decodes) {
    leave_prefill(p, key, *at);
    changed(*at);
  }
  if (p.moving_to) take_off_promise(p);
  take_off(p);
  view_.placed.remove(key);
  return true;
}

void ledger::add_instance(const instance_ready& ready, time_point now) {
  auto* at = find(ready.instance);
  if (at) {
    at->is = ready;
    at->draining = false;
  } else {
    at = &view_.instances.emplace(ready.instance, instance_load(ready, opts_, now)).first->second;
    const auto free = std::find(loads_.begin(), loads_.end(), nullptr);
    at->slot = static_cast<std::uint32_t>(free - loads_.begin());
    if (free == loads_.end()) loads_.push_back(nullptr);
    loads_[at->slot] = at;
    slots_.insert(ready.instance.value, at->slot);
  }
  set_weights_due(*at, ready.weights_due, now);
  prefixes_.add(ready.instance, std::uint64_t{ready.kv_blocks} * ready.block_size);
  fleet_changed();
  changed(*at);
}

void ledger::remove_instance(instance_id id) {
  auto* at = find(id);
  if (!at) return;
  auto lost = at->residents;
  for (auto key : at->prefilling)
    if (view_.placed.at(key).decode != id) lost.push_back(key);
  std::sort(lost.begin(), lost.end());
  for (auto key : lost) end(key, std::nullopt);
  // Moves to it are still answered from the other end: until then they count as under way, so that a late answer is not
  // taken for that of a later move.
  policy_->gone(view_, *at);
  loads_[at->slot] = nullptr;
  slots_.erase(id.value);
  view_.instances.erase(id);
  prefixes_.remove(id);
  fleet_changed();
}

void ledger::set_weights_due(instance_load& at, duration due, time_point now) {
  at.weights_at.reset();
  if (due > duration{0}) at.weights_at = now + std::min<duration>(due, longest_ttft);
  at.shut = at.weights_at && !policy_->reckons_with_weights();
}

void ledger::expect_weights(instance_id id, duration due, time_point now) {
  auto* at = find(id);
  if (!at || !at->weights_at) return; // gone, or a step told already that all are there
  set_weights_due(*at, due, now);
  fleet_changed();
  changed(*at);
}

void ledger::set_draining(instance_id id) {
  auto* at = find(id);
  if (!at) return;
  at->draining = true;
  fleet_changed();
  changed(*at);
}

void ledger::set_role(instance_id id, instance_role role) {
  auto* at = find(id);
  if (!at) return;
  at->is.role = role;
  at->draining = false;
  prefixes_.add(id, std::uint64_t{at->is.kv_blocks} * at->is.block_size); // the cache ended with the old role's actor
  fleet_changed();
  changed(*at);
}

void ledger::fleet_changed() {
  fleet_abilities can;
  for (const auto& [id, at] : view_.instances) {
    const bool mixed = at.is.role == instance_role::mixed;
    const bool prefill = at.is.role == instance_role::prefill;
    auto& count = mixed ? can.mixed : prefill ? can.prefill : can.decode;
    auto& tokens = mixed ? can.mixed_tokens : prefill ? can.prefill_tokens : can.decode_tokens;
    count += at.closed() ? 0 : 1;
    can.loading += at.may_prefill() && at.weights_at ? 1 : 0;
    can.draining += at.draining ? 1 : 0;
    tokens = std::max(tokens, std::uint64_t{at.is.kv_blocks} * at.is.block_size);
  }
  view_.fleet = can;
}

// Prefill work that was done, to the requests in the order in which they were given.
void ledger::credit_prefill(instance_load& at, std::uint64_t tokens) {
  for (auto key : at.prefilling) {
    if (tokens == 0) return;
    auto& p = view_.placed.at(key);
    const auto done = static_cast<std::uint32_t>(std::min<std::uint64_t>(tokens, p.prefill_left));
    p.prefill_left -= done;
    tokens -= done;
    at.pending_prefill -= done;
    at.outstanding_tokens -= done;
  }
}

void ledger::report(const step_reported& r, time_point now) {
  auto* at = find(r.instance);
  if (!at) return;
  at->last_heard = now;
  if (std::exchange(at->handover_wait, r.handover_wait) != r.handover_wait) at->handed_over_at = now;
  if (r.steps > 0 && at->weights_at) { // nothing of a step comes out before the last of the weights is in
    set_weights_due(*at, duration{0}, now);
    fleet_changed();
  }
  // A report without a step (blocks came free) tells of no work that was not credited before.
  if (r.steps > 0) {
    at->corrector.observe(r.shape, r.elapsed);
    at->measured = at->measured || at->corrector.observed() >= enough_steps;
    credit_prefill(*at, r.prefill_tokens > 0 ? r.prefill_tokens : r.shape.prefill_tokens);
  }
  if (r.shape.decode_seqs > 0) {
    at->decode_steps += r.steps;
    at->decode_context += std::uint64_t{at->decoding} * r.steps;
    view_.decoded += std::uint64_t{at->decoding} * r.steps;
    lengths_.made(std::uint64_t{at->decoding} * r.steps);
  }
  const auto used = at->is.kv_blocks - std::min(r.kv_blocks_free, at->is.kv_blocks);
  // An idle instance has nothing that could outgrow its promise; what it still holds (a prefix cache) it can give up.
  const bool busy = at->sequences() > 0 || !at->prefilling.empty();
  at->overshoot_blocks = busy && used > at->reserved_blocks ? used - at->reserved_blocks : 0;
  changed(*at);
}

} // namespace hflex::scheduler
