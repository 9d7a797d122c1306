#include "actors/scheduler/view.hpp"

namespace hflex::scheduler {

instance_load::instance_load(const instance_ready& ready, const options& opts, time_point now)
    : is(ready), corrector(ready.model.value_or(opts.unmeasured_model), opts.corrector),
      measured(ready.model.has_value() || opts.is_measured), last_heard(now) {}

std::optional<duration> instance_load::slack(double lost_after) const {
  std::optional<duration> least;
  for (const auto& [tpot, tier] : tiers) {
    // A promised resident is due one target after it starts; one that decodes is due at anchor + (steps + 1) * target.
    duration here = tpot;
    const auto passed = tpot * static_cast<std::int64_t>(decode_steps + 1);
    const auto lost = duration{static_cast<std::int64_t>(lost_after * static_cast<double>(tpot.count()))};
    const auto first = tier.anchors.lower_bound(last_heard - lost - passed);
    if (first != tier.anchors.end())
      here = *first + passed - last_heard;
    else if (tier.members == tier.anchors.size())
      continue; // all of them are lost
    if (!least || here < *least) least = here;
  }
  return least;
}

std::uint32_t prefill_work(const waiting_request& w, instance_id at) {
  if (w.cached.empty()) return w.request.tokens;
  const auto hit = std::lower_bound(
      w.cached.begin(), w.cached.end(), at, [](const prefix_index::hit& h, instance_id id) { return h.instance < id; });
  if (hit == w.cached.end() || hit->instance != at) return w.request.tokens;
  // The last token is computed in any case: its logits are needed.
  return std::max(w.request.tokens - std::min(hit->tokens, w.request.tokens), 1U);
}

std::uint32_t least_prefill_work(const waiting_request& w) {
  std::uint32_t most = 0;
  for (const auto& hit : w.cached) most = std::max(most, hit.tokens);
  return std::max(w.request.tokens - std::min(most, w.request.tokens), 1U);
}

bool fleet_abilities::can_hold(const request_arrived& r) const {
  const auto whole = tokens_at_most(r);
  if (mixed_tokens >= whole || (prefill_tokens >= r.tokens && decode_tokens >= whole)) return true;
  // While a side is missing nothing can be said of its pools: only a request that no pool here could hold is too big.
  return !serviceable() && (largest_tokens() == 0 || largest_tokens() >= whole);
}

std::uint64_t tokens_at_most(const request_arrived& r) {
  return std::uint64_t{r.prompt_tokens} + std::max(r.max_output_tokens, r.produced + 1);
}

std::uint32_t blocks_at_most(const instance_load& at, const request_arrived& r) {
  return blocks_for(at, tokens_at_most(r));
}

std::uint64_t context_of(const instance_load& decode, const placed_request& p) {
  return p.request.tokens + (p.decodes ? decode.decode_steps - p.steps_before : 0);
}

bool can_serve(const instance_load& p, const instance_load& d, const request_arrived& r, bool now_placeable) {
  if (now_placeable && (p.closed() || d.closed())) return false;
  const bool together = p.is.instance == d.is.instance;
  const bool roles_fit = together ? p.is.role == instance_role::mixed : can_prefill(p.is.role) && can_decode(d.is.role);
  return roles_fit && blocks_at_most(d, r) <= d.is.kv_blocks && blocks_for(p, r.tokens) <= p.is.kv_blocks;
}

} // namespace hflex::scheduler
