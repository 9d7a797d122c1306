// A sequence's life: in by add, through its steps, out by exactly one of ended, handed_back, cancel or delivery.
#include "actors/instance/batcher.hpp"
#include "actors/common/check.hpp"
#include <algorithm>
#include <limits>

namespace hflex::instance {

namespace {

bool is_earlier(const sequence* a, const sequence* b) { return a->serial < b->serial; }

} // namespace

result<void> check(const options& o) {
  auto bad = [](std::string_view what, std::string_view expected) {
    return fail(errc::reject, "instance option {}: expected {}", what, expected);
  };
  if (!o.self) return bad("self", "an instance id");
  if (o.block_size == 0) return bad("block_size", "at least 1");
  if (o.kv_blocks == 0) return bad("kv_blocks", "at least 1");
  if (o.max_context < 2) return bad("max_context", "at least 2");
  if (o.vocab_size == 0) return bad("vocab_size", "at least 1");
  if (o.max_sequences == 0) return bad("max_sequences", "at least 1");
  if (o.max_batched_tokens <= o.max_sequences) return bad("max_batched_tokens", "more than max_sequences");
  if (o.min_chunk == 0) return bad("min_chunk", "at least 1");
  if (o.prefill_weight < duration{0}) return bad("prefill_weight", "0 or more");
  if (!(o.safety >= 0.0 && o.safety < 1.0)) return bad("safety", "a share in [0, 1)");
  if (o.transfer_lease <= duration::zero()) return bad("transfer_lease", "more than 0");
  if (o.migration_lease <= duration::zero()) return bad("migration_lease", "more than 0");
  if (o.kv_row_time < duration::zero()) return bad("kv_row_time", "0 or more");
  if (o.min_ahead == 0) return bad("min_ahead", "at least 1");
  if (o.max_ahead < o.min_ahead) return bad("max_ahead", "at least min_ahead");
  return {};
}

core::core(options o)
    : options_(std::move(o)), context_limit_(static_cast<std::uint32_t>(std::min<std::uint64_t>(
                                  options_.max_context, std::uint64_t{options_.kv_blocks} * options_.block_size))),
      pool_(options_.kv_blocks, options_.block_size), next_transfer_(options_.first_transfer) {
  HFLEX_CHECK(check(options_).has_value());
}

// ---- events ----

void core::on(const add& e, time_point now, effects& out) {
  const auto& key = e.spec.key;
  if (by_key_.contains(key)) return;
  auto refuse = [&](const error& why) { out.push_back(handed_back{key, why, excused(why)}); };
  if (retire_at_) return refuse({errc::reroute, fmt::format("{} is retiring", to_string(options_.self))});
  if (!can_prefill(options_.role))
    return refuse({errc::reroute, fmt::format("{} only decodes", to_string(options_.self))});
  if (auto ok = admissible(e.spec); !ok) return refuse(ok.error());
  if (waiting_.size() >= options_.max_waiting)
    return refuse({errc::retry, fmt::format("{} has {} sequences waiting", to_string(options_.self), waiting_.size())});
  auto& s = insert(e.spec, stage::waiting);
  if (e.decode_at != options_.self) s.decode_at = e.decode_at;
  settle(now, out);
}

void core::on(const cancel& e, time_point now, effects& out) {
  auto found = by_key_.find(e.key);
  if (found == by_key_.end()) return;
  const error cancelled{errc::reroute, "cancelled"};
  drop(*found->second, &cancelled, out);
  settle(now, out);
}

void core::on(const step_finished& e, time_point now, effects& out) {
  if (!flying_ || flying_->id != e.id) return;
  const auto& step = *flying_;
  ++steps_;
  last_shape_ = step.shape;
  last_elapsed_ = e.elapsed;
  for (auto& table : held_) pool_.release(table);
  held_.clear();

  const auto failure = failure_of(step, e);
  for (std::size_t i = 0; i < step.entries.size(); ++i) {
    const auto& entry = step.entries[i];
    if (!entry.s) continue;
    auto& s = *entry.s;
    s.in_step = false;
    if (failure)
      hand_back(s, *failure, out);
    else
      finish_entry(s, entry.count, entry.pushed, entry.sample ? &e.sampled[i] : nullptr, now, out);
  }
  flying_.reset();
  settle(now, out);
}

void core::on(const set_role& e, time_point now, effects& out) {
  options_.role = e.role;
  std::vector<sequence*> leaving;
  if (!can_prefill(e.role))
    for (auto& [_, s] : waiting_)
      if (!s->started) leaving.push_back(s);
  if (!can_decode(e.role))
    for (auto& [_, s] : offered_) leaving.push_back(s);
  const error why{errc::reroute, fmt::format("{} changed its role to {}", to_string(options_.self), to_string(e.role))};
  for (auto* s : leaving) give_up(*s, why, out);
  settle(now, out);
}

void core::on(const retire& e, time_point now, effects& out) {
  const auto end = e.grace < time_point::max() - now ? now + e.grace : time_point::max();
  retire_at_ = std::min(retire_at_.value_or(time_point::max()), end);
  // Preempted ones go too: recomputing them elsewhere costs the same and frees this instance sooner.
  std::vector<sequence*> leaving;
  for (auto& [_, s] : waiting_) leaving.push_back(s);
  for (auto& [_, s] : offered_) leaving.push_back(s);
  const error why{errc::reroute, fmt::format("{} is retiring", to_string(options_.self))};
  for (auto* s : leaving) give_up(*s, why, out);
  settle(now, out);
}

void core::on(const tick&, time_point now, effects& out) {
  if (wake_announced_ && now >= *wake_announced_) wake_announced_.reset();
  settle(now, out);
}

/// What follows every event: time limits, then blocks for offers, then the next step.
void core::settle(time_point now, effects& out) {
  expire_leases(now, out);
  retire_if_due(now, out);
  accept_offers(now, out);
  plan_step(now, out);
  if (retire_at_ && sequences_.empty() && !flying_ && !retired_) {
    retired_ = true;
    out.push_back(retired{});
  }
  announce_wake(out);
}

void core::retire_if_due(time_point now, effects& out) {
  if (!retire_at_ || now < *retire_at_) return;
  const error why{errc::reroute, fmt::format("{} retired before the request ended", to_string(options_.self))};
  while (!sequences_.empty()) give_up(sequences_.begin()->second, why, out);
}

void core::announce_wake(effects& out) {
  auto at = time_point::max();
  if (!leases_.empty()) at = leases_.begin()->first;
  if (retire_at_ && !sequences_.empty()) at = std::min(at, *retire_at_);
  if (at == time_point::max() || (wake_announced_ && *wake_announced_ <= at)) return;
  wake_announced_ = at;
  out.push_back(wake_at{at});
}

// ---- a sequence ----

/// A spec comes from a peer: one that the device would refuse must not spoil a step for the others in it.
result<void> core::admissible(const sequence_spec& spec) const {
  if (spec.tokens.empty() || spec.prompt_tokens == 0 || spec.prompt_tokens > spec.tokens.size())
    return fail(errc::reject, "{}: expected 1 to {} prompt tokens, got {}", to_string(spec.key), spec.tokens.size(),
        spec.prompt_tokens);
  if (spec.produced() >= spec.max_output_tokens)
    return fail(errc::reject, "{}: expected max_output_tokens above the {} already produced, got {}",
        to_string(spec.key), spec.produced(), spec.max_output_tokens);
  if (spec.tokens.size() >= context_limit_)
    return fail(errc::reject, "{}: expected fewer than {} tokens (max_context {}, {} KV blocks of {}), got {}",
        to_string(spec.key), context_limit_, options_.max_context, options_.kv_blocks, options_.block_size,
        spec.tokens.size());
  for (auto id : spec.tokens)
    if (!valid(id))
      return fail(
          errc::reject, "{}: expected token ids in [0, {}), got {}", to_string(spec.key), options_.vocab_size, id);
  return {};
}

sequence& core::insert(sequence_spec spec, stage at) {
  const auto serial = next_serial_++;
  auto& s = sequences_[serial];
  s.serial = serial;
  s.spec = std::move(spec);
  by_key_.emplace(s.spec.key, &s);
  enter(s, at);
  return s;
}

std::vector<sequence*>::iterator core::place_among_running(const sequence& s) {
  return std::lower_bound(running_.begin(), running_.end(), &s, is_earlier);
}

void core::enter(sequence& s, stage at) {
  s.at = at;
  switch (at) {
  case stage::waiting:
    s.place = rank_of(s);
    waiting_.emplace(s.place, &s);
    break;
  case stage::running:
    running_.insert(place_among_running(s), &s);
    break;
  case stage::offered:
    offered_.emplace(s.serial, &s);
    break;
  case stage::receiving:
    ++receiving_;
    break;
  case stage::sending:
    ++sending_;
    break;
  }
}

void core::leave(sequence& s) {
  switch (s.at) {
  case stage::waiting:
    waiting_.erase(s.place);
    break;
  case stage::running:
    running_.erase(place_among_running(s));
    break;
  case stage::offered:
    offered_.erase(s.serial);
    break;
  case stage::receiving:
    --receiving_;
    break;
  case stage::sending:
    --sending_;
    break;
  }
}

void core::move_to(sequence& s, stage at) {
  leave(s);
  enter(s, at);
}

/// Takes a sequence out without a word to the router. The peer of its transfer, if any, is told why unless `tell_peer`
/// is null.
void core::drop(sequence& s, const error* tell_peer, effects& out) {
  if (s.transfer) end_transfer(s, tell_peer, out);
  if (s.in_step)
    for (auto& entry : flying_->entries)
      if (entry.s == &s) entry.s = nullptr;
  if (s.in_step && !s.blocks.empty())
    held_.push_back(std::move(s.blocks)); // the device may still write to them
  else
    pool_.release(s.blocks);
  leave(s);
  if (s.came_by) arrived_.erase(s.came_by);
  by_key_.erase(s.spec.key);
  sequences_.erase(s.serial);
}

/// What a retiring instance gives back to be done elsewhere is neither the request's fault nor its own.
bool core::excused(const error& why) const { return retire_at_ && why.code == errc::reroute; }

void core::hand_back(sequence& s, const error& why, effects& out) {
  out.push_back(handed_back{s.spec.key, why, excused(why)});
  drop(s, &why, out);
}

/// This instance decides not to go on with a sequence. While rows arrive, it cannot know whether the prefill side has
/// been told already that all did: it speaks up, at worst as the second to do so. A migration's source is told, and
/// goes on with it.
void core::give_up(sequence& s, const error& why, effects& out) {
  const bool answered_for = s.transfer && !s.transfer->outbound && (s.transfer->live() || s.at == stage::offered);
  if (answered_for)
    drop(s, &why, out);
  else
    hand_back(s, why, out);
}

void core::end_well(sequence& s, stop_cause cause, effects& out) {
  out.push_back(ended{s.spec.key, cause, s.cached_prompt_tokens, s.spec.produced()});
  const error why{errc::reroute, "the request ended"};
  drop(s, &why, out);
}

// ---- a step's result ----

std::optional<error> core::failure_of(const flying_step& step, const step_finished& e) const {
  if (!e.status) return error{errc::reroute, fmt::format("step {} failed: {}", e.id, e.status.error().message)};
  bool sound = e.sampled.size() == step.entries.size();
  for (std::size_t i = 0; sound && i < step.entries.size(); ++i) sound = !step.entries[i].sample || valid(e.sampled[i]);
  if (!sound) return error{errc::reroute, fmt::format("step {} came back without a valid token per sequence", e.id)};
  return std::nullopt;
}

void core::finish_entry(
    sequence& s, std::uint32_t count, bool pushed, const token_id* sampled, time_point now, effects& out) {
  s.num_computed_tokens += count;
  publish(s);
  if (s.transfer) {
    if (pushed) s.transfer->rows_pushed = s.num_computed_tokens;
    push_computed(s, out);
  }
  if (sampled) take_token(s, *sampled, now, out);
}

void core::take_token(sequence& s, token_id id, time_point now, effects& out) {
  if (is_eos(s, id)) return end_well(s, stop_cause::eos, out);
  const auto index = s.spec.produced();
  if (index == 0) s.first_token_at = now;
  s.spec.tokens.push_back(id);
  out.emplace_back(token{s.spec.key, index, id, s.cached_prompt_tokens});
  if (s.spec.produced() >= s.spec.max_output_tokens) return end_well(s, stop_cause::max_tokens, out);
  if (s.length() >= context_limit_) return end_well(s, stop_cause::context_full, out);
  if (s.transfer && s.transfer->live())
    stop_if_due(s, out);
  else if (s.transfer)
    commit_first(s, id, now, out);
}

bool core::valid(token_id id) const { return id >= 0 && static_cast<std::uint32_t>(id) < options_.vocab_size; }

bool core::is_eos(const sequence& s, token_id id) const {
  const auto& eos = options_.eos_tokens;
  return !s.spec.ignore_eos && std::find(eos.begin(), eos.end(), id) != eos.end();
}

// ---- reports ----

snapshot core::report() const {
  snapshot r;
  r.role = options_.role;
  r.retiring = retire_at_.has_value();
  r.running = static_cast<std::uint32_t>(running_.size());
  r.waiting = static_cast<std::uint32_t>(waiting_.size());
  r.offered = static_cast<std::uint32_t>(offered_.size());
  r.receiving = receiving_;
  r.sending = sending_;
  r.kv_blocks_total = pool_.total();
  r.kv_blocks_free = pool_.free();
  r.kv_blocks_cached = pool_.cached();
  r.steps = steps_;
  r.preemptions = preemptions_;
  r.started_tokens = started_tokens_;
  r.cached_tokens = cached_tokens_;
  r.last_shape = last_shape_;
  r.last_elapsed = last_elapsed_;
  if (handover_wait_) r.handover_wait = std::max<duration>(*handover_wait_, std::chrono::microseconds{1}); // 0 is none
  return r;
}

double core::slack_share(time_point now) const {
  auto least = std::numeric_limits<double>::infinity();
  for (const auto* s : running_)
    if (s->spec.produced() > 0 && s->spec.slo.tpot > duration::zero() && !lost(*s, now, duration::zero()))
      least = std::min(least, to_ms(due(*s) - now) / to_ms(s->spec.slo.tpot));
  return least;
}

std::vector<request_key> core::held() const {
  std::vector<request_key> keys;
  keys.reserve(sequences_.size());
  for (const auto& [serial, s] : sequences_) keys.push_back(s.spec.key);
  return keys;
}

void core::check_invariants() const {
  std::vector<const std::vector<std::uint32_t>*> tables;
  for (const auto& table : held_) tables.push_back(&table);
  std::size_t in_step = 0, in_transfer = 0, arrived = 0;
  for (const auto& [serial, s] : sequences_) {
    tables.push_back(&s.blocks);
    in_step += s.in_step;
    in_transfer += s.transfer.has_value();
    arrived += static_cast<bool>(s.came_by);
    const bool has_blocks = s.at == stage::running || s.at == stage::sending || s.at == stage::receiving;
    HFLEX_CHECK(has_blocks != s.blocks.empty());
    HFLEX_CHECK(s.blocks.size() * options_.block_size >= s.num_computed_tokens);
    HFLEX_CHECK(s.num_computed_tokens < s.length());
    check_prefix(s);
    HFLEX_CHECK(by_key_.at(s.spec.key) == &s);
    HFLEX_CHECK(!s.transfer || by_transfer_.at(s.transfer->id) == &s);
    HFLEX_CHECK(s.at != stage::waiting || waiting_.at(s.place) == &s);
    HFLEX_CHECK(s.at != stage::running || std::count(running_.begin(), running_.end(), &s) == 1);
    HFLEX_CHECK(s.at != stage::offered || offered_.at(serial) == &s);
  }
  HFLEX_CHECK(pool_.accounts_for(tables));
  HFLEX_CHECK(by_key_.size() == sequences_.size());
  HFLEX_CHECK(by_transfer_.size() == in_transfer && leases_.size() <= in_transfer && arrived_.size() == arrived);
  HFLEX_CHECK(waiting_.size() + running_.size() + offered_.size() + receiving_ + sending_ == sequences_.size());
  HFLEX_CHECK(running_.size() + receiving_ <= options_.max_sequences);
  HFLEX_CHECK(std::is_sorted(running_.begin(), running_.end(), is_earlier));
  HFLEX_CHECK(flying_ ? in_step <= flying_->entries.size() : in_step == 0 && held_.empty());
}

} // namespace hflex::instance
