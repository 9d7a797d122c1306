// The next step: every decode that has a block for its token (and, where the step policy shares steps out, is due for
// one), then prefill in what is left of the token budget and of the tightest resident's time. One pass over the
// residents, plus the sequences started. Which step policy does what: actors/common/step_time.hpp.
#include "actors/common/check.hpp"
#include "actors/instance/batcher.hpp"
#include <algorithm>
#include <utility>

namespace hflex::instance {

struct core::draft {
  struct ranked {
    rank place;
    sequence* s{};
  };
  step_plan plan;
  std::vector<flying_entry> flying;
  std::vector<const sequence*> decodes; ///< in the plan
  std::vector<ranked> prefills;         ///< residents with more than one token to compute, in order
  std::optional<duration> tightest;     ///< TPOT target of those that decode here; for policies that share steps out
  bool pressed{false};                  ///< layered_budget: more prefill that can be in time than one step takes
  std::vector<sequence*> deferred;      ///< could decode, and leave the step to prefill if there is any

  void reserve(std::size_t residents) {
    plan.entries.reserve(residents);
    flying.reserve(residents);
    decodes.reserve(residents);
  }
  bool more_than_a_step(const core& c) const;
  std::optional<duration> limit_for_late(const core& c, std::optional<duration> limit) const;
  std::optional<duration> first_token_limit(const core& c, const sequence& s, time_point now) const;
};

namespace {

/// Deadlines are put off by the prefill that is left: long ones yield to short ones.
bool weighs_prefill(step_policy p) { return p == step_policy::hybrid_priority || p == step_policy::layered_budget; }

duration less(duration time, double share) {
  return duration{static_cast<duration::rep>(static_cast<double>(time.count()) * (1.0 - share))};
}

} // namespace

/// How many prefill tokens still fit in a step.
class core::chunk_budget {
public:
  chunk_budget(const options& o, const step_shape& shape) : options_(o), shape_(shape) {}

  /// The largest share of `wanted` tokens after `position` that fits into a step of `limit`; 0: the step is full.
  std::uint32_t fit(std::uint32_t wanted, std::uint32_t position, std::optional<duration> limit) const {
    const auto used = shape_.decode_seqs + shape_.prefill_tokens;
    const auto most = std::min(wanted, options_.max_batched_tokens - used);
    if (!limit || in_time(most, position, *limit)) return most;
    std::uint32_t fits = 0, too_many = most;
    while (too_many - fits > 1) {
      const auto middle = fits + (too_many - fits) / 2;
      (in_time(middle, position, *limit) ? fits : too_many) = middle;
    }
    const auto floor = options_.min_chunk - std::min(options_.min_chunk, shape_.prefill_tokens);
    return std::max(fits, std::min(most, floor));
  }

private:
  bool in_time(std::uint32_t count, std::uint32_t position, duration limit) const {
    auto grown = shape_;
    grown.add_prefill(count, position);
    return options_.predict(grown) <= limit;
  }

  const options& options_;
  const step_shape& shape_; ///< of the plan as it grows
};

void core::plan_step(time_point now, effects& out) {
  if (flying_ || (running_.empty() && waiting_.empty())) return;
  draft d;
  d.plan.id = next_step_;
  grant(d);
  plan_decodes(d, now, out);
  relegate(d, now);
  plan_prefills(d, now, out);
  if (d.plan.shape.prefill_tokens == 0)
    for (auto* s : d.deferred) add_entry(*s, 1, d);
  if (d.plan.entries.empty()) return;
  ++next_step_;
  flying_ = flying_step{d.plan.id, d.plan.shape, std::move(d.flying)};
  out.push_back(run_step{std::move(d.plan)});
}

/// Decodes in order of rank; when blocks run out, the last in that order gives way. A hand-over is never a victim: its
/// blocks may be read by the transport. It never needs a block either, so whoever lacks one can at worst give way
/// itself.
void core::plan_decodes(draft& d, time_point now, effects& out) {
  std::vector<draft::ranked> order;
  order.reserve(running_.size());
  d.reserve(running_.size());
  for (auto* s : running_) order.push_back({rank_of(*s), s});
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.place < b.place; });

  auto end = order.size(); // from here on: given way, or part of a hand-over
  auto last_to_give_way = [&](std::size_t i) {
    do {
      HFLEX_CHECK(end > i);
      --end;
    } while (order[end].s->transfer);
    return std::exchange(order[end].s, nullptr);
  };
  for (std::size_t i = 0; i < order.size(); ++i) {
    auto* s = order[i].s;
    if (s && s->paused()) continue;
    while (s && s->blocks.size() < blocks_for(s->length(), options_.block_size) && !pool_.allocate(1, s->blocks)) {
      preempt(*last_to_give_way(i), out);
      s = order[i].s;
    }
    if (!s) continue;
    if (s->remaining() > 1) {
      d.prefills.push_back(order[i]);
      continue;
    }
    if (sits_out(*s)) continue;
    if (may_defer(*s, d, now)) {
      d.deferred.push_back(s);
      continue;
    }
    d.decodes.push_back(s);
    add_entry(*s, 1, d);
  }
}

