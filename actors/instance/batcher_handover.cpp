// Both sides of a KV hand-over. Blocks of a transfer are given back only after close_transfer, or before it was ever
// open.
#include "actors/instance/batcher.hpp"
#include <algorithm>

namespace hflex::instance {

namespace {

void smooth(std::optional<duration>& mean, duration sample) {
  constexpr int remembered = 8;
  mean = mean ? *mean + (sample - *mean) / remembered : sample;
}

} // namespace

// ---- bookkeeping of both sides ----

void core::link(sequence& s, const handover& h) {
  by_transfer_.emplace(h.id, &s);
  leases_.emplace(h.lease_until, h.id);
  s.transfer = h;
}

/// The transfer is over as far as this side is concerned.
void core::unlink(sequence& s, effects& out) {
  const auto& h = *s.transfer;
  if (h.open) out.push_back(close_transfer{h.id});
  leases_.erase({h.lease_until, h.id});
  by_transfer_.erase(h.id);
  s.transfer.reset();
}

void core::end_transfer(sequence& s, const error* tell_peer, effects& out) {
  const auto& h = *s.transfer;
  if (tell_peer && h.outbound)
    out.push_back(abort_transfer{h.id, h.peer, s.spec.key});
  else if (tell_peer && (!h.landed || h.live()))
    out.push_back(refuse_offer{h.id, h.peer, *tell_peer, excused(*tell_peer)});
  unlink(s, out);
}

sequence* core::find_outbound(transfer_id id) {
  auto found = by_transfer_.find(id);
  return found != by_transfer_.end() && found->second->transfer->outbound ? found->second : nullptr;
}

sequence* core::find_inbound(transfer_id id) {
  auto found = by_transfer_.find(id);
  return found != by_transfer_.end() && !found->second->transfer->outbound ? found->second : nullptr;
}

void core::expire_leases(time_point now, effects& out) {
  // One that is slow is told of before it has ended.
  if (sending_ > 0)
    for (const auto& [id, s] : by_transfer_)
      if (s->at == stage::sending && now - *s->transfer->prefilled_at > handover_wait_.value_or(duration{0}))
        handover_wait_ = now - *s->transfer->prefilled_at;
  while (!leases_.empty() && leases_.begin()->first <= now) {
    auto& s = *by_transfer_.at(leases_.begin()->second);
    const error why{errc::reroute, fmt::format("hand-over of {} took longer than its lease", to_string(s.spec.key))};
    if (s.transfer->outbound && s.transfer->live())
      recall(s, why, out);
    else
      give_up(s, why, out);
  }
}

void core::on(const peer_lost& e, time_point now, effects& out) {
  std::vector<sequence*> leaving;
  for (auto& [_, s] : by_transfer_)
    if (s->transfer->peer == e.peer) leaving.push_back(s);
  // The survivor answers for the request: the other side cannot. A migration's source has it still; its sink was not
  // asked for it by the router.
  for (auto* s : leaving) {
    const error why{errc::reroute, fmt::format("lost {} during hand-over", to_string(e.peer))};
    if (s->transfer->live() && s->transfer->outbound) {
      stay(*s, why, false, out);
      continue;
    }
    if (!s->transfer->live()) out.push_back(handed_back{s->spec.key, why, excused(why)});
    drop(*s, nullptr, out);
  }
  settle(now, out);
}

void core::on(const kv_failed& e, time_point now, effects& out) {
  const error why{errc::reroute, fmt::format("KV transfer failed: {}", e.why.message)};
  if (auto* s = find_outbound(e.transfer); s && !s->transfer->delivered) {
    if (s->transfer->live())
      recall(*s, why, out);
    else
      hand_back(*s, why, out);
  } else if (auto* t = find_inbound(e.transfer); t && !t->transfer->landed) {
    // The prefill side is told by the data plane, and answers for the request. A migration's may wait for a word.
    drop(*t, t->transfer->live() ? &why : nullptr, out);
  }
  settle(now, out);
}

// ---- prefill side ----

/// Offered when prefill starts and not when the request comes, so that queued work reserves nothing elsewhere.
void core::offer_handover(sequence& s, time_point now, effects& out) {
  handover h;
  h.id = transfer_id{std::uint64_t{options_.self.value} << 32U | next_transfer_++};
  h.peer = s.decode_at;
  h.lease_until = now + options_.transfer_lease;
  h.rows = s.length();
  h.outbound = true;
  out.push_back(offer_kv{h.id, h.peer, s.spec, options_.transfer_lease, 0});
  link(s, h);
}

void core::on(const offer_accepted& e, time_point now, effects& out) {
  auto* s = find_outbound(e.transfer);
  if (!s || s->transfer->open || s->transfer->committed) return;
  auto& h = *s->transfer;
  h.open = true;
  out.push_back(open_push{h.id, s->spec.key, s->blocks, h.rows, h.lease_until - now});
  push_computed(*s, out);
  settle(now, out);
}

void core::on(const offer_refused& e, time_point now, effects& out) {
  auto* s = find_outbound(e.transfer);
  if (!s) return;
  const error why{
      errc::reroute, fmt::format("{} refused the hand-over: {}", to_string(s->transfer->peer), e.why.message)};
  if (s->transfer->live()) {
    stay(*s, why, false, out);
  } else {
    out.push_back(handed_back{s->spec.key, why, e.leaving || excused(why)});
    drop(*s, nullptr, out);
  }
  settle(now, out);
}

void core::on(const kv_delivered& e, time_point now, effects& out) {
  auto* s = find_outbound(e.transfer);
  if (!s || !s->transfer->open) return;
  s->transfer->delivered = true;
  leases_.erase({s->transfer->lease_until, e.transfer});
  // Layers are pushed while the step runs, so the acknowledgement may overtake the step's own result.
  if (s->at == stage::sending) {
    smooth(handover_wait_, now - s->transfer->prefilled_at.value_or(now));
    drop(*s, nullptr, out);
  }
  settle(now, out);
}

/// Rows found in the prefix cache, computed before the transfer was open, or in a step planned before.
void core::push_computed(sequence& s, effects& out) {
  auto& h = *s.transfer;
  if (!h.open || h.rows_pushed == s.num_computed_tokens) return;
  out.push_back(push_rows{h.id, h.rows_pushed, s.num_computed_tokens - h.rows_pushed});
  h.rows_pushed = s.num_computed_tokens;
}

void core::commit_first(sequence& s, token_id first, time_point now, effects& out) {
  auto& h = *s.transfer;
  out.push_back(commit_kv{h.id, h.peer, s.spec.key, s.spec.produced() - 1, first, {}});
  h.prefilled_at = now;
  if (!h.delivered) return move_to(s, stage::sending);
  smooth(handover_wait_, duration{0});
  drop(s, nullptr, out);
}

// ---- decode side ----

void core::on(const offer& e, time_point now, effects& out) {
  if (by_transfer_.contains(e.transfer) || arrived_.contains(e.transfer)) return;
  auto refuse = [&](const error& why) { out.push_back(refuse_offer{e.transfer, e.from, why, excused(why)}); };
  if (retire_at_) return refuse({errc::reroute, fmt::format("{} is retiring", to_string(options_.self))});
  if (!can_decode(options_.role))
    return refuse({errc::reroute, fmt::format("{} only prefills", to_string(options_.self))});
  if (by_key_.contains(e.spec.key))
    return refuse({errc::reroute, fmt::format("{} is here already", to_string(e.spec.key))});
  if (auto ok = admissible(e.spec); !ok) return refuse(ok.error());
  if (e.ahead > 0 && !lasts(e.spec, e.ahead + 1))
    return refuse({errc::reroute, fmt::format("{} may end within {} tokens", to_string(e.spec.key), e.ahead + 1)});
  if (offered_.size() >= options_.max_offers)
    return refuse({errc::retry, fmt::format("{} has {} offers waiting", to_string(options_.self), offered_.size())});
  handover h;
  h.id = e.transfer;
  h.peer = e.from;
  h.lease_until = now + std::clamp(e.lease, duration::zero(), options_.transfer_lease);
  h.ahead = e.ahead;
  auto& s = insert(e.spec, stage::offered);
  link(s, h);
  accept_offers(now, out);
  // The source has the sequence in hand and goes on: better elsewhere at once than here later.
  if (h.live() && s.at == stage::offered) give_up(s, {errc::retry, "no room for another sequence"}, out);
  settle(now, out);
}

/// First come, first served; after preempted sequences, which have been promised their blocks before.
void core::accept_offers(time_point now, effects& out) {
  while (!offered_.empty()) {
    if (!waiting_.empty() && waiting_.begin()->second->started) return;
    auto& s = *offered_.begin()->second;
    if (!room_for(s, {})) return;
    take_blocks(s, {}); // none that can be found: the data plane writes every row
    move_to(s, stage::receiving);
    auto& h = *s.transfer;
    h.open = true;
    h.rows = s.to_hold();
    out.push_back(accept_offer{h.id, h.peer, s.spec.key, s.blocks, h.rows, h.lease_until - now});
  }
}

void core::on(const kv_landed& e, time_point now, effects& out) {
  auto* s = find_inbound(e.transfer);
  if (!s || s->at != stage::receiving) return;
  s->transfer->landed = true;
  if (s->transfer->first) begin_decode(*s, out);
  settle(now, out);
}

void core::on(const kv_committed& e, time_point now, effects& out) {
  auto* s = find_inbound(e.transfer);
  if (!s || s->transfer->first) return;
  if (auto ok = check_commit(*s, e); !ok) {
    give_up(*s, ok.error(), out);
  } else {
    s->transfer->first = e.token;
    s->transfer->earlier = e.earlier;
    if (e.index == 0) s->first_token_at = now;
    if (s->transfer->landed) begin_decode(*s, out);
  }
  settle(now, out);
}

/// Whether a sequence goes on after `count` more tokens, unless its text ends.
bool core::lasts(const sequence_spec& spec, std::uint32_t count) const {
  return std::uint64_t{spec.produced()} + count < spec.max_output_tokens &&
         std::uint64_t{spec.tokens.size()} + count < context_limit_;
}

/// A token that the prefill side should have ended the request with, or one out of place, would break the stream.
result<void> core::check_commit(const sequence& s, const kv_committed& e) const {
  const auto& earlier = e.earlier;
  const bool sound = earlier.size() == s.transfer->ahead && e.index == s.spec.produced() + earlier.size() &&
                     valid(e.token) && std::all_of(earlier.begin(), earlier.end(), [&](auto t) { return valid(t); }) &&
                     lasts(s.spec, s.transfer->ahead + 1);
  if (!sound)
    return fail(
        errc::reroute, "{}: cannot go on after token {} at output index {}", to_string(s.spec.key), e.token, e.index);
  return {};
}

void core::begin_decode(sequence& s, effects& out) {
  const auto& h = *s.transfer;
  s.num_computed_tokens = h.rows;
  s.spec.tokens.insert(s.spec.tokens.end(), h.earlier.begin(), h.earlier.end());
  s.spec.tokens.push_back(*h.first);
  s.started = true;
  if (h.live()) { // from this word on the source is out of it, whatever else it says
    out.push_back(take_over{h.id, h.peer, s.spec.key});
  } else {
    s.came_by = h.id;
    arrived_.emplace(s.came_by, &s);
  }
  unlink(s, out);
  publish(s);
  move_to(s, stage::running);
}

void core::on(const transfer_aborted& e, time_point now, effects& out) {
  auto* s = find_inbound(e.transfer);
  if (auto late = arrived_.find(e.transfer); late != arrived_.end()) s = late->second;
  if (!s) return;
  const error aborted{errc::reroute, "as its source wants it"};
  drop(*s, s->transfer && s->transfer->live() ? &aborted : nullptr, out);
  settle(now, out);
}

} // namespace hflex::instance
