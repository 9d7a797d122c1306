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
  auto found = view_.instances.find(id);
  return found == view_.instances.end() ? nullptr : &found->second;
}

std::optional<request_key> ledger::known_attempt(request_id id) const {
  std::optional<request_key> latest;
  const auto look = [&](const auto& requests) {
    for (auto it = requests.lower_bound({id, 0}); it != requests.end() && it->first.id == id; ++it)
      if (!latest || *latest < it->first) latest = it->first;
  };
  look(view_.waiting);
  look(view_.placed);
  return latest;
}

void ledger::enqueue(const request_arrived& r, time_point now) {
  const auto length = lengths_.predict(r.slo_class, r.produced, r.max_output_tokens);
  auto [at, fresh] = view_.waiting.emplace(r.key, waiting_request{r, now, next_order_, length - r.produced});
  HFLEX_CHECK(fresh);
  auto& slo = at->second.request.slo;
  slo.ttft = std::clamp(slo.ttft, duration{0}, longest_ttft);
  slo.tpot = std::clamp(slo.tpot, duration{1}, longest_tpot);
  view_.first_come.emplace(next_order_++, r.key);
  policy_->queued(view_, at->second);
}

void ledger::drop_waiting(request_key key) {
  auto found = view_.waiting.find(key);
  HFLEX_CHECK(found != view_.waiting.end());
  policy_->unqueued(view_, found->second);
  view_.first_come.erase(found->second.order);
  view_.waiting.erase(found);
}

void ledger::place(request_key key, const placement& to, time_point now) {
  auto found = view_.waiting.find(key);
  HFLEX_CHECK(found != view_.waiting.end());
  auto* p = find(to.prefill);
  auto* d = find(to.decode);
  HFLEX_CHECK(p && d);
  const auto& w = found->second;
  HFLEX_CHECK(can_serve(*p, *d, w.request, true) && has_room(view_, *p) && has_room(view_, *d));
  HFLEX_CHECK(to.reserved_blocks <= d->free_blocks());

  placed_request placed;
  placed.request = w.request;
  placed.prefill = to.prefill;
  placed.decode = to.decode;
  placed.decode_blocks = to.reserved_blocks;
  placed.prefill_left = w.request.tokens;
  placed.output_to_come = w.output_to_come;
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
  if (!to.best_effort) ++d->tiers[w.request.slo.tpot].members;
  // A silence that let this one through holds the next one back again: one per report_timeout.
  if (now - p->last_heard > opts_.report_timeout) p->last_heard = now;
  view_.placed.emplace(key, std::move(placed));
  drop_waiting(key);
}

// Work is credited in the order of dispatch, and an instance may have done it in another: what a finished one was not
// credited with went to others, who still have it to do.
void ledger::return_credit(const placed_request& finished, request_key key, instance_load& at) {
  auto wrong = finished.prefill_left;
  for (auto it = at.prefilling.begin(); wrong > 0 && it != at.prefilling.end(); ++it) {
    if (*it == key) continue;
    auto& other = view_.placed.at(*it);
    const auto back = std::min(wrong, other.request.tokens - other.prefill_left);
    other.prefill_left += back;
    wrong -= back;
    at.pending_prefill += back;
    at.outstanding_tokens += back;
  }
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

void ledger::finish_prefill(request_key key, time_point now) {
  auto found = view_.placed.find(key);
  if (found == view_.placed.end() || found->second.decodes) return;
  auto& p = found->second;
  return_credit(p, key, *find(p.prefill));
  leave_prefill(p, key, *find(p.prefill));
  auto& at = *find(p.decode);
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
    auto tier = at.tiers.find(r.slo.tpot);
    if (--tier->second.members == 0) at.tiers.erase(tier);
    return;
  }
  p.binds = true;
  p.anchor = (r.produced == 0 ? now : due) - r.slo.tpot * static_cast<std::int64_t>(at.decode_steps);
  at.tiers[r.slo.tpot].anchors.insert(p.anchor);
}

void ledger::leave_tier(const placed_request& p, instance_load& at) {
  if (p.best_effort) return;
  auto tier = at.tiers.find(p.request.slo.tpot);
  HFLEX_CHECK(tier != at.tiers.end());
  if (p.binds) tier->second.anchors.erase(tier->second.anchors.find(p.anchor));
  if (--tier->second.members == 0) at.tiers.erase(tier);
}

