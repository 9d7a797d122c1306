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
  time_point since;                          ///< of this phase
  std::optional<time_point> loading_since{}; ///< its weights still come though it is ready: when it was ordered
  /// Its role is a person's wish: until when it is left alone, what it was before, and how many of its role that made.
  struct hand_made {
    instance_role from{};
    time_point until;
    std::uint32_t least{};
  };
  std::optional<hand_made> by_hand{};
  bool left_alone(time_point now) const { return by_hand && now < by_hand->until; }
};

/// What runs where, what is asked of it, and what the operator asked for. Policies read it; all iteration is in id
/// order.
struct fleet_view {
  std::map<node_id, node_state> nodes;
  std::map<instance_id, fleet_instance> instances;
  role_counts configured; ///< options::fleet, as manual commands have changed it since
  role_counts held;       ///< roles that a person keeps at a number, whatever the policy wants
  std::uint32_t min_instances{0};
  std::uint32_t max_instances{1024};
  demand_report demand;                ///< the latest; none before `demand_at`
  std::optional<time_point> demand_at; ///< when it came
  duration lead_time{};                ///< decision to ready: as measured lately, or options::lead_time

  /// Of that role, those that end not counted.
  std::uint32_t running(instance_role role) const;
  /// The same of all roles.
  std::uint32_t running() const;
  /// Of them, those that serve.
  std::uint32_t ready(instance_role role) const;
  /// Prefill and decode on instances of their own.
  bool disaggregated() const;
};

/// What a policy's latest answer stands on.
struct reasoning {
  std::string why; ///< a clause: "12.3 requests/s forecast"
  std::vector<basis> numbers;
};

class policy {
public:
  virtual ~policy() = default;
  /// A report came; the view has it already.
  virtual void told(const fleet_view&, const demand_report&, time_point) {}
  /// Deterministic: a function of the view, `now` and what it was told before. Called after every event. The core
  /// brings the answer within the limits and sets held roles to their numbers.
  virtual role_counts wanted(const fleet_view& v, time_point now) = 0;
  /// Of the latest wanted(). An empty one is not logged.
  virtual reasoning why() const { return {}; }
  /// When it wants to be asked again although nothing happens.
  virtual std::optional<time_point> next_look(const fleet_view&, time_point) const { return std::nullopt; }
  /// Whether an instance that is too much on one side becomes one that is missing on the other.
  virtual bool flips_roles() const { return false; }
};

/// A number of a policy that may be tuned.
struct knob {
  std::string_view name; ///< "policy.knob"
  double value;          ///< unless options::knobs says otherwise
  double least;          ///< its range, both ends included
  double most;
  std::string_view meaning; ///< with its unit

  double of(const options& opts) const;
};

using policy_factory = std::unique_ptr<policy>(const options& opts);
using knob_list = std::span<const knob>();

struct policy_entry {
  std::string_view name;
  std::string_view description;
  policy_factory* make;
  knob_list* knobs{}; ///< none: nothing to tune
};

/// By name.
std::span<const policy_entry> policies();
/// errc::reject for an unknown name; the message lists the known ones.
result<policy_entry> find_policy(std::string_view name);
/// errc::reject for an unknown policy or knob, or a knob out of its range.
result<std::unique_ptr<policy>> make_policy(const options& opts);

} // namespace hflex::scaler
