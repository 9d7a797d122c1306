#include "actors/scheduler/policies/placing.hpp"
#include <algorithm>

namespace hflex::scheduler {

time_point due_of(const request_arrived& r) { return token_deadline(r.arrival, r.slo, r.produced); }

bool has_space(const place& at, const request_arrived& r, std::uint32_t blocks) {
  const auto& d = *at.decode;
  if (d.sequences() >= d.is.max_sequences || blocks > d.free_blocks()) return false;
  return at.together() || blocks_for(*at.prefill, r.tokens) <= at.prefill->free_blocks();
}

std::uint32_t blocks_with_output(const instance_load& d, const request_arrived& r, double output) {
  const auto most = std::uint64_t{r.prompt_tokens} + std::max(r.max_output_tokens, r.produced + 1);
  return blocks_for(d, std::min(most, r.tokens + static_cast<std::uint64_t>(std::max(output, 1.0))));
}

std::uint32_t output_to_come(const waiting_request& w) {
  if (!w.request.known_output) return w.output_to_come;
  return *w.request.known_output > w.request.produced ? *w.request.known_output - w.request.produced : 1;
}

bool starts_soon(
    const view& v, const instance_load& p, std::uint32_t tokens, double step, double window, time_point now) {
  if (now - p.last_heard > v.opts->report_timeout) return true;
  return static_cast<double>(p.pending_prefill) + std::min<double>(tokens, step) <= window * step;
}

duration fixed_step(const instance_load& at, std::uint64_t work) {
  auto shape = at.decode_shape();
  const auto cap = at.is.max_batched_tokens - std::min(at.is.max_batched_tokens - 1, shape.decode_seqs);
  shape.add_prefill(static_cast<std::uint32_t>(std::min<std::uint64_t>(work, cap)), 0);
  return at.model().plan_ahead(shape);
}

duration fixed_prefill_time(const instance_load& at, std::uint32_t tokens) {
  const auto work = at.pending_prefill + tokens;
  const auto decodes = at.decode_shape().decode_seqs;
  const auto cap = at.is.max_batched_tokens - std::min(at.is.max_batched_tokens - 1, decodes);
  auto total = fixed_step(at, work) * static_cast<std::int64_t>(work / cap);
  if (work % cap > 0) total += fixed_step(at, work % cap);
  // Chunks of a long prompt read what came before them.
  const double pairs = 0.5 * tokens * static_cast<double>(tokens > cap ? tokens - cap : 0);
  return total + from_ms(at.model().c2_ms * pairs * at.model().safety);
}

std::optional<duration> prefill_by_deadline(
    const view& v, const instance_load& p, const prefill_budget& budget, const request_arrived& r, time_point now) {
  struct job {
    time_point due;
    std::uint32_t tokens;
    bool mine;
  };
  std::vector<job> jobs{{due_of(r), r.tokens, true}};
  for (auto key : p.prefilling) {
    const auto& other = v.placed.at(key);
    jobs.push_back({other.best_effort ? time_point::max() : due_of(other.request), other.prefill_left, false});
  }
  std::stable_sort(jobs.begin(), jobs.end(), [](const job& a, const job& b) { return a.due < b.due; });
  // The step under way ends first, whoever is in it.
  const std::uint64_t flying =
      std::min<std::uint64_t>(p.pending_prefill, std::max(budget.next_step, budget.steady_step));
  std::uint64_t work = 0;
  std::optional<duration> own;
  for (const auto& j : jobs) {
    const auto before = j.mine ? std::max(work, flying) : work;
    work += j.tokens;
    const auto time = work_time(p, budget, before + j.tokens, j.tokens / 2);
    if (j.mine) {
      if (!time) return std::nullopt;
      own = time;
    } else if (own && (!time || now + *time > j.due)) {
      const auto without = work_time(p, budget, work - r.tokens, j.tokens / 2);
      if (without && now + *without <= j.due) return std::nullopt;
    }
  }
  return own;
}

bool is_lost(const view& v, const request_arrived& r, time_point now) {
  std::optional<duration> prefill, step;
  for (const auto& [id, at] : v.instances) {
    if (!at.measured) return now > due_of(r);
    step_shape alone;
    alone.add_decode(r.tokens);
    if (can_prefill(at.is.role)) prefill = std::min(prefill.value_or(duration::max()), fastest_prefill(at, r.tokens));
    if (can_decode(at.is.role)) step = std::min(step.value_or(duration::max()), at.model().predict(alone));
  }
  if (step && *step > r.slo.tpot && r.max_output_tokens > 1) return true;
  return now + prefill.value_or(duration{0}) > due_of(r);
}

bool has_aged(const waiting_request& w, time_point now, const options& opts) {
  const auto bound = std::max(opts.ageing_floor,
      duration{static_cast<std::int64_t>(opts.ageing_factor * static_cast<double>(w.request.slo.ttft.count()))});
  return now > w.request.arrival + bound;
}

std::optional<place> place_for_lost(const view& v, const waiting_request& w, time_point now, bool others_wait) {
  const bool aged = has_aged(w, now, *v.opts);
  if (others_wait && !aged) return std::nullopt;
  using score = std::tuple<std::uint64_t, std::uint64_t>;
  return best_place(v, w.request, [&](const place& at) -> std::optional<score> {
    const auto& p = *at.prefill;
    const auto& d = *at.decode;
    if (!has_space(at, w.request, blocks_with_output(d, w.request, output_to_come(w)))) return std::nullopt;
    const bool silent = now - p.last_heard > v.opts->report_timeout;
    if (!silent && p.pending_prefill > (others_wait ? 0 : p.is.max_batched_tokens / 2)) return std::nullopt;
    const auto limit = d.tightest_tpot();
    if (!aged && limit && decode_step_with(d, w.request.tokens) > *limit) return std::nullopt;
    return score{p.pending_prefill, d.outstanding_tokens};
  });
}

} // namespace hflex::scheduler