void ledger::take_off(const placed_request& p) {
  if (auto* at = find(p.decode)) {
    at->reserved_blocks -= p.decode_blocks;
    at->outstanding_tokens -= p.output_to_come;
    at->decode_context -= context_of(*at, p);
    --(p.decodes ? at->decoding : at->promised);
    --at->outstanding;
    at->overshoot_blocks = 0; // told again by the next report
    leave_tier(p, *at);
    if (at->decoding == 0) at->decode_steps = 0; // nobody's deadlines count from it
  }
}

instance_id ledger::begin_move(request_key key, instance_id to) {
  auto found = view_.placed.find(key);
  HFLEX_CHECK(found != view_.placed.end());
  auto& p = found->second;
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
  if (!p.best_effort) ++there->tiers[p.request.slo.tpot].members;
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
    if (!p.best_effort) {
      auto tier = there->tiers.find(p.request.slo.tpot);
      if (--tier->second.members == 0) there->tiers.erase(tier);
    }
  }
  p.moving_to = {};
}

void ledger::end_move(request_key key, instance_id at) {
  auto found = view_.placed.find(key);
  if (found == view_.placed.end() || !found->second.moving_to) return;
  auto& p = found->second;
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
  if (!p.binds) return;
  p.anchor +=
      p.request.slo.tpot * (static_cast<std::int64_t>(steps_here) - static_cast<std::int64_t>(there->decode_steps));
  there->tiers[p.request.slo.tpot].anchors.insert(p.anchor);
}

bool ledger::end(request_key key, std::optional<std::uint32_t> output_tokens) {
  if (view_.waiting.contains(key)) {
    drop_waiting(key);
    return true;
  }
  auto found = view_.placed.find(key);
  if (found == view_.placed.end()) return false;
  auto& p = found->second;
  if (output_tokens) lengths_.observe(p.request.slo_class, *output_tokens);
  if (auto* at = find(p.prefill); at && !p.decodes) leave_prefill(p, key, *at);
  if (p.moving_to) take_off_promise(p);
  take_off(p);
  view_.placed.erase(found);
  return true;
}

void ledger::add_instance(const instance_ready& ready, time_point now) {
  if (auto* known = find(ready.instance)) {
    known->is = ready;
    known->draining = false;
    return;
  }
  view_.instances.emplace(ready.instance, instance_load(ready, opts_, now));
}

void ledger::remove_instance(instance_id id) {
  std::vector<request_key> lost;
  for (const auto& [key, p] : view_.placed)
    if (p.decode == id || (p.prefill == id && !p.decodes)) lost.push_back(key);
  for (auto key : lost) end(key, std::nullopt);
  // Moves to it are still answered from the other end: until then they count as under way, so that a late answer is not
  // taken for that of a later move.
  view_.instances.erase(id);
}

void ledger::set_draining(instance_id id) {
  if (auto* at = find(id)) at->draining = true;
}

void ledger::set_role(instance_id id, instance_role role) {
  if (auto* at = find(id)) {
    at->is.role = role;
    at->draining = false;
  }
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
  // A report without a step (blocks came free) tells of no work that was not credited before.
  if (r.steps > 0) {
    at->corrector.observe(r.shape, r.elapsed);
    at->measured = at->measured || at->corrector.observed() >= enough_steps;
    credit_prefill(*at, r.prefill_tokens > 0 ? r.prefill_tokens : r.shape.prefill_tokens);
  }
  if (r.shape.decode_seqs > 0) {
    at->decode_steps += r.steps;
    at->decode_context += std::uint64_t{at->decoding} * r.steps;
  }
  const auto used = at->is.kv_blocks - std::min(r.kv_blocks_free, at->is.kv_blocks);
  // An idle instance has nothing that could outgrow its promise; what it still holds (a prefix cache) it can give up.
  const bool busy = at->sequences() > 0 || !at->prefilling.empty();
  at->overshoot_blocks = busy && used > at->reserved_blocks ? used - at->reserved_blocks : 0;
}

} // namespace hflex::scheduler
