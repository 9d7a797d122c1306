// The router's core: accepts jobs and tracks each to exactly ONE terminal outcome (finished, shed, cancelled, failed).
// Called by the router's shell, which tokenises before and detokenises after, and by the simulator. It places nothing
// (the scheduler does), runs nothing (instances do) and reads no clock.
//
//   submit -> waiting --placed--> running --ended--> finished
//                ^                   |
//                +---- retry --------+  (instance gone, handed back, silent for too long, a gap in its tokens:
//                                        the next attempt starts at prompt + tokens produced so far)
//   from both: shed | cancel, client_gone -> cancelled | deadline, attempts used up, reject, fatal -> failed
//
// What an instance says counts only under the request's current attempt; token indices make replays harmless.
#pragma once
#include "actors/common/prefix_marks.hpp"
#include "actors/common/request.hpp"
#include "actors/common/result.hpp"
#include "actors/common/slo.hpp"
#include "actors/router/job.hpp"
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace hflex::router {

struct options {
  std::vector<slo_class> classes;               ///< at least one
  std::string default_class;                    ///< names one of `classes`; taken when a submit names none
  std::uint32_t max_context{2048};              ///< prompt + output tokens that the model can hold
  std::uint32_t default_max_output_tokens{256}; ///< taken, cut to the context, when a submit sets no limit
  std::vector<token_id> eos_tokens;             ///< end a request that does not ignore them
  std::size_t max_in_flight{4096};              ///< accepted and not ended; more are refused
  std::size_t max_history{1024};                ///< ended requests kept for jobs(), job() and wait
  std::size_t max_waiters{64};                  ///< clients waiting for one request
  std::optional<hash_key> prefix_key;           ///< random, and this router's secret; nothing: no prefix marks
  std::size_t max_held_tokens{64};              ///< tokens of one request that overtook others and wait for them
  std::uint32_t max_attempts{3}; ///< tries of one request before it fails with the last cause; those that
                                 ///< a leaving instance hands back do not count
  duration request_timeout{std::chrono::minutes{10}}; ///< arrival to end
  duration stage_timeout{std::chrono::seconds{30}};   ///< longest silence of an attempt that was placed
  duration reorder_timeout{
      std::chrono::milliseconds{500}}; ///< longest wait for a token that was overtaken by later ones
};

// ---- events ----

/// A client's request, already tokenised. Answered by `accepted` or `refused` with the same client and client_ref.
struct submit {
  client_id client{};
  std::uint64_t client_ref{}; ///< the client's own number for this submit
  std::vector<token_id> prompt;
  std::optional<std::uint32_t> max_output_tokens; ///< nothing: the default, cut to what the context leaves
  sampling_params sampling{};
  bool ignore_eos{false};
  std::string slo_class;        ///< empty: the default class
  std::optional<duration> ttft; ///< overrides the class's target
  std::optional<duration> tpot;
  bool detach{false}; ///< goes on when the client is gone; sends no client_tokens, client_done as ever
};
/// Ends a request on someone's demand. Answered by `cancel_result`.
struct cancel {
  client_id by{};
  request_id id{};
};
/// A client's connection ended: its undetached requests are cancelled, its waits forgotten.
struct client_gone {
  client_id client{};
};
/// Tell `client` once `id` has ended. Answered by one `wait_done`, at once when it has ended already or is unknown.
struct wait {
  client_id client{};
  request_id id{};
};
/// From the scheduler: run it there. `prefill == decode` when one instance does both.
struct placed {
  request_key key{};
  instance_id prefill{};
  instance_id decode{};
};
/// From the scheduler: its targets cannot be met and its class says shed.
struct shed {
  request_key key{};
  std::string reason;
};
/// Output tokens [first_index, first_index + ids.size()) of a request, counted over all attempts. A repeated index is
/// ignored. A gap fails the attempt, unless another instance of the attempt may still fill it (a decode instance's
/// tokens can overtake the prefill instance's).
struct tokens {
  request_key key{};
  instance_id instance{};
  std::uint32_t first_index{};
  std::vector<token_id> ids;
  std::uint32_t cached_prompt_tokens{}; ///< that `instance` did not have to compute
};
/// Sign of life of an attempt that has no token to show yet (a long prefill, a long queue): restarts the stage
/// deadline.
struct progress {
  request_key key{};
  instance_id instance{};
};
/// The sequence is complete: all its tokens were sent before this, but another instance's may still be on their way.
struct ended {
  request_key key{};
  instance_id instance{};
  stop_cause cause{};
  std::uint32_t cached_prompt_tokens{}; ///< as in tokens: there may have been none
  std::uint32_t output_tokens{};        ///< over all attempts, wherever they were made; 0: not known
};
/// From the scheduler: move its decoding from `from` to `to` while it goes on. Answered by one to_scheduler_moved,
/// unless the attempt ends first.
struct move {
  request_key key{};
  instance_id from{};
  instance_id to{};
};
/// The decode phase moved, live, to another instance. Tokens that come from `to` before this say the same.
struct migrated {
  request_key key{};
  instance_id to{};
};
/// It did not: it goes on where it is.
struct migration_failed {
  request_key key{};
  instance_id to{};
  std::string reason;
};
/// An instance gives a request up. retry, reroute: another attempt; reject, fatal: the request fails.
struct handed_back {
  request_key key{};
  instance_id instance{};
  errc code{};
  std::string reason;
  bool leaving{false}; ///< the instance leaves the fleet or its role: another attempt follows that does not count
};
/// From the cluster: the instance is dead; instance ids are never used twice.
struct instance_gone {
  instance_id instance{};
};
/// The time of a `wake_at` has come (early or spurious ticks do no harm).
struct tick {};

// ---- effects ----

struct accepted {
  client_id client{};
  std::uint64_t client_ref{};
  request_id id{};
};
/// What was wrong and what is allowed, in words for the person who sent it.
struct refused {
  client_id client{};
  std::uint64_t client_ref{};
  std::string reason;
};
/// To the scheduler: place this attempt.
struct to_scheduler_arrived {
  request_key key{};
  time_point arrival{};              ///< of the request, not of the attempt
  std::uint32_t context_tokens{};    ///< to prefill: prompt + produced
  std::uint32_t prompt_tokens{};     ///< the client's part of it
  std::uint32_t produced{};          ///< output tokens of earlier attempts; the next due is token `produced`
  std::uint32_t max_output_tokens{}; ///< over all attempts
  std::string slo_class;
  slo_targets targets{};
  std::vector<prefix_mark> prefix; ///< of what is to prefill; none without options::prefix_key
};
/// To the scheduler: this attempt's first token came; its prefill is done.
struct to_scheduler_prefill_finished {
  request_key key{};
  std::uint32_t cached_prompt_tokens{}; ///< that its instance did not have to compute
};
/// To the scheduler: forget this attempt and free what it reserved. Follows every to_scheduler_arrived once, unless the
/// scheduler shed the attempt itself.
struct to_scheduler_ended {
  request_key key{};
  std::optional<hflex::outcome> outcome; ///< nothing: the request goes on under another attempt
  std::uint32_t output_tokens{};         ///< so far, over all attempts
};
/// To the scheduler: a move that it asked for is over.
struct to_scheduler_moved {
  request_key key{};
  instance_id at{};   ///< where it decodes
  std::string reason; ///< why it stayed; empty: it moved
};
/// Tell the instance to move the attempt to `to`.
struct migrate_at {
  instance_id instance{};
  request_key key{};
  instance_id to{};
};
/// Give it to these instances.
struct start {
  sequence_spec spec;
  instance_id prefill{};
  instance_id decode{};
};
/// Tell the instance to drop the attempt (unknown there: nothing to do).
struct cancel_at {
  instance_id instance{};
  request_key key{};
};
struct cancel_result {
  client_id by{};
  request_id id{};
  bool cancelled{false};
  std::string answer;
};
/// New output tokens for the submitter, each index exactly once and in order.
struct client_tokens {
  client_id client{};
  request_id id{};
  std::uint32_t first_index{};
  std::vector<token_id> ids;
};
/// The one end of an accepted request. No client (a detached request's is gone): for the journal only.
struct client_done {
  client_id client{};
  request_id id{};
  job_record record;
};
/// Answer to `wait`. No record: `reason` says why (unknown or forgotten id, too many waiters).
struct wait_done {
  client_id client{};
  request_id id{};
  std::optional<job_record> record;
  std::string reason;
};
/// Call on(tick{}) at that time; only the earliest matters.
struct wake_at {
  time_point time{};
};

using effect = std::variant<accepted, refused, to_scheduler_arrived, to_scheduler_prefill_finished, to_scheduler_ended,
    start, cancel_at, cancel_result, client_tokens, client_done, wait_done, wake_at, to_scheduler_moved, migrate_at>;

class core {
public:
  /// `opts.default_class` must name one of `opts.classes` (the config loader has checked it).
  explicit core(options opts);

  void on(const submit& e, time_point now, std::vector<effect>& out);
  void on(const cancel& e, time_point now, std::vector<effect>& out);
  void on(const client_gone& e, time_point now, std::vector<effect>& out);
  void on(const wait& e, time_point now, std::vector<effect>& out);
  void on(const placed& e, time_point now, std::vector<effect>& out);
  void on(const shed& e, time_point now, std::vector<effect>& out);
  void on(const tokens& e, time_point now, std::vector<effect>& out);
  void on(const progress& e, time_point now, std::vector<effect>& out);
  void on(const ended& e, time_point now, std::vector<effect>& out);
  void on(const move& e, time_point now, std::vector<effect>& out);
  void on(const migrated& e, time_point now, std::vector<effect>& out);
  void on(const migration_failed& e, time_point now, std::vector<effect>& out);
  void on(const handed_back& e, time_point now, std::vector<effect>& out);
  void on(const instance_gone& e, time_point now, std::vector<effect>& out);
  void on(const tick& e, time_point now, std::vector<effect>& out);

  /// Accepted and not ended.
  std::size_t in_flight() const { return jobs_.size(); }
  /// In flight and remembered, oldest id first.
  std::vector<job_record> jobs() const;
  /// Nothing for an id that is unknown or fell out of the history. Valid until the next event.
  const job_record* job(request_id id) const;
  const options& configuration() const { return opts_; }

private:
  /// One request in flight. What follows `attempt` is of the current attempt only.
  struct request {
    job_record record;
    std::vector<token_id> prompt;
    sampling_params sampling;
    bool ignore_eos{false};
    bool detach{false};
    bool on_time{true};              ///< every token so far met its own deadline
    std::optional<time_point> timer; ///< its entry in timers_
    std::vector<client_id> waiters;

    std::uint32_t attempt{1};
    std::uint32_t excused{0};        ///< attempts that do not count: their instances left while they waited
    std::vector<instance_id> places; ///< instances that may have it, prefill first, each once
    bool saw_token{false};
    bool decoding{false};                   ///< the decode instance has spoken: the prefill instance is needed no more
    std::map<std::uint32_t, token_id> held; ///< tokens that overtook others
    std::optional<ended> held_end;          ///< that overtook tokens
    instance_id moving_to;                  ///< a move is under way
    std::optional<time_point> gap_since;    ///< since when something is held
    time_point last_sign{};

    request_key key() const { return {record.id, attempt}; }
    bool at(instance_id instance) const;
    bool depends_on(instance_id instance) const;
    void forget_attempt();
  };

  request* current(request_key key);
  request* running(request_key key);
  bool complete(const request& r) const;
  time_point deadline(const request& r) const;
  std::vector<prefix_mark> marks_of(const request& r) const;
  void arrive(request& r, std::vector<effect>& out);
  static void note_cached(request& r, instance_id by, std::uint32_t prompt_tokens);
  static void note_place(request& r, instance_id at);
  void take_over(request& r, instance_id by, std::vector<effect>& out);
  void append(request& r, const token_id* ids, std::size_t count, time_point now, std::vector<effect>& out);
  void hold(request& r, const tokens& e, time_point now, std::vector<effect>& out);
  void conclude(request& r, stop_cause cause, time_point now, std::vector<effect>& out);
  void give_up(const request& r, instance_id except, std::vector<effect>& out);
  void fail_attempt(
      request& r, instance_id except, errc code, const std::string& cause, time_point now, std::vector<effect>& out);
  void finish(request& r, hflex::outcome how, std::string reason, time_point now, std::vector<effect>& out);
  void expire(request& r, time_point now, std::vector<effect>& out);
  void remember(job_record record);
  void arm(request& r);
  void announce(std::vector<effect>& out);

  options opts_;
  std::uint64_t last_id_{0};
  std::map<request_id, request> jobs_;
  std::map<request_id, job_record> history_;
  std::deque<request_id> ends_; ///< of history_, oldest end first
  std::set<std::pair<time_point, request_id>>
      timers_;                          ///< one entry per request in flight, never later than its deadline
  std::optional<time_point> announced_; ///< the last wake_at, until it has come
  std::set<instance_id> gone_;          ///< the latest deaths: a placement may cross one
};

} // namespace hflex::router