/// Residents and newcomers in one order, so that a tight newcomer overtakes a long prefill. The first newcomer without
/// room stops all others: nobody is passed over for being large.
void core::plan_prefills(draft& d, time_point now, effects& out) {
  const chunk_budget budget(options_, d.plan.shape);
  auto limit = step_limit(d, now);
  const auto for_late = d.limit_for_late(*this, limit);
  auto resident = d.prefills.begin();
  bool admitting = true;
  while (true) {
    const bool newcomer =
        admitting && !waiting_.empty() && (resident == d.prefills.end() || waiting_.begin()->first < resident->place);
    if (!newcomer && resident == d.prefills.end()) return;
    auto& s = newcomer ? *waiting_.begin()->second : *resident->s;
    const auto hit = newcomer ? find_prefix(s) : prefix_hit{};
    const auto computed = s.num_computed_tokens + hit.blocks * options_.block_size;
    const auto count = budget.fit(s.length() - computed, computed, s.relegated ? for_late : limit);
    if (count == 0) return;
    if (newcomer && !start(s, hit, now, out)) {
      admitting = false;
      continue;
    }
    if (!newcomer) ++resident;
    add_entry(s, count, d);
    if (count < s.remaining()) return; // what is left would be a crumb for the next one
    if (const auto left = d.first_token_limit(*this, s, now)) limit = std::min(limit.value_or(*left), *left);
  }
}

/// The tightest target of those that decode here, and what each has earned of the steps that it sets the pace of.
void core::grant(draft& d) {
  if (options_.policy == step_policy::fixed_budget || options_.policy == step_policy::slack_budget) return;
  const auto decodes = [](const sequence& s) { return s.remaining() == 1 && s.spec.produced() > 0; };
  for (const auto* s : running_)
    if (decodes(*s)) d.tightest = std::min(d.tightest.value_or(duration::max()), s->spec.slo.tpot);
  if (options_.policy == step_policy::layered_budget) d.pressed = d.more_than_a_step(*this);
  if (options_.policy != step_policy::credits) return;
  for (auto* s : running_)
    if (decodes(*s))
      s->credit += static_cast<double>(d.tightest->count()) /
                   static_cast<double>(std::max<std::int64_t>(1, s->spec.slo.tpot.count()));
}

/// Whether a sequence that could decode has not earned this step. The tightest has earned every one.
bool core::sits_out(sequence& s) const {
  if (options_.policy != step_policy::credits || s.spec.produced() == 0) return false;
  if (s.credit < 1.0 - 1e-9) return true;
  s.credit -= 1.0;
  return false;
}

/// Whether the prefill that can still be in time fills more than one step, as long as the tightest target allows.
bool core::draft::more_than_a_step(const core& c) const {
  step_shape all;
  for (const auto* s : c.running_)
    if (s->remaining() == 1)
      all.add_decode(s->length());
    else if (!s->relegated)
      all.add_prefill(s->remaining(), s->num_computed_tokens);
  const auto most = c.options_.max_batched_tokens;
  const auto full = [&] { return std::uint64_t{all.prefill_tokens} + all.decode_seqs > most; };
  for (auto it = c.waiting_.begin(); it != c.waiting_.end() && !full(); ++it)
    if (!it->second->relegated) all.add_prefill(it->second->remaining(), it->second->num_computed_tokens);
  if (all.prefill_tokens == 0) return false;
  return full() || (tightest && c.options_.predict && c.options_.predict(all) > *tightest);
}

