#include "actors/scaler/policy.hpp"
#include <array>

namespace hflex::scaler {

policy_factory make_fixed;

std::span<const policy_entry> policies() {
  static constexpr std::array table{
      policy_entry{"fixed", "the configured fleet, no more and no less", make_fixed},
  };
  return table;
}

result<std::unique_ptr<policy>> make_policy(const options& opts) {
  std::string known;
  for (const auto& entry : policies()) {
    if (entry.name == opts.policy) return entry.make(opts);
    known += known.empty() ? "" : ", ";
    known += entry.name;
  }
  return fail(errc::reject, "unknown scaling policy '{}': expected one of {}", opts.policy, known);
}

} // namespace hflex::scaler
