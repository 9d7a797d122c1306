#include "actors/scheduler/budget.hpp"
#include <algorithm>
#include <cmath>

namespace hflex::scheduler {

namespace {

// Where a typical chunk starts: half of a request lies before it. A budget needs one number, requests differ.
constexpr std::uint32_t typical_context = 512;

duration step_with(const instance_load& at, std::uint32_t prefill, std::uint32_t ctx_before) {
  auto shape = at.decode_shape();
  shape.add_prefill(prefill, ctx_before);
  return at.model().plan_ahead(shape);
}

} // namespace

prefill_budget estimate_prefill(const instance_load& at, double lost_after) {
  const auto decodes = at.decode_shape();
  const auto cap = at.is.max_batched_tokens > decodes.decode_seqs ? at.is.max_batched_tokens - decodes.decode_seqs : 0;
  const auto tightest = at.tightest_tpot();
  const auto slack = at.slack(lost_after);
  if (!tightest || !slack) return {cap, cap, duration::max()};
  const auto within = [&](duration tau) { return max_prefill_tokens(at.model(), tau, decodes, typical_context, cap); };
  prefill_budget budget;
  budget.steady_step = within(*tightest);
  budget.next_step = within(std::max(*slack, duration{0}));
  budget.bank = std::max(*slack - *tightest, duration{0});
  return budget;
}

std::optional<duration> prefill_time(const instance_load& at, const prefill_budget& budget, std::uint32_t tokens) {
  return work_time(at, budget, at.pending_prefill + tokens, tokens / 2);
}

std::optional<duration> work_time(
    const instance_load& at, const prefill_budget& budget, std::uint64_t work, std::uint32_t context) {
  if (budget.next_step > 0 && work <= budget.next_step) return step_with(at, static_cast<std::uint32_t>(work), context);
  duration total{0};
  // First steps of full size, as long as the bank lasts; what a step takes beyond a steady one is drawn from the bank.
  if (budget.next_step > budget.steady_step) {
    const auto full = step_with(at, budget.next_step, context);
    const auto drawn = full - step_with(at, std::max(budget.steady_step, 1U), context);
    const auto by_bank = drawn.count() > 0 ? 1 + budget.bank.count() / drawn.count() : std::int64_t{1};
    const auto steps = std::min<std::int64_t>(by_bank, static_cast<std::int64_t>(work / budget.next_step));
    total += full * steps;
    work -= static_cast<std::uint64_t>(steps) * budget.next_step;
  }
  if (work == 0) return total;
  if (budget.steady_step == 0) return std::nullopt;
  const auto steps = static_cast<std::int64_t>(work / budget.steady_step);
  const auto rest = static_cast<std::uint32_t>(work % budget.steady_step);
  total += step_with(at, budget.steady_step, context) * steps;
  if (rest > 0) total += step_with(at, rest, context);
  return total;
}

duration fastest_prefill(const instance_load& at, std::uint32_t tokens) {
  return fastest_prefill(at.model(), at.is.max_batched_tokens, tokens);
}

duration fastest_prefill(const step_time_model& model, std::uint32_t max_batched_tokens, std::uint32_t tokens) {
  const auto cap = max_batched_tokens;
  step_shape whole;
  whole.add_prefill(std::min(tokens, cap), tokens > cap ? (tokens - cap) / 2 : 0);
  if (tokens <= cap) return model.predict(whole);
  const auto steps = static_cast<std::int64_t>((tokens + cap - 1) / cap);
  return model.predict(whole) * steps * tokens / (steps * cap);
}

double prefill_rate(const instance_load& at, const prefill_budget& budget) {
  if (budget.steady_step == 0) return 0.0;
  return budget.steady_step / std::max(to_s(step_with(at, budget.steady_step, typical_context)), 1e-9);
}

duration decode_step_with(const instance_load& at, std::uint32_t context) {
  auto shape = at.decode_shape();
  shape.add_decode(context);
  return at.model().plan_ahead(shape);
}

} // namespace hflex::scheduler
