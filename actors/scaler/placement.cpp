#include "actors/scaler/placement.hpp"
#include <tuple>

namespace hflex::scaler {

namespace {

template <class Predicate>
std::uint32_t count(const fleet_view& v, Predicate which) {
  std::uint32_t n = 0;
  for (const auto& [id, i] : v.instances) n += which(i) ? 1 : 0;
  return n;
}

std::uint32_t opposites(const fleet_view& v, node_id node, instance_role role) {
  if (role == instance_role::mixed) return 0;
  const auto other = role == instance_role::prefill ? instance_role::decode : instance_role::prefill;
  return count(v,
      [&](const fleet_instance& i) { return i.device.node == node && i.role == other && i.phase != life::stopping; });
}

template <class Visit>
void each_free_device(const fleet_view& v, Visit visit) {
  for (const auto& [id, node] : v.nodes) {
    if (node.draining) continue;
    for (const auto& [index, device] : node.devices)
      if (used_slots(v, {id, index}) < device.max_instances) visit(device_id{id, index}, device);
  }
}

} // namespace

std::uint32_t used_slots(const fleet_view& v, device_id device) {
  return count(v, [&](const fleet_instance& i) { return i.device == device; });
}

std::optional<device_id> place_instance(const fleet_view& v, instance_role role, time_point now) {
  using score = std::tuple<std::uint32_t, std::uint32_t, std::uint32_t, device_id>;
  std::optional<score> best;
  each_free_device(v, [&](device_id id, const device_state& device) {
    if (device.rests_until > now) return;
    const auto on_node = count(v, [&](const fleet_instance& i) { return i.device.node == id.node; });
    const score here{opposites(v, id.node, role), on_node, used_slots(v, id), id};
    if (!best || here < *best) best = here;
  });
  if (!best) return std::nullopt;
  return std::get<device_id>(*best);
}

std::optional<time_point> next_rested(const fleet_view& v, time_point now) {
  std::optional<time_point> first;
  each_free_device(v, [&](device_id, const device_state& device) {
    if (device.rests_until > now && (!first || device.rests_until < *first)) first = device.rests_until;
  });
  return first;
}

} // namespace hflex::scaler
