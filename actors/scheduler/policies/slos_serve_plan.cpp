#include "actors/scheduler/policies/slos_serve_plan.hpp"
#include <algorithm>
#include <numeric>

namespace hflex::scheduler {

namespace {

using counts = std::vector<std::uint32_t>; // new decodes by tier

struct way {
  int late{};      ///< promised ones that it makes late
  double tokens{}; ///< prefill that can still be done by now
  std::uint32_t blocks{};
  std::vector<std::size_t> accepted;
};

bool better(const way& a, const way& b) {
  if (a.late != b.late) return a.late < b.late;
  return a.accepted.size() != b.accepted.size() ? a.accepted.size() > b.accepted.size() : a.tokens > b.tokens;
}

class planner {
public:
  planner(const instance_load& at, const std::vector<prefill_job>& jobs, const slos_serve_settings& settings)
      : at_(at), settings_(settings) {
    for (const auto& [tpot, tier] : at.tiers) tpots_.push_back(tpot);
    for (const auto& j : jobs) tpots_.push_back(j.tpot);
    std::sort(tpots_.begin(), tpots_.end());
    tpots_.erase(std::unique(tpots_.begin(), tpots_.end()), tpots_.end());
    resident_.resize(tpots_.size());
    for (const auto& [tpot, tier] : at.tiers) resident_[tier_of(tpot)] = tier.members;
    double contexts = static_cast<double>(at.decode_context);
    for (const auto& j : jobs) contexts += j.promised ? 0 : j.context;
    const auto fresh = std::count_if(jobs.begin(), jobs.end(), [](const auto& j) { return !j.promised; });
    mean_context_ = contexts / std::max(1.0, static_cast<double>(at.sequences()) + static_cast<double>(fresh));
  }

  std::size_t tier_of(duration tpot) const {
    return static_cast<std::size_t>(std::lower_bound(tpots_.begin(), tpots_.end(), tpot) - tpots_.begin());
  }
  std::size_t tiers() const { return tpots_.size(); }

  /// Prefill tokens per second beside those decodes; below 0 when they alone take too long. A step lasts the tightest
  /// target; of a tier with a looser one only so many take part in it that all have their token in time.
  double rate(const counts& n) {
    auto [known, fresh] = rates_.try_emplace(n);
    if (fresh) known->second = compute_rate(n);
    return known->second;
  }

private:
  double compute_rate(const counts& n) const {
    std::size_t tightest = 0;
    while (tightest < tiers() && resident_[tightest] + n[tightest] == 0) ++tightest;
    const bool alone = tightest == tiers();
    const double step_ms = settings_.margin * to_ms(alone ? settings_.longest_step : tpots_[tightest]);
    double seqs = 0;
    for (auto l = tightest; l < tiers(); ++l)
      seqs += (resident_[l] + n[l]) * static_cast<double>(tpots_[tightest].count()) /
              static_cast<double>(tpots_[l].count());
    step_shape shape;
    shape.decode_seqs = static_cast<std::uint32_t>(seqs + 0.999);
    shape.decode_context = seqs * mean_context_;
    const auto step = from_ms(step_ms);
    if (at_.model().plan_ahead(shape) > step) return -1.0;
    const auto cap = at_.is.max_batched_tokens - std::min(at_.is.max_batched_tokens, shape.decode_seqs);
    const auto tokens = max_prefill_tokens(at_.model(), step, shape, typical_context, cap);
    shape.add_prefill(tokens, typical_context);
    return tokens / std::max(to_s(at_.model().plan_ahead(shape)), 1e-9);
  }

  static constexpr std::uint32_t typical_context = 512;

  const instance_load& at_;
  const slos_serve_settings& settings_;
  std::vector<duration> tpots_; ///< tightest first
  counts resident_;
  double mean_context_{};
  std::map<counts, double> rates_;
};

} // namespace

std::vector<std::size_t> accept_jobs(const instance_load& at, const std::vector<prefill_job>& jobs,
    std::uint32_t free_blocks, std::uint32_t free_sequences, const slos_serve_settings& settings) {
  planner plan(at, jobs, settings);
  std::vector<std::size_t> order(jobs.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return jobs[a].due < jobs[b].due; });

  std::map<counts, way> states{{counts(plan.tiers()), {}}};
  duration time{0};
  for (auto i : order) {
    const auto& job = jobs[i];
    const auto dt = std::max(duration{0}, job.due - time);
    time += dt;
    std::map<counts, way> next;
    const auto keep = [&](const counts& n, way&& w) {
      auto [old, fresh] = next.try_emplace(n, w);
      if (!fresh && better(w, old->second)) old->second = std::move(w);
    };
    for (auto& [n, w] : states) {
      w.tokens += std::max(0.0, plan.rate(n)) * to_s(dt);
      auto with = w;
      with.tokens -= job.tokens;
      if (job.promised) {
        if (with.tokens < 0) ++with.late;
        keep(n, std::move(with)); // it counts among the residents already
        continue;
      }
      with.blocks += job.blocks;
      with.accepted.push_back(i);
      auto grown = n;
      if (settings.decodes_here) ++grown[plan.tier_of(job.tpot)];
      const bool fits = with.tokens >= 0 && with.blocks <= free_blocks && with.accepted.size() <= free_sequences &&
                        plan.rate(grown) >= 0;
      keep(n, std::move(w));
      if (fits) keep(grown, std::move(with));
    }
    states = std::move(next);
  }
  const way* best = &states.begin()->second; // each job leaves one at least
  for (const auto& [n, w] : states)
    if (better(w, *best)) best = &w;
  return best->accepted;
}

} // namespace hflex::scheduler
