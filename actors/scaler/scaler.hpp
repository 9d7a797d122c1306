// The scaler: keeps the fleet that is wanted alive: starts what is missing, on which device, changes the role of what
// is too much on one side and missing on the other, stops what is too much, and judges the operator's commands (role
// change, drain, scale). Called by scaler_actor and by the simulator, one event at a time. How many instances of each
// role are wanted is a policy's business (policies/), within the limits of the options; the core only makes it so. It
// must not read a clock, spawn anything itself or place requests.
//
//   start_instance --started--> starting --ready--> ready --stop_instance--> stopping --gone--> (forgotten)
//        \-- failed | deadline over | node gone | gone: forgotten, its slot rests for the backoff, tried again
//        elsewhere
#pragma once
#include "actors/common/demand.hpp"
#include "actors/common/ids.hpp"
#include "actors/common/request.hpp"
#include "actors/common/result.hpp"
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace hflex::scaler {

// --- events ---------------------------------------------------------------------------------------------------------

/// A device and how many instances it can hold.
struct device_slot {
  std::uint32_t index{};
  std::uint32_t max_instances{1};
};

/// An instance that a node runs already when it joins (it outlived a restart of the head): adopted as ready.
struct running_instance {
  instance_id instance;
  std::uint32_t device_index{};
  instance_role role{instance_role::mixed};
};

/// A node joined, or joined again: what it has and runs now replaces what was known of it.
struct node_up {
  node_id node;
  std::vector<device_slot> devices;
  std::vector<running_instance> running;
};

struct node_gone {
  node_id node;
};

enum class instance_phase : std::uint8_t { started, ready, failed, gone };

/// What became of an instance. `failed` and `gone` are final; both free the slot.
struct instance_state {
  instance_id instance;
  instance_phase phase{instance_phase::started};
  std::string reason;         ///< of `failed` and `gone`, for people
  bool weights_coming{false}; ///< of `ready`: it serves before the last of its weights is there; then weights_there
};

/// All weights of an instance are there that was ready before: its start took until now.
struct weights_there {
  instance_id instance;
};

/// The role flip is done; the instance is ready in its new role.
struct role_changed {
  instance_id instance;
  instance_role role{instance_role::mixed};
  duration drained{}; ///< of it, until the residents had gone; for the log
};

/// What is asked of the fleet since the report before: each quarter of a second or so while anything happens.
struct demand_reported {
  demand_report demand;
};

struct tick {};

// Commands of an operator. Each is answered within the same on(): refused when a refuse{} is among the effects, else
// accepted.

/// Flip a ready instance to another role. The wanted fleet follows, so that it is not flipped back; a policy of its own
/// mind leaves it alone for options::hand_hold.
struct request_role_change {
  instance_id instance;
  instance_role to{instance_role::mixed};
};

/// Take an instance out of the fleet for good: it drains, ends and is not replaced.
struct drain_instance {
  instance_id instance;
};

/// Empty a node: its instances drain and are replaced on other nodes where there is room; nothing new starts there.
/// Ended by its next node_up.
struct drain_node {
  node_id node;
};

/// Another size, or other limits. Under a policy of its own mind, `count` holds the role at that number until
/// `automatic` says that the policy decides again.
struct request_scale {
  std::optional<instance_role> role; ///< may be left out where there is only one
  std::optional<std::uint32_t> count;
  std::optional<std::uint32_t> min_instances; ///< of all roles together
  std::optional<std::uint32_t> max_instances;
  bool automatic{false};
};

// --- effects --------------------------------------------------------------------------------------------------------

struct start_instance {
  instance_id instance; ///< new, allocated here
  device_id device;
  instance_role role{instance_role::mixed};
};

struct stop_instance {
  instance_id instance;
  bool drain{true}; ///< false: end at once (a start that took too long)
};

struct change_role {
  instance_id instance;
  instance_role from{instance_role::mixed};
  instance_role to{instance_role::mixed};
};

/// A command is not carried out.
struct refuse {
  std::string command; ///< as a person would write it: "change role of i3 to decode"
  std::string reason;
};

/// Call on(tick{}, now) at that time. Only the earliest matters.
struct wake_at {
  time_point when;
};

/// A number that a decision stands on, with its unit in its name: "arrivals_rps".
struct basis {
  std::string_view name; ///< a literal
  double value{};
};

/// For the log: what was decided and why.
struct note {
  std::string why;
  std::vector<basis> numbers; ///< of a policy's decision
  bool advice{false};         ///< dry run: not carried out
};

using effect = std::variant<start_instance, stop_instance, change_role, refuse, wake_at, note>;

// --- options --------------------------------------------------------------------------------------------------------

/// So many instances of a role.
struct fleet_line {
  instance_role role{instance_role::mixed};
  std::uint32_t count{};
};

struct options {
  std::string policy{"fixed"};                        ///< a name from policies() (policy.hpp)
  std::vector<fleet_line> fleet;                      ///< wanted; one line per role
  duration start_deadline{std::chrono::seconds{120}}; ///< start_instance to ready
  duration backoff_first{
      std::chrono::milliseconds{500}}; ///< rest of a device after its first failed start, doubled each time
  duration backoff_max{std::chrono::seconds{60}};
  std::uint32_t expect_nodes{1}; ///< the first instances are placed once so many nodes are up, so that they spread ...
  duration expect_for{std::chrono::seconds{5}}; ///< ... or when the first has waited this long for the others
  std::uint32_t first_instance{1};              ///< ids are counted up from here; above any adopted one
  std::uint32_t min_instances{0};               ///< of all roles together; a policy's wish is brought within them
  std::uint32_t max_instances{1024};
  bool dry_run{false};                          ///< what the policy wants is only noted; the configured fleet stands
  duration lead_time{std::chrono::seconds{10}}; ///< of a start, before one was measured
  duration hand_hold{std::chrono::minutes{5}};  ///< after a role was changed by hand: so long there are as many
                                                ///< of that role, and that one is neither flipped nor stopped
  std::size_t max_decisions{256};               ///< kept for `hflex explain --scaling`
  /// Numbers of the policies that may be tuned, "policy.knob" -> value: those of policies() (policy.hpp), which know
  /// their defaults and ranges.
  std::map<std::string, double> knobs;
};

/// A note as it is kept: for `hflex explain --scaling`.
struct decision {
  std::uint64_t number{}; ///< grows by one
  time_point when;
  note what;
};

// --- the core -------------------------------------------------------------------------------------------------------

class policy;
struct fleet_view;

class core {
public:
  /// errc::reject for an unknown policy, a role listed twice or an option out of range.
  static result<core> make(const options& opts);
  core(core&&) noexcept;
  core& operator=(core&&) noexcept;
  ~core();

  void on(const node_up& e, time_point now, std::vector<effect>& out);
  void on(const node_gone& e, time_point now, std::vector<effect>& out);
  void on(const instance_state& e, time_point now, std::vector<effect>& out);
  void on(const weights_there& e, time_point now, std::vector<effect>& out);
  void on(const role_changed& e, time_point now, std::vector<effect>& out);
  void on(const request_role_change& e, time_point now, std::vector<effect>& out);
  void on(const drain_instance& e, time_point now, std::vector<effect>& out);
  void on(const drain_node& e, time_point now, std::vector<effect>& out);
  void on(const request_scale& e, time_point now, std::vector<effect>& out);
  void on(const demand_reported& e, time_point now, std::vector<effect>& out);
  void on(const tick& e, time_point now, std::vector<effect>& out);

  /// The latest options::max_decisions notes, oldest first.
  const std::deque<decision>& decisions() const;
  /// What runs where, to read: for topology, metrics, tests.
  const fleet_view& state() const;

private:
  core(const options& opts, std::unique_ptr<policy> p);
  struct kept;
  struct chronicle;
  std::unique_ptr<kept> kept_;
};

} // namespace hflex::scaler
