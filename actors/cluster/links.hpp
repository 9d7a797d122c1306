// Which instances are linked: the one rule, used when an instance comes up or changes its role.
#pragma once
#include "actors/common/request.hpp"

namespace hflex::cluster {

/// A prefill instance hands its sequences to every instance that decodes; decode and mixed instances hand nothing on.
constexpr bool wants_kv_link(instance_role from, instance_role to) {
  return from == instance_role::prefill && can_decode(to);
}

} // namespace hflex::cluster
