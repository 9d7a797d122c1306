#include "actors/scheduler/policy.hpp"
#include <array>

namespace hflex::scheduler {

policy_factory make_aladdin, make_hyperflexis, make_least_loaded, make_llumnix, make_oracle, make_polyserve,
    make_power_of_two, make_qoserve, make_round_robin, make_scorpio, make_slos_serve;
knob_list aladdin_knobs, hyperflexis_knobs, llumnix_knobs, oracle_knobs, polyserve_knobs, power_of_two_knobs,
    qoserve_knobs, scorpio_knobs, slos_serve_knobs;

std::span<const policy_entry> policies() {
  static constexpr std::array table{
      policy_entry{"aladdin", "best-fit bin packing under TTFT, token time and KV memory", step_policy::fixed_budget,
          make_aladdin, aladdin_knobs},
      policy_entry{"hyperflexis", "deadline order, step budgets, late binding, least added latency",
          step_policy::layered_budget, make_hyperflexis, hyperflexis_knobs},
      policy_entry{"least_loaded", "first come, first served, to the instance with the fewest tokens outstanding",
          step_policy::fixed_budget, make_least_loaded},
      policy_entry{"llumnix",
          "at once to the instance with the most free memory a sequence, live migration from full ones",
          step_policy::fixed_budget, make_llumnix, llumnix_knobs},
      policy_entry{"oracle", "knows the output lengths (simulator only): to measure the distance to",
          step_policy::token_allocation, make_oracle, oracle_knobs},
      policy_entry{"polyserve", "instances by TPOT tier, the most loaded that stays within the targets",
          step_policy::token_allocation, make_polyserve, polyserve_knobs},
      policy_entry{"power_of_two", "first come, first served, to the shorter queue of two random instances",
          step_policy::fixed_budget, make_power_of_two, power_of_two_knobs},
      policy_entry{"qoserve", "least loaded; inside: deadline and remaining prefill in one priority, the late behind",
          step_policy::hybrid_priority, make_qoserve, qoserve_knobs},
      policy_entry{"round_robin", "first come, first served, to each instance in turn", step_policy::fixed_budget,
          make_round_robin},
      policy_entry{"scorpio", "least deadline first, turns lost requests away, credit-based decode batches",
          step_policy::credits, make_scorpio, scorpio_knobs},
      policy_entry{"slos_serve",
          "admission by dynamic programming over deadlines, replicas in turn, best effort for the rest",
          step_policy::token_allocation, make_slos_serve, slos_serve_knobs},
  };
  return table;
}

result<policy_entry> find_policy(std::string_view name) {
  std::string known;
  for (const auto& entry : policies()) {
    if (entry.name == name) return entry;
    known += known.empty() ? "" : ", ";
    known += entry.name;
  }
  return fail(errc::reject, "unknown scheduling policy '{}': expected one of {}", name, known);
}

double knob::of(const options& opts) const {
  const auto set = opts.knobs.find(std::string(name));
  return set == opts.knobs.end() ? value : set->second;
}

namespace {

result<void> check_knob(const std::string& name, double value) {
  std::string known;
  for (const auto& entry : policies()) {
    if (!entry.knobs) continue;
    for (const auto& k : entry.knobs()) {
      known += known.empty() ? "" : ", ";
      known += k.name;
      if (k.name != name) continue;
      if (value >= k.least && value <= k.most) return {};
      return fail(errc::reject, "{} = {}: expected {} to {}", name, value, k.least, k.most);
    }
  }
  return fail(errc::reject, "unknown knob '{}': expected one of {}", name, known);
}

} // namespace

result<std::unique_ptr<policy>> make_policy(const options& opts) {
  for (const auto& [name, value] : opts.knobs)
    if (auto ok = check_knob(name, value); !ok) return pass(ok.error());
  return find_policy(opts.policy).map([&](const policy_entry& entry) { return entry.make(opts); });
}

} // namespace hflex::scheduler
