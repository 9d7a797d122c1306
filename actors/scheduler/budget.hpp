// Budget estimation: what an instance can still take on within the targets of those that it serves
// (design/scheduling.md, section 3). Pure functions of the accounts and the step-time model; policies ask them. They
// decide nothing.
#pragma once
#include "actors/scheduler/view.hpp"

namespace hflex::scheduler {

/// An instance's room for prefill, as it stands after its last report.
struct prefill_budget {
  std::uint32_t next_step{};   ///< tokens that the next step can take: the banked slack of the residents is in it
  std::uint32_t steady_step{}; ///< tokens that each later step can take, once the bank is spent
  duration bank{};             ///< slack that may be spent beyond one TPOT target; max() when no resident binds
};

/// Residents that are late by more than `lost_after` token times do not shrink it.
prefill_budget estimate_prefill(const instance_load& at, double lost_after);

/// When `tokens` more prefill tokens, behind all that is pending there, would be done: time from the end of the step
/// under way, planned with the safety quantile. Nothing when its residents leave no room for prefill.
std::optional<duration> prefill_time(const instance_load& at, const prefill_budget& budget, std::uint32_t tokens);

/// When `work` prefill tokens would be done if they went before everything else, likewise; `context`: where their
/// chunks start.
std::optional<duration> work_time(
    const instance_load& at, const prefill_budget& budget, std::uint64_t work, std::uint32_t context);

/// The prefill time of a request on that instance if it had nothing else to do: no plan can be faster.
duration fastest_prefill(const instance_load& at, std::uint32_t tokens);
duration fastest_prefill(const step_time_model& model, std::uint32_t max_batched_tokens, std::uint32_t tokens);

/// Prefill tokens per second that its residents leave room for.
double prefill_rate(const instance_load& at, const prefill_budget& budget);

/// The planned time of its decode step with one more sequence of that context.
duration decode_step_with(const instance_load& at, std::uint32_t context);

} // namespace hflex::scheduler
