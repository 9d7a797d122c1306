// The interface of a scaling policy, and the table of those there are: how many instances of each role are wanted. The
// core makes it so. One policy is one file in policies/ and one line in policies/table.cpp.
#pragma once
#include "actors/scaler/scaler.hpp"
#include <map>
#include <optional>
#include <span>
#include <string_view>

namespace hflex::scaler {

using role_counts = std::map<instance_role, std::uint32_t>;

/// One device and how it did so far.
struct device_state {
  std::uint32_t max_instances{1};
  std::uint32_t failures{}; ///< in a row
  time_point rests_until;   ///< nothing starts there before
};

struct node_state {
  std::map<std::uint32_t, device_state> devices; ///< by index
  bool draining{false};
};

enum class life : std::uint8_t { starting, ready, flipping, stopping };

struct fleet_instance {
  device_id device;
  instance_role role{instance_role::mixed}; ///< while flipping: the role that it will have
  life phase{life::starting};
  time_point since; ///< of this phase
};

/// What runs where, and what the operator asked for. Policies read it; all iteration is in id order.
struct fleet_view {
  std::map<node_id, node_state> nodes;
  std::map<instance_id, fleet_instance> instances;
  role_counts configured; ///< options::fleet, as manual commands have changed it since
};

class policy {
public:
  virtual ~policy() = default;
  /// Deterministic: a function of the view, `now` and what it was told before.
  virtual role_counts wanted(const fleet_view& v, time_point now) = 0;
};

using policy_factory = std::unique_ptr<policy>(const options& opts);

struct policy_entry {
  std::string_view name;
  std::string_view description;
  policy_factory* make;
};

/// By name.
std::span<const policy_entry> policies();
/// errc::reject for an unknown name; the message lists the known ones.
result<std::unique_ptr<policy>> make_policy(const options& opts);

} // namespace hflex::scaler
