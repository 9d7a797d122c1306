#include "actors/scaler/policy.hpp"
#include <algorithm>
#include <array>

namespace hflex::scaler {

policy_factory make_fixed, make_hyperflexis, make_utilisation, make_blitzscale, make_reactive, make_polyserve;
knob_list hyperflexis_knobs, utilisation_knobs, blitzscale_knobs, reactive_knobs, polyserve_knobs;

std::span<const policy_entry> policies() {
  static constexpr std::array table{
      policy_entry{"fixed", "the configured fleet, no more and no less", make_fixed},
      policy_entry{"hyperflexis", "supply within the SLOs for the load that is forecast for when a start is ready",
          make_hyperflexis, hyperflexis_knobs},
      policy_entry{"utilisation",
          "requests in hand per instance near a target, with a stabilisation window (as HPA does)", make_utilisation,
          utilisation_knobs},
      policy_entry{"blitzscale", "load bounds on prefill throughput and KV memory (BlitzScale)", make_blitzscale,
          blitzscale_knobs},
      policy_entry{
          "reactive", "one more when targets are missed, one less after a quiet time", make_reactive, reactive_knobs},
      policy_entry{"polyserve", "one more when requests pend, one less when an instance is empty (PolyServe)",
          make_polyserve, polyserve_knobs},
  };
  return table;
}

double knob::of(const options& opts) const {
  const auto set = opts.knobs.find(std::string(name));
  return set == opts.knobs.end() ? value : set->second;
}

result<policy_entry> find_policy(std::string_view name) {
  std::string known;
  for (const auto& entry : policies()) {
    if (entry.name == name) return entry;
    known += known.empty() ? "" : ", ";
    known += entry.name;
  }
  return fail(errc::reject, "unknown scaling policy '{}': expected one of {}", name, known);
}

namespace {

result<void> check_knobs(const options& opts) {
  for (const auto& [name, value] : opts.knobs) {
    const knob* found = nullptr;
    std::string known;
    for (const auto& entry : policies()) {
      if (!entry.knobs) continue;
      for (const auto& k : entry.knobs()) {
        if (k.name == name) found = &k;
        known += known.empty() ? "" : ", ";
        known += k.name;
      }
    }
    if (!found) return fail(errc::reject, "unknown scaling knob '{}': expected one of {}", name, known);
    if (!(value >= found->least && value <= found->most))
      return fail(errc::reject, "scaling knob {}: expected {} to {}, got {}", name, found->least, found->most, value);
  }
  return {};
}

} // namespace

result<std::unique_ptr<policy>> make_policy(const options& opts) {
  const auto entry = find_policy(opts.policy);
  if (!entry) return pass(entry.error());
  if (auto ok = check_knobs(opts); !ok) return pass(ok.error());
  return entry->make(opts);
}

} // namespace hflex::scaler
