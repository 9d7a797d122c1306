// Moving a decoding sequence while it goes on: a hand-over of a length that is fixed when it is offered.
//
//   source                                        sink
//   offer_kv(ahead)  --- offer ---------------->  room now? accept_offer, else refuse at once
//   open_push        <-- offer_accepted --------
//   push_rows of what is computed, and of each row after its step
//   after ahead + 1 more steps: stop, commit_kv --- kv_committed -->  decoding starts when landed and committed
//   gone, migrated   <-- kv_taken --------------  take_over
//   stay             <-- offer_refused ---------  whatever else becomes of it
//
// The source answers for the request until kv_taken. Before its commit it goes on by itself when anything goes wrong,
// for the sink cannot have begun. After it only the sink knows: every accepted migration gets exactly one last word
// from the sink, taken or refused, and the source waits for it, or for news of the sink's death. So at no time do two
// instances decode it, and the client's stream has neither gap nor repetition.
#include "actors/instance/batcher.hpp"
#include <algorithm>

namespace hflex::instance {

void core::on(const migrate& e, time_point now, effects& out) {
  auto found = by_key_.find(e.key);
  auto refuse = [&](error why) { out.push_back(migration_failed{e.key, e.to, std::move(why)}); };
  if (found == by_key_.end()) return refuse({errc::reroute, fmt::format("{} is not here", to_string(e.key))});
  auto& s = *found->second;
  if (auto ok = may_migrate(s, e.to); !ok) return refuse(ok.error());
  const auto ahead = steps_ahead(s) - 1;
  const auto rows = s.length() + ahead;
  const auto wanted = blocks_for(rows, options_.block_size);
  const auto missing = wanted - std::min<std::uint32_t>(wanted, static_cast<std::uint32_t>(s.blocks.size()));
  // The data plane wants the whole block table at the start.
  if (!pool_.allocate(missing, s.blocks))
    return refuse({errc::retry, fmt::format("no {} free KV blocks for the steps until it leaves", missing)});
  handover h;
  h.id = transfer_id{std::uint64_t{options_.self.value} << 32U | next_transfer_++};
  h.peer = e.to;
  h.lease_until = now + options_.migration_lease;
  h.rows = rows;
  h.ahead = ahead;
  h.outbound = true;
  out.push_back(offer_kv{h.id, h.peer, s.spec, options_.migration_lease, ahead});
  link(s, h);
  settle(now, out);
}

result<void> core::may_migrate(const sequence& s, instance_id to) const {
  const auto name = to_string(s.spec.key);
  if (to == options_.self || !to) return fail(errc::reroute, "{} is at {} already", name, to_string(options_.self));
  if (s.transfer) return fail(errc::retry, "{} is being handed over already", name);
  if (s.at != stage::running) return fail(errc::retry, "{} was preempted: it has no KV to move", name);
  if (s.remaining() > 1) return fail(errc::retry, "{} is still in its prefill", name);
  if (!lasts(s.spec, options_.min_ahead + 1))
    return fail(errc::reroute, "{} ends within {} tokens", name, options_.min_ahead + 1);
  return {};
}

/// As many as its rows take to arrive, so that it stands still for a step or two only, and two for the messages; fewer
/// when it would end by then.
std::uint32_t core::steps_ahead(const sequence& s) const {
  step_shape decodes;
  for (const auto* r : running_)
    if (r->remaining() == 1) decodes.add_decode(r->length());
  const auto step = std::max(options_.predict ? options_.predict(decodes) : last_elapsed_, duration{1});
  const auto move = options_.kv_row_time * static_cast<std::int64_t>(s.length());
  const auto steps = static_cast<std::uint64_t>(move / step) + 2;
  auto ahead =
      static_cast<std::uint32_t>(std::clamp<std::uint64_t>(steps, options_.min_ahead + 1, options_.max_ahead + 1));
  while (!lasts(s.spec, ahead)) --ahead; // may_migrate: not below min_ahead + 1
  return ahead;
}

/// After a token: when every row that was promised is computed, the sink goes on.
void core::stop_if_due(sequence& s, effects& out) {
  auto& h = *s.transfer;
  if (s.num_computed_tokens < h.rows) return;
  if (!h.open) {
    stay(s, {errc::retry, fmt::format("{} has not answered for {} steps", to_string(h.peer), h.ahead + 1)}, true, out);
    return;
  }
  h.committed = true;
  const auto& tokens = s.spec.tokens;
  out.push_back(commit_kv{
      h.id, h.peer, s.spec.key, s.spec.produced() - 1, tokens.back(), {tokens.end() - 1 - h.ahead, tokens.end() - 1}});
}

/// It came to nothing: the sequence goes on here, from where it is.
void core::stay(sequence& s, const error& why, bool tell_peer, effects& out) {
  out.push_back(migration_failed{s.spec.key, s.transfer->peer, why});
  end_transfer(s, tell_peer ? &why : nullptr, out);
}

/// Something went wrong on the way. Once the sink may have begun, it is asked: its last word comes or has come.
void core::recall(sequence& s, const error& why, effects& out) {
  auto& h = *s.transfer;
  if (!h.committed) return stay(s, why, true, out);
  if (!std::exchange(h.open, false)) return; // asked already
  out.push_back(close_transfer{h.id});
  leases_.erase({h.lease_until, h.id});
  out.push_back(abort_transfer{h.id, h.peer, s.spec.key});
}

void core::on(const kv_taken& e, time_point now, effects& out) {
  auto* s = find_outbound(e.transfer);
  if (!s || !s->transfer->committed) return;
  out.push_back(migrated{s->spec.key, s->transfer->peer});
  drop(*s, nullptr, out);
  settle(now, out);
}

} // namespace hflex::instance
