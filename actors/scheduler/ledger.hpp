// The accounts of the scheduler: applies what happened and what was decided to the view, and nothing else. Only the
// core uses it. Every amount that is added for a request is taken off again by exactly one of: prefill_finished, end,
// remove.
#pragma once
#include "actors/scheduler/output_length.hpp"
#include "actors/scheduler/policy.hpp"

namespace hflex::scheduler {

class ledger {
public:
  ledger(const options& opts, std::unique_ptr<policy> p);
  ledger(const ledger&) = delete; // the view points at the options
  ledger& operator=(const ledger&) = delete;

  const options& opts() const { return opts_; }
  const view& state() const { return view_; }
  policy& chooser() { return *policy_; }

  /// The attempt of that request that is known, waiting or placed; there is one at most.
  std::optional<request_key> known_attempt(request_id id) const;
  /// Takes a request in that is not known. It waits once it is queued; before that it may only be placed.
  void take_in(const request_arrived& r, time_point now);
  const waiting_request& newcomer() const { return newcomer_; }
  bool has_newcomer() const { return has_newcomer_; } ///< taken in, neither placed nor queued
  void queue_newcomer();
  void enqueue(const request_arrived& r, time_point now) {
    take_in(r, now);
    queue_newcomer();
  }
  /// Takes a waiting request out: it was shed or ended.
  void drop_waiting(request_key key);
  /// Moves a waiting request, or the newcomer, onto its instances. Breaking the rules of placement is a bug of the
  /// policy: checked.
  void place(request_key key, const placement& to, time_point now);
  /// `cached_tokens`: that the instance turned out to have in its prefix cache, where that is known.
  void finish_prefill(request_key key, std::optional<std::uint32_t> cached_tokens, time_point now);
  /// Reserves what a decoding request will need at `to`; returns where it is. Checked like place().
  instance_id begin_move(request_key key, instance_id to);
  /// It is at `at` now: what it held at the other end is free. Ignored when no move to there was under way.
  void end_move(request_key key, instance_id at);
  /// Forgets a request wherever it is; false when it was not known.
  bool end(request_key key, std::optional<std::uint32_t> output_tokens);

  void add_instance(const instance_ready& ready, time_point now);
  void remove_instance(instance_id id);
  void expect_weights(instance_id id, duration due, time_point now);
  void set_draining(instance_id id);
  void set_role(instance_id id, instance_role role);
  void report(const step_reported& r, time_point now);

private:
  instance_load* find(instance_id id);
  void set_weights_due(instance_load& at, duration due, time_point now);
  void start_decoding(placed_request& p, time_point now, instance_load& at);
  void take_off(placed_request& p);
  void take_off_promise(placed_request& p);
  void correct_work(placed_request& p, std::uint32_t cached_tokens, instance_load& at);
  void leave_prefill(placed_request& p, request_key key, instance_load& at);
  void leave_residents(placed_request& p, instance_load& at);
  void join_residents(placed_request& p, request_key key, instance_load& at);
  void return_credit(const placed_request& finished, request_key key, instance_load& at);
  void leave_tier(const placed_request& p, instance_load& at);
  void credit_prefill(instance_load& at, std::uint64_t tokens);
  void changed(const instance_load& at) { policy_->changed(view_, at); }
  void fleet_changed();

  options opts_;
  std::unique_ptr<policy> policy_;
  view view_;
  output_length_predictor lengths_;
  prefix_index prefixes_;
  id_map slots_;                      ///< of instances, by id
  std::vector<instance_load*> loads_; ///< by slot; null: free
  waiting_request newcomer_;
  bool has_newcomer_{false};
  std::uint64_t next_order_{1};
};

} // namespace hflex::scheduler
