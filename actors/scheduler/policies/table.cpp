#include "actors/scheduler/policy.hpp"
#include <array>

namespace hflex::scheduler {

policy_factory make_hyperflexis, make_least_loaded, make_round_robin;

std::span<const policy_entry> policies() {
  static constexpr std::array table{
      policy_entry{"hyperflexis", "deadline order, step budgets, late binding, best fit", step_policy::slack_budget,
          make_hyperflexis},
      policy_entry{"least_loaded", "first come, first served, to the instance with the fewest tokens outstanding",
          step_policy::fixed_budget, make_least_loaded},
      policy_entry{"round_robin", "first come, first served, to each instance in turn", step_policy::fixed_budget,
          make_round_robin},
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

result<std::unique_ptr<policy>> make_policy(const options& opts) {
  return find_policy(opts.policy).map([&](const policy_entry& entry) { return entry.make(opts); });
}

} // namespace hflex::scheduler
