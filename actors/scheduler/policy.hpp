// The interface of a scheduling policy, and the table of those there are. A policy decides who goes where; the core
// keeps the accounts and calls it. One policy is one file in policies/ and one line in policies/table.cpp.
#pragma once
#include "actors/scheduler/standing.hpp"
#include "actors/scheduler/view.hpp"
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace hflex::scheduler {

/// Where a request goes.
struct placement {
  instance_id prefill;
  instance_id decode;              ///< the same when collocated
  std::uint32_t reserved_blocks{}; ///< on `decode`, at most its free_blocks(); 0 = none
  bool best_effort{false};         ///< its targets are lost: they bind nobody
  explanation why;
};

/// What a plan may do. Each takes effect at once: the view that the policy reads is up to date after it.
class decisions {
public:
  virtual ~decisions() = default;
  virtual void dispatch(request_key key, placement to) = 0;
  virtual void shed(request_key key, std::string reason) = 0;
  /// Move a request that decodes, live, to another instance that can decode and has the blocks: it goes on here until
  /// its KV is there. At most one move of a request is under way (view: placed_request::moving_to).
  virtual void migrate(request_key key, instance_id to, explanation why) = 0;
  /// Plan again at that time, if nothing happens before.
  virtual void wake(time_point when) = 0;
  /// For people: a waiting request lost its place in the plan. Changes nothing.
  virtual void demoted(request_key, const explanation&) {}
  /// For people: a mixed instance is used for this alone from now on, or (mixed) for both again. Changes nothing.
  virtual void used_for(instance_id, instance_role) {}
};

class policy {
public:
  virtual ~policy() = default;
  /// A request began to wait / waits no more (placed, shed or ended): for policies that keep an order of their own.
  virtual void queued(const view&, const waiting_request&) {}
  virtual void unqueued(const view&, const waiting_request&) {}
  /// The accounts of that instance, or its place in the fleet, are others now: for policies that keep a table of the
  /// instances. Called for each change, so it should only take note.
  virtual void changed(const view&, const instance_load&) {}
  /// That instance is about to go; nothing is placed on it any more.
  virtual void gone(const view&, const instance_load&) {}
  /// Nobody waits and `w` has just come: dispatch it at once, if that is what plan() would do after queued(). If not,
  /// it will be queued.
  virtual void place_newcomer(const view&, const waiting_request&, time_point, decisions&) {}
  /// Called after every event, when requests wait. Deterministic: a function of the view, `now` and what it was told
  /// before.
  virtual void plan(const view& v, time_point now, decisions& d) = 0;
  /// That request has come, for the first time or again, and will be placed or queued; it has finished well, with so
  /// many output tokens: for policies that learn what requests are like.
  virtual void arrived(const view&, const waiting_request&) {}
  virtual void finished(const view&, const placed_request&, std::uint32_t) {}
  /// Whether its plans reckon with instance_load::weights_at. For one that does not, an instance whose weights are
  /// under way takes no request until they are there.
  virtual bool reckons_with_weights() const { return false; }
  /// Whether mixed instances prefill or decode under it for now, not both: such a fleet serves more.
  virtual bool mixed_apart() const { return false; }
  /// Instances that its plans have looked at so far, where it counts them: a measure of work.
  virtual std::uint64_t looks() const { return 0; }
  /// Called after every event, after plan(), whether requests wait or not: for those who move what is placed already.
  virtual void balance(const view&, time_point, decisions&) {}
  /// How a waiting request stands by now, for people. Called only when somebody asks; changes no decision.
  virtual standing explain(const view& v, request_key key, time_point) { return standing_by_arrival(v, key); }
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
  step_policy steps; ///< how the instances' batchers plan their steps under this policy
  policy_factory* make;
  knob_list* knobs{}; ///< none: nothing to tune
};

/// By name.
std::span<const policy_entry> policies();
/// errc::reject for an unknown name; the message lists the known ones.
result<policy_entry> find_policy(std::string_view name);
/// errc::reject for an unknown policy or knob, or a knob out of its range.
result<std::unique_ptr<policy>> make_policy(const options& opts);
/// What instances whose steps weigh prefill add to a deadline per prefill token left: qoserve's knob, or what suits
/// the others.
duration prefill_weight_of(const options& opts);

} // namespace hflex::scheduler
