// Which instances are linked: the one rule, used when an instance comes up or changes its role.
#pragma once
#include "actors/common/request.hpp"

namespace hflex::cluster {

/// A prefill instance hands its sequences to every instance that decodes; those move sequences among each other.
constexpr bool wants_kv_link(instance_role, instance_role to) { return can_decode(to); }

} // namespace hflex::cluster