/// Whether the step after this one still makes its token in time; where decodes wait only for prefill that is urgent,
/// with a step to spare.
bool core::may_defer(const sequence& s, const draft& d, time_point now) const {
  const bool always = options_.policy == step_policy::token_allocation;
  return (always || d.pressed) && options_.predict && s.spec.produced() > 0 &&
         due(s) > now + (always ? 2 : 3) * *d.tightest;
}

/// Those that cannot have their first token in time any more go behind those that can, for good. Of the waiting ones
/// only the first in order is looked at: the others are when their turn comes.
void core::relegate(draft& d, time_point now) {
  if (!(weighs_prefill(options_.policy) || options_.policy == step_policy::token_allocation) || !options_.predict)
    return;
  const auto is_late = [&](const sequence& s) {
    if (s.relegated || s.spec.produced() > 0) return false;
    step_shape rest;
    rest.add_prefill(s.remaining(), s.num_computed_tokens);
    return now + options_.predict(rest) > s.spec.arrival + s.spec.slo.ttft;
  };
  for (auto& p : d.prefills) {
    p.s->relegated = p.s->relegated || is_late(*p.s);
    p.place = rank_of(*p.s);
  }
  std::sort(d.prefills.begin(), d.prefills.end(), [](const auto& a, const auto& b) { return a.place < b.place; });
  while (!waiting_.empty() && is_late(*waiting_.begin()->second)) {
    auto& s = *waiting_.begin()->second;
    waiting_.erase(waiting_.begin());
    s.relegated = true;
    s.place = rank_of(s);
    waiting_.emplace(s.place, &s);
  }
}

/// tau * (1 - safety) of scheduling.md section 3, tau being the least slack of the decodes in the plan, and where steps
/// are shared out at most the tightest target; none: nobody to wait for.
std::optional<duration> core::step_limit(const draft& d, time_point now) const {
  if (options_.policy == step_policy::fixed_budget || !options_.predict) return std::nullopt;
  const bool shared_out = options_.policy == step_policy::credits || options_.policy == step_policy::token_allocation;
  std::optional<duration> tau;
  if (shared_out) tau = d.tightest;
  if (options_.policy != step_policy::credits && !d.decodes.empty()) {
    const auto decode_only = options_.predict(d.plan.shape);
    for (const auto* s : d.decodes)
      if (!lost(*s, now, decode_only)) tau = std::min(tau.value_or(duration::max()), due(*s) - now);
  }
  if (!tau) return std::nullopt;
  return less(*tau, options_.safety);
}

/// A sequence that ends its prefill in this step has its first token when the step ends: others may lengthen it up to
/// its deadline. Nothing: it has no such deadline, or cannot keep it.
std::optional<duration> core::draft::first_token_limit(const core& c, const sequence& s, time_point now) const {
  if (c.options_.policy != step_policy::layered_budget || !c.options_.predict) return std::nullopt;
  if (s.spec.produced() > 0 || s.relegated) return std::nullopt;
  const auto left = c.due(s) - now;
  if (c.options_.predict(plan.shape) > left) return std::nullopt;
  return less(left, c.options_.safety);
}

/// A newcomer waits for the end of the step under way: one that only the late need ends soon (brief_step).
std::optional<duration> core::draft::limit_for_late(const core& c, std::optional<duration> limit) const {
  if (c.options_.policy != step_policy::layered_budget || !c.options_.predict) return limit;
  auto alone = plan.shape;
  if (alone.decode_seqs == 0) alone.add_decode(1);
  auto promised = std::chrono::duration_cast<duration>(std::chrono::hours{1});
  for (const auto* s : c.running_) promised = std::min(promised, s->spec.slo.ttft);
  if (!c.waiting_.empty()) promised = std::min(promised, c.waiting_.begin()->second->spec.slo.ttft);
  const auto brief = brief_step(c.options_.predict(alone), promised);
  return limit ? std::min(*limit, brief) : brief;
}

/// Whether a request can no longer attain its targets, however much room its decodes are given: the first token came
/// late, the end-to-end deadline has passed, or even steps of decodes alone do not catch up by its last possible token.
bool core::lost(const sequence& s, time_point now, duration decode_only) const {
  const auto& slo = s.spec.slo;
  if (s.first_token_at && *s.first_token_at > s.spec.arrival + slo.ttft) return true;
  if (slo.e2e && now > s.spec.arrival + *slo.e2e) return true;
  const auto late = now + decode_only - due(s);
  if (late <= duration::zero()) return false;
  if (s.spec.produced() == 0) return true;
  const auto tokens_after = s.spec.max_output_tokens - s.spec.produced() - 1;
  return (slo.tpot - decode_only) * static_cast<std::int64_t>(tokens_after) < late;
}

