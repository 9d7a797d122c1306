// The SLO scheduler: decides which waiting request goes to which instance, when, and which one is turned away.
// Called by scheduler_actor and by the simulator, one event at a time. It keeps the accounts (who waits, what each
// instance has in hand and has promised); what to do with them is a policy's business (policies/). It must not read a
// clock, send a message or know what a token is.
//
//   request_arrived -> waiting --dispatch--> prefilling --prefill_finished--> decoding --request_ended--> (forgotten)
//                         \--shed--> (forgotten)              instance_gone: forgotten, the router re-submits
//
// Every request_arrived is answered by at most one dispatch or shed, later or at once; none when request_ended comes
// first.
#pragma once
#include "actors/common/explanation.hpp"
#include "actors/common/ids.hpp"
#include "actors/common/prefix_marks.hpp"
#include "actors/common/request.hpp"
#include "actors/common/result.hpp"
#include "actors/common/slo.hpp"
#include "actors/common/step_time.hpp"
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace hflex::scheduler {

// --- events ---------------------------------------------------------------------------------------------------------

/// A request, or a new attempt of one whose instance is gone. A higher attempt replaces what is known of lower ones; an
/// attempt that is known already, or older than the known one, is ignored.
struct request_arrived {
  request_key key;
  time_point arrival;                        ///< when the client submitted it (not when this attempt began)
  std::uint32_t tokens{};                    ///< prefill work: prompt + output tokens already produced; >= 1
  std::uint32_t prompt_tokens{};             ///< how many of `tokens` are the client's prompt
  std::uint32_t max_output_tokens{};         ///< over all attempts
  std::uint32_t produced{};                  ///< output tokens that earlier attempts delivered
  slo_targets slo;                           ///< TTFT beyond a day and TPOT beyond 10 s count as that
  std::string slo_class;                     ///< output lengths are predicted per class
  std::vector<prefix_mark> prefix;           ///< of `tokens`; none: nothing is known to be cached anywhere
  std::optional<std::uint32_t> known_output; ///< simulator, for the oracle: output tokens over its whole life
};

/// Any terminal outcome, or the attempt was given up: frees everything that was accounted for it.
struct request_ended {
  request_key key;
  std::optional<std::uint32_t>
      output_tokens; ///< over all attempts, when it finished well: trains the length prediction
};

/// Its first token (of this attempt) was seen: the prefill side is free of it, the decode side has it.
struct prefill_finished {
  request_key key;
  std::optional<std::uint32_t> cached_tokens{}; ///< that its instance had in its prefix cache, where that is known
};

/// An instance may be used from now on. A second one for the same id replaces the numbers and keeps the accounts.
struct instance_ready {
  instance_id instance;
  node_id node;
  instance_role role{instance_role::mixed};
  std::uint32_t kv_blocks{};            ///< size of its pool, >= 1
  std::uint32_t block_size{};           ///< tokens per block, >= 1
  std::uint32_t max_batched_tokens{};   ///< most tokens of one step, >= 1
  std::uint32_t max_sequences{};        ///< most sequences that it decodes at once, >= 1
  std::optional<step_time_model> model; ///< as measured at its start; options::unmeasured_model without
  duration weights_due{};               ///< expected until the last of its weights is there; 0: all are
};

/// News of an instance that became ready with weights under way: no step of it ends before the last of them is there.
struct weights_expected {
  instance_id instance;
  duration due{}; ///< from now; 0: all are there
};

struct instance_gone {
  instance_id instance;
};

/// No new placement on it; what it has goes on. Ended by instance_gone or by instance_role_changed.
struct instance_draining {
  instance_id instance;
};

/// The role flip is done: placement (again) by the new role.
struct instance_role_changed {
  instance_id instance;
  instance_role role{instance_role::mixed};
};

/// One finished step, or the latest of several.
struct step_reported {
  instance_id instance;
  step_shape shape;        ///< of the latest step
  duration elapsed{};      ///< of the latest step
  std::uint32_t running{}; ///< sequences that decode
  std::uint32_t waiting{}; ///< sequences that wait for prefill or for blocks
  std::uint32_t kv_blocks_free{};
  std::uint32_t steps{1};         ///< steps since the report before, this one included; 0: told again, with no new one
  std::uint64_t prefill_tokens{}; ///< of all those steps; 0 = the same as shape.prefill_tokens
  duration handover_wait{}; ///< how long prompts wait there for their KV to get to their decode instance, smoothed
};

/// Somebody wants this request moved, whatever the policy thinks of it. Nothing happens unless `core::movable` allows
/// it.
struct move_wanted {
  request_key key;
  instance_id to;
};

/// A migration ended: the request decodes at `at`, which is where it was when the move came to nothing.
struct moved {
  request_key key;
  instance_id at;
};

/// The time of an earlier wake_at has come. Harmless when it has not.
struct tick {};

// --- effects --------------------------------------------------------------------------------------------------------

/// Run `key` now. With prefill == decode both happen there; otherwise the KV moves to `decode` after the prefill.
struct dispatch {
  request_key key;
  instance_id prefill;
  instance_id decode;
  std::uint32_t reserved_blocks{}; ///< KV blocks for prompt and predicted output, on `decode`; 0 = none reserved
  explanation why;                 ///< for people: `hflex explain`
};

/// Terminal: the request is turned away.
struct shed {
  request_key key;
  std::string reason;
};

/// Move a decoding request to another instance. Answered by `moved`, unless it ends first.
struct migrate {
  request_key key;
  instance_id from;
  instance_id to;
  explanation why;
};

/// Call on(tick{}, now) at that time. Only the earliest matters.
struct wake_at {
  time_point when;
};

/// For people: an instance of role mixed is used for this alone from now on, or (mixed) for both again.
struct used_for {
  instance_id instance;
  instance_role duty{instance_role::mixed};
};

using effect = std::variant<dispatch, shed, migrate, wake_at, used_for>;

// --- options --------------------------------------------------------------------------------------------------------

struct options {
  std::string policy{"hyperflexis"};   ///< a name from policies() (policy.hpp)
  std::uint32_t max_queued{4096};      ///< requests that wait here; the excess is shed
  std::uint32_t max_outstanding{1024}; ///< requests that one instance has in hand, whatever the policy
  std::uint32_t max_unstarted{1024}; ///< of those, that wait for its prefill: its own queue holds no more, and what it
                                     ///< sends back is an attempt lost
  duration max_wait{std::chrono::seconds{60}};          ///< how long a request waits when no instance can serve it
  duration report_timeout{std::chrono::seconds{1}};     ///< an instance silent for longer no longer holds requests back
  duration replan_every{std::chrono::milliseconds{50}}; ///< wake up this often while requests wait
  // A request whose targets are lost, or that was demoted to save others, waits max(ageing_floor, ageing_factor * its
  // TTFT target). After that it has a right to ageing_share of the prefill tokens even while others could still attain.
  duration ageing_floor{std::chrono::seconds{30}};
  double ageing_factor{10.0};
  double ageing_share{0.1};
  double lost_after{8.0};            ///< a resident this many token times late has lost its attainment and binds nobody
  double length_quantile{0.7};       ///< of a class's output lengths: what is reserved
  std::uint32_t plan_depth{512};     ///< waiting requests that one plan looks at, at most
  std::uint32_t max_explained{4096}; ///< latest requests whose decisions are remembered for people; 0 = none
  /// Fleets of up to so many instances are walked whole for each request, so that the best place is found; in larger
  /// ones a plan looks at a few, the most promising first (hyperflexis).
  std::uint32_t walk_all_up_to{16};
  corrector_options corrector;
  /// Numbers of the policies that may be tuned, "policy.knob" -> value: those of policies() (policy.hpp), which know
  /// their defaults and ranges. A run that compares policies may set knobs of all of them.
  std::map<std::string, double> knobs;
  /// For instances that bring no model of their own; corrected by their steps like any other.
  step_time_model unmeasured_model{unmeasured_step_time};
  bool is_measured{false}; ///< that model was measured on devices like theirs: it is no guess
};

// --- the core -------------------------------------------------------------------------------------------------------

struct view;
struct standing;
struct request_story;
struct fleet_abilities;
class policy;
class decisions;

class core {
public:
  /// errc::reject for an unknown policy or knob (the message lists the known ones) or an option out of range.
  static result<core> make(const options& opts);
  core(core&&) noexcept;
  core& operator=(core&&) noexcept;
  ~core();

  void on(const request_arrived& e, time_point now, std::vector<effect>& out);
  void on(const request_ended& e, time_point now, std::vector<effect>& out);
  void on(const prefill_finished& e, time_point now, std::vector<effect>& out);
  void on(const instance_ready& e, time_point now, std::vector<effect>& out);
  void on(const weights_expected& e, time_point now, std::vector<effect>& out);
  void on(const instance_gone& e, time_point now, std::vector<effect>& out);
  void on(const instance_draining& e, time_point now, std::vector<effect>& out);
  void on(const instance_role_changed& e, time_point now, std::vector<effect>& out);
  void on(const step_reported& e, time_point now, std::vector<effect>& out);
  void on(const move_wanted& e, time_point now, std::vector<effect>& out);
  void on(const moved& e, time_point now, std::vector<effect>& out);
  void on(const tick& e, time_point now, std::vector<effect>& out);

  /// The attempt of a request that could move to an instance now. errc::retry: not yet; errc::reject: not there.
  result<request_key> movable(request_id id, instance_id to) const;

  /// The accounts, to read: for topology, metrics, tests.
  const view& state() const;
  /// Instances that the policy's plans have looked at so far, where it counts them: to watch how plans scale.
  std::uint64_t looks() const;
  /// Whether the policy has mixed instances prefill or decode for now, not both: for demand reports.
  bool mixed_apart() const;

  /// What happened to a request and why (decision_log.hpp). Nothing when it is not remembered. Valid until the next
  /// event.
  const request_story* story(request_id id) const;
  /// How a waiting request stands (standing.hpp). Nothing when it does not wait.
  std::optional<standing> explain(request_id id, time_point now);

private:
  class recorder;

  core(const options& opts, std::unique_ptr<policy> p);
  bool turn_away_if_too_big(const request_arrived& r, std::vector<effect>& out) const;
  void recheck_waiting(const fleet_abilities& before, time_point now, std::vector<effect>& out);
  void note_shed(time_point now, const std::vector<effect>& out);
  bool admit_newcomer(time_point now, std::vector<effect>& out);
  void give_up_waiting(time_point now, decisions& d);
  void plan(time_point now, std::vector<effect>& out);
  void settle(time_point now, recorder& d, std::vector<effect>& out);

  struct kept;
  std::unique_ptr<kept> kept_;
};

} // namespace hflex::scheduler
