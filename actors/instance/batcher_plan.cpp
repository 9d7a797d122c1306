// The next step: every decode that has a block for its token, then prefill in what is left of the token budget and,
// under slack_budget, of the tightest resident's time. One pass over the residents, plus the sequences started.
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
};

/// How many prefill tokens still fit in a step.
class core::chunk_budget {
public:
  chunk_budget(const options& o, const step_shape& shape, std::optional<duration> limit)
      : options_(o), shape_(shape), limit_(limit) {}

  /// The largest share of `wanted` tokens after `position` that fits; 0: the step is full.
  std::uint32_t fit(std::uint32_t wanted, std::uint32_t position) const {
    const auto used = shape_.decode_seqs + shape_.prefill_tokens;
    const auto most = std::min(wanted, options_.max_batched_tokens - used);
    if (!limit_ || in_time(most, position)) return most;
    std::uint32_t fits = 0, too_many = most;
    while (too_many - fits > 1) {
      const auto middle = fits + (too_many - fits) / 2;
      (in_time(middle, position) ? fits : too_many) = middle;
    }
    const auto floor = options_.min_chunk - std::min(options_.min_chunk, shape_.prefill_tokens);
    return std::max(fits, std::min(most, floor));
  }

private:
  bool in_time(std::uint32_t count, std::uint32_t position) const {
    auto grown = shape_;
    grown.add_prefill(count, position);
    return options_.predict(grown) <= *limit_;
  }

  const options& options_;
  const step_shape& shape_; ///< of the plan as it grows
  std::optional<duration> limit_;
};

void core::plan_step(time_point now, effects& out) {
  if (flying_ || (running_.empty() && waiting_.empty())) return;
  draft d;
  d.plan.id = next_step_;
  plan_decodes(d, out);
  plan_prefills(d, now, out);
  if (d.plan.entries.empty()) return;
  ++next_step_;
  flying_ = flying_step{d.plan.id, d.plan.shape, std::move(d.flying)};
  out.push_back(run_step{std::move(d.plan)});
}

/// Decodes in order of rank; when blocks run out, the last in that order gives way. A hand-over is never a victim: its
/// blocks may be read by the transport. It never needs a block either, so whoever lacks one can at worst give way
/// itself.
void core::plan_decodes(draft& d, effects& out) {
  std::vector<draft::ranked> order;
  order.reserve(running_.size());
  for (auto& [_, s] : running_) order.push_back({rank_of(*s), s});
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
    d.decodes.push_back(s);
    add_entry(*s, 1, d);
  }
}

/// Residents and newcomers in one order, so that a tight newcomer overtakes a long prefill. The first newcomer without
/// room stops all others: nobody is passed over for being large.
void core::plan_prefills(draft& d, time_point now, effects& out) {
  const chunk_budget budget(options_, d.plan.shape, step_limit(d, now));
  auto resident = d.prefills.begin();
  bool admitting = true;
  while (true) {
    const bool newcomer =
        admitting && !waiting_.empty() && (resident == d.prefills.end() || waiting_.begin()->first < resident->place);
    if (!newcomer && resident == d.prefills.end()) return;
    auto& s = newcomer ? *waiting_.begin()->second : *resident->s;
    const auto hit = newcomer ? find_prefix(s) : prefix_hit{};
    const auto computed = s.num_computed_tokens + hit.blocks * options_.block_size;
    const auto count = budget.fit(s.length() - computed, computed);
    if (count == 0) return;
    if (newcomer && !start(s, hit, now, out)) {
      admitting = false;
      continue;
    }
    if (!newcomer) ++resident;
    add_entry(s, count, d);
    if (count < s.remaining()) return; // what is left would be a crumb for the next one
  }
}

/// tau * (1 - safety) of scheduling.md section 3, tau being the least slack of the decodes in the plan; none: nobody to
/// wait for.
std::optional<duration> core::step_limit(const draft& d, time_point now) const {
  if (options_.policy != step_policy::slack_budget || !options_.predict || d.decodes.empty()) return std::nullopt;
  const auto decode_only = options_.predict(d.plan.shape);
  std::optional<duration> tau;
  for (const auto* s : d.decodes)
    if (!lost(*s, now, decode_only)) tau = std::min(tau.value_or(duration::max()), due(*s) - now);
  if (!tau) return std::nullopt;
  return duration{static_cast<duration::rep>(static_cast<double>(tau->count()) * (1.0 - options_.safety))};
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
  if (options_.policy == step_policy::fixed_budget) return {false, time_point{}, s.serial};
  return {s.spec.produced() == 0, due(s), s.serial};
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
  d.flying.push_back({s.serial, count, e.sample, e.push_kv});
  s.in_step = true;
  d.plan.entries.push_back(std::move(e));
}

} // namespace hflex::instance
