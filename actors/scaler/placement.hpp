// Where a new instance starts. A pure function of the fleet; the core asks it, it changes nothing.
#pragma once
#include "actors/scaler/policy.hpp"

namespace hflex::scaler {

/// Instances on that device, those that still drain included: they hold its memory.
std::uint32_t used_slots(const fleet_view& v, device_id device);

/// The device for one more instance of `role`: a free slot on a node that is not draining and a device that is not
/// resting. Prefill keeps away from nodes with decode and the reverse (their loads and their failures should not
/// coincide); then the emptier node, the emptier device, the lower id. Nothing when there is no such slot.
std::optional<device_id> place_instance(const fleet_view& v, instance_role role, time_point now);

/// When the first resting device with a free slot may be used again; nothing when none rests.
std::optional<time_point> next_rested(const fleet_view& v, time_point now);

} // namespace hflex::scaler
