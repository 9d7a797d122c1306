#include "actors/scaler/policy.hpp"
#include <algorithm>

namespace hflex::scaler {

std::uint32_t fleet_view::running(instance_role role) const {
  return static_cast<std::uint32_t>(std::count_if(instances.begin(), instances.end(),
      [&](const auto& i) { return i.second.role == role && i.second.phase != life::stopping; }));
}

std::uint32_t fleet_view::running() const {
  return static_cast<std::uint32_t>(std::count_if(
      instances.begin(), instances.end(), [](const auto& i) { return i.second.phase != life::stopping; }));
}

std::uint32_t fleet_view::ready(instance_role role) const {
  return static_cast<std::uint32_t>(std::count_if(instances.begin(), instances.end(),
      [&](const auto& i) { return i.second.role == role && i.second.phase == life::ready; }));
}

bool fleet_view::disaggregated() const {
  const auto mixed = configured.find(instance_role::mixed);
  if (mixed != configured.end() && mixed->second > 0) return false;
  return configured.count(instance_role::prefill) + configured.count(instance_role::decode) > 0;
}

} // namespace hflex::scaler