/// When the next token is due. TPOT counts from the first token that was, not from the one that was due: time banked
/// before it may not be spent after it.
time_point core::due(const sequence& s) const {
  const auto planned = token_deadline(s.spec.arrival, s.spec.slo, s.spec.produced());
  if (!s.first_token_at) return planned;
  return std::min(planned, *s.first_token_at + s.spec.slo.tpot * static_cast<std::int64_t>(s.spec.produced()));
}

rank core::rank_of(const sequence& s) const {
  constexpr auto behind_all = std::chrono::hours{24 * 365};
  if (options_.policy == step_policy::fixed_budget) return {false, time_point{}, s.serial};
  const bool fresh = s.spec.produced() == 0;
  auto when = due(s) + (s.relegated ? behind_all : duration{0});
  if (fresh && weighs_prefill(options_.policy)) when += options_.prefill_weight * s.remaining();
  return {fresh, when, s.serial};
}

/// Beside others, some blocks stay free for them to grow; alone, a sequence may have all.
bool core::room_for(const sequence& s, const prefix_hit& hit) const {
  if (running_.size() + receiving_ >= options_.max_sequences) return false;
  const auto spare = running_.empty() && receiving_ == 0 ? 0U : options_.watermark_blocks;
  const auto fresh = blocks_for(s.to_hold(), options_.block_size) - hit.blocks;
  return std::uint64_t{fresh} + spare <= pool_.free() - hit.idle;
}

/// What was found first: taking new ones may evict.
void core::take_blocks(sequence& s, const prefix_hit& hit) {
  pool_.share(chain_of(s, hit.blocks), s.blocks);
  const bool taken = pool_.allocate(blocks_for(s.to_hold(), options_.block_size) - hit.blocks, s.blocks);
  HFLEX_CHECK(taken);
  s.published = hit.blocks;
  s.num_computed_tokens = hit.blocks * options_.block_size;
}

bool core::start(sequence& s, const prefix_hit& hit, time_point now, effects& out) {
  if (!room_for(s, hit)) return false;
  take_blocks(s, hit);
  started_tokens_ += s.length();
  cached_tokens_ += s.num_computed_tokens;
  if (!s.started) s.cached_prompt_tokens = std::min(s.num_computed_tokens, s.spec.prompt_tokens);
  move_to(s, stage::running);
  s.started = true;
  if (s.decode_at) offer_handover(s, now, out);
  return true;
}

/// Its tokens stay, its KV goes: it starts again from the prompt and what it has produced, less what the prefix cache
/// still has by then.
void core::preempt(sequence& s, effects& out) {
  ++preemptions_;
  if (retire_at_) {
    hand_back(s, {errc::reroute, fmt::format("preempted while {} is retiring", to_string(options_.self))}, out);
    return;
  }
  pool_.release(s.blocks);
  s.num_computed_tokens = s.published = 0;
  move_to(s, stage::waiting);
}

void core::add_entry(sequence& s, std::uint32_t count, draft& d) {
  const auto position = s.num_computed_tokens;
  step_entry e;
  e.key = s.spec.key;
  e.count = count;
  e.position = position;
  if (options_.describe_steps) {
    e.tokens.assign(s.spec.tokens.begin() + position, s.spec.tokens.begin() + position + count);
    e.block_table = s.blocks;
  }
  e.sample = count == s.remaining();
  e.sampling = s.spec.sampling;
  e.output_index = s.spec.produced();
  e.push_kv = s.transfer && s.transfer->open && !s.transfer->live(); // a single row goes after its step
  if (e.push_kv) e.transfer = s.transfer->id;
  // One token after a cached context costs what a decode costs, whatever it is for.
  if (count == 1 && position > 0 && e.sample)
    d.plan.shape.add_decode(position + 1);
  else
    d.plan.shape.add_prefill(count, position);
  d.flying.push_back({&s, count, e.sample, e.push_kv});
  s.in_step = true;
  d.plan.entries.push_back(std::move(e));
}

} // namespace hflex::instance
