// The pure core of an instance: which sequences live here, who holds which KV blocks, what the next step computes, and
// how a sequence is handed over between a prefill and a decode instance. Driven by the instance shells and by the
// simulator. It must not touch a device, a transport or a clock: it says in effects what to do, in their order.
//
//   add --> waiting --> running --(first token, decode_at elsewhere)--> sending --> (gone on kv_delivered)
//              ^           |
//              +-preempted-+                        offer --> offered --> receiving --(landed + committed)--> running
//
//   prefill side                                  decode side
//   offer_kv         --- offer ---------------->  blocks free? accept_offer, else wait in a bounded queue
//   open_push        <-- offer_accepted --------  (or offer_refused)
//   step entries with push_kv, push_rows          kv_landed (data plane)
//   commit_kv        --- kv_committed --------->  decoding starts when landed and committed, in either order
//   close_transfer   <-- kv_delivered (data plane)
//   abort_transfer   --- transfer_aborted ----->  whatever is left of it is dropped
//
// Who answers for the request: the prefill side until kv_delivered, the decode side from kv_landed. Where a side cannot
// know what the other has heard, it speaks: the router settles two words for one attempt by its number, silence never.
// A migration is a hand-over of a sequence that decodes, and goes on decoding meanwhile: see batcher_migration.cpp.
//
// Prefix cache: a full block of computed tokens can be found by its text until it is evicted, and a sequence starts,
// also after preemption or elsewhere, with what is found of its tokens; at least the last one is computed, whose logits
// it needs. What a hand-over brings is found as well. The cache ends with the core: after a role flip the KV memory is
// the same, but nobody knows any more what it holds.
#pragma once
#include "actors/common/request.hpp"
#include "actors/common/result.hpp"
#include "actors/common/step_time.hpp"
#include "actors/common/time.hpp"
#include "actors/instance/block_pool.hpp"
#include "actors/instance/sequence.hpp"
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

namespace hflex::instance {

// ---- options ----

/// Predicted device time of a step; never falls when the step grows.
using step_predictor = std::function<duration(const step_shape&)>;

struct options {
  instance_id self; ///< this incarnation; never 0
  instance_role role{instance_role::mixed};
  std::uint32_t block_size{16}; ///< tokens in a KV block
  std::uint32_t kv_blocks{};    ///< blocks in the pool
  std::uint32_t max_context{};  ///< positions the model was made for
  std::uint32_t vocab_size{};   ///< token ids are in [0, vocab_size)
  std::vector<token_id> eos_tokens;
  std::uint32_t max_batched_tokens{2048}; ///< tokens in a step, prefill and decode together; > max_sequences
  std::uint32_t max_sequences{256};       ///< running and receiving together
  std::uint32_t max_waiting{1024};        ///< sequences not yet started; an add beyond comes back with errc::retry
  std::uint32_t max_offers{1024}; ///< offers waiting for blocks, >= the scheduler's max_outstanding; more: errc::retry
  std::uint32_t watermark_blocks{0}; ///< kept free for running sequences to grow when others are admitted beside them
  step_policy policy{step_policy::slack_budget};
  step_predictor predict;                                ///< empty: chunks are sized as fixed_budget does
  duration prefill_weight{std::chrono::microseconds{8}}; ///< hybrid_priority: per prefill token left; >= 0
  double safety{0.03};                                   ///< share of the slack left unplanned, [0, 1)
  std::uint32_t min_chunk{16};                           ///< prefill tokens a step takes however tight the slack; >= 1
  duration transfer_lease{std::chrono::seconds{60}};     ///< offer to acknowledgement; covers the prefill
  std::uint32_t first_transfer{1}; ///< serial of the first hand-over: past those of an earlier core of this instance
  duration migration_lease{std::chrono::seconds{10}}; ///< offer to the sink's last word; after it the source goes on
  duration kv_row_time{};                             ///< to move the KV of one token to another instance; 0: no time
  std::uint32_t min_ahead{4};  ///< rows that a migration brings beyond those of the tokens offered; >= 1
  std::uint32_t max_ahead{32}; ///< the same when the data plane is slow; >= min_ahead
  bool prefix_cache{true};     ///< start with the KV blocks that already hold a sequence's first tokens
  hash_key prefix_seed;        ///< random, and this instance's secret
  bool describe_steps{true};   ///< false: entries come without tokens and block tables, for a device that needs none
};

/// errc::reject with the first option that is out of range.
result<void> check(const options& o);

// ---- step plan: same shape as gpu::step_plan, which the shell makes of it ----

struct step_entry {
  request_key key;
  std::vector<token_id> tokens;           ///< to compute at [position, position + count)
  std::uint32_t count{};                  ///< of tokens, >= 1
  std::uint32_t position{};               ///< num_computed_tokens before the step
  std::vector<std::uint32_t> block_table; ///< covers position + tokens.size() tokens
  bool sample{false};                     ///< pick a token from the last position's logits
  sampling_params sampling;
  std::uint32_t output_index{}; ///< index of the sampled token in the request's output
  bool push_kv{false};          ///< push each layer's rows of this entry to `transfer` as they complete
  transfer_id transfer;         ///< set when push_kv
};

struct step_plan {
  std::uint64_t id{};
  std::vector<step_entry> entries;
  step_shape shape;
};

// ---- events ----

/// Run this sequence here, or prefill it here and hand it over to `decode_at` (none or this instance: all of it here).
/// A key that is here already is ignored.
struct add {
  sequence_spec spec;
  instance_id decode_at;
};

/// The client or the router gave the request up. No effect answers it.
struct cancel {
  request_key key;
};

/// The step in flight ended. `sampled` is parallel to the plan's entries; whatever it holds for an entry without
/// `sample` is not looked at. Any other step id is ignored.
struct step_finished {
  std::uint64_t id{};
  std::vector<token_id> sampled;
  duration elapsed{};
  result<void> status{};
};

/// From now on take only what this role takes. What has not started and no longer fits is handed back or refused;
/// residents finish.
struct set_role {
  instance_role role{};
};

/// Take nothing new, hand back what has not started, let residents finish for `grace`, then hand them back too.
/// `retired` follows once nothing is left. A second one can only bring the end forward.
struct retire {
  duration grace{};
};

/// Move this sequence, which decodes here, to the decode instance `to`, and go on meanwhile. Answered by one `migrated`
/// or `migration_failed`, unless the attempt is over here first (ended, handed_back, cancel).
struct migrate {
  request_key key;
  instance_id to;
};

/// Time passed: see wake_at.
struct tick {};

/// The link to a peer broke, or the peer died: its transfers fail now rather than at the end of their leases.
struct peer_lost {
  instance_id peer;
};

/// Decode side, from the prefill instance `from`: hold blocks for spec.tokens. `lease` counts from arrival here,
/// and is no longer than this instance's own. `ahead`: see offer_kv.
struct offer {
  transfer_id transfer;
  sequence_spec spec;
  instance_id from;
  duration lease{};
  std::uint32_t ahead{};
};

/// Decode side, from the prefill instance: the last token sampled, whose row is not among those sent, and its output
/// index. May come before or after kv_landed.
struct kv_committed {
  transfer_id transfer;
  std::uint32_t index{};
  token_id token{};
  std::vector<token_id> earlier{}; ///< migration: the `ahead` tokens between those offered and `token`
};

/// Decode side, from the prefill instance: it gave the hand-over up (or finished the request by itself).
struct transfer_aborted {
  transfer_id transfer;
};

/// Decode side, from the data plane: every row is in the blocks.
struct kv_landed {
  transfer_id transfer;
};

/// Prefill side, from the decode instance: it holds blocks; the shell knows the sink's address and key.
struct offer_accepted {
  transfer_id transfer;
};

/// Prefill side, from the decode instance.
struct offer_refused {
  transfer_id transfer;
  error why;
  bool leaving{false}; ///< it retires
};

/// Prefill side, from the data plane: acknowledged by the sink.
struct kv_delivered {
  transfer_id transfer;
};

/// Source of a migration, from its sink: it decodes the sequence now.
struct kv_taken {
  transfer_id transfer;
};

/// Either side, from the data plane.
struct kv_failed {
  transfer_id transfer;
  error why;
};

// ---- effects, to be performed in order ----

/// Submit to the device; answered by step_finished. At most one is in flight.
struct run_step {
  step_plan plan;
};

/// To the router. Indexes of one attempt go up by one from spec.produced(); an eos token is not among them.
struct token {
  request_key key;
  std::uint32_t index{};
  token_id id{};
  std::uint32_t cached_prompt_tokens{}; ///< that this attempt did not have to compute here when it started
};

/// To the router: the sequence ended well.
struct ended {
  request_key key;
  stop_cause cause{};
  std::uint32_t cached_prompt_tokens{}; ///< as in token: it may end before it has one
  std::uint32_t output_tokens{};        ///< over all attempts and instances
};

/// To the router: this attempt is over. retry: busy; reroute: elsewhere with the tokens so far; reject: its own fault.
struct handed_back {
  request_key key;
  error why;
  bool leaving{false}; ///< as an instance retires
};

/// To the router: the sequence decodes at `to` now; nothing more of it comes from here.
struct migrated {
  request_key key;
  instance_id to;
};

/// To the router: the sequence did not leave for `to`. It goes on here, if it is here.
struct migration_failed {
  request_key key;
  instance_id to;
  error why;
};

/// Prefill side, to instance `to`: offer. `ahead` > 0: a migration, and the rows of so many tokens beyond those of
/// `spec` will come as well.
struct offer_kv {
  transfer_id transfer;
  instance_id to;
  sequence_spec spec;
  duration lease{};
  std::uint32_t ahead{};
};

/// Prefill side, to the transport: open(). `tokens` rows will be sent from the front of `block_table`.
struct open_push {
  transfer_id transfer;
  request_key key;
  std::vector<std::uint32_t> block_table;
  std::uint32_t tokens{};
  duration lease{};
};

/// Prefill side, to the transport: push rows [begin, begin + count) of every layer.
struct push_rows {
  transfer_id transfer;
  std::uint32_t begin{}, count{};
};

/// Prefill side, to instance `to`: kv_committed.
struct commit_kv {
  transfer_id transfer;
  instance_id to;
  request_key key;
  std::uint32_t index{};
  token_id token{};
  std::vector<token_id> earlier{};
};

/// Prefill side, to instance `to`: transfer_aborted.
struct abort_transfer {
  transfer_id transfer;
  instance_id to;
  request_key key;
};

/// Decode side: expect() on the transport, then offer_accepted with the address to instance `from`. `tokens` rows go to
/// the front of `block_table`; `lease` is what is left of it.
struct accept_offer {
  transfer_id transfer;
  instance_id from;
  request_key key;
  std::vector<std::uint32_t> block_table;
  std::uint32_t tokens{};
  duration lease{};
};

/// Decode side, to instance `from`: offer_refused.
struct refuse_offer {
  transfer_id transfer;
  instance_id from;
  error why;
  bool leaving{false}; ///< this instance retires
};

/// Sink of a migration, to instance `to`, its source: kv_taken.
struct take_over {
  transfer_id transfer;
  instance_id to;
  request_key key;
};

/// To the transport: close(). Its blocks may be used again by any effect after this one.
struct close_transfer {
  transfer_id transfer;
};

struct wake_at {
  time_point at; ///< send tick then
};
struct retired {}; ///< nothing is left here and nothing will be taken: the shell may end

using effect =
    std::variant<run_step, token, ended, handed_back, offer_kv, open_push, push_rows, commit_kv, abort_transfer,
        accept_offer, refuse_offer, close_transfer, wake_at, retired, migrated, migration_failed, take_over>;

/// What reports carry.
struct snapshot {
  instance_role role{};
  bool retiring{false};
  std::uint32_t running{};   ///< prefilling or decoding
  std::uint32_t waiting{};   ///< not started, or preempted
  std::uint32_t offered{};   ///< offers waiting for blocks
  std::uint32_t receiving{}; ///< hand-overs on their way in
  std::uint32_t sending{};   ///< prefilled, on their way out
  std::uint32_t kv_blocks_total{};
  std::uint32_t kv_blocks_free{};   ///< empty, or idle in the prefix cache
  std::uint32_t kv_blocks_cached{}; ///< in the prefix cache, in use or idle
  std::uint64_t steps{};            ///< finished, failed ones included
  std::uint64_t preemptions{};
  std::uint64_t started_tokens{}; ///< to compute, of the sequences that started here, each time that one did
  std::uint64_t cached_tokens{};  ///< of them, found in the prefix cache
  step_shape last_shape;          ///< of the last finished step
  duration last_elapsed{};
  duration handover_wait{}; ///< from a prefill's end until its rows are at the decode instance, smoothed; 0: none yet
};

class core {
public:
  explicit core(options o);   ///< aborts on options that `check` refuses
  core(const core&) = delete; // sequences are linked by address
  core& operator=(const core&) = delete;

  void on(const add& e, time_point now, std::vector<effect>& out);
  void on(const cancel& e, time_point now, std::vector<effect>& out);
  void on(const step_finished& e, time_point now, std::vector<effect>& out);
  void on(const set_role& e, time_point now, std::vector<effect>& out);
  void on(const retire& e, time_point now, std::vector<effect>& out);
  void on(const tick& e, time_point now, std::vector<effect>& out);
  void on(const peer_lost& e, time_point now, std::vector<effect>& out);
  void on(const offer& e, time_point now, std::vector<effect>& out);
  void on(const kv_committed& e, time_point now, std::vector<effect>& out);
  void on(const transfer_aborted& e, time_point now, std::vector<effect>& out);
  void on(const kv_landed& e, time_point now, std::vector<effect>& out);
  void on(const offer_accepted& e, time_point now, std::vector<effect>& out);
  void on(const offer_refused& e, time_point now, std::vector<effect>& out);
  void on(const kv_delivered& e, time_point now, std::vector<effect>& out);
  void on(const kv_failed& e, time_point now, std::vector<effect>& out);
  void on(const migrate& e, time_point now, std::vector<effect>& out);
  void on(const kv_taken& e, time_point now, std::vector<effect>& out);

  snapshot report() const;
  double slack_share(time_point now) const; ///< least slack of a decode that can attain, as a share of its TPOT target
  std::vector<request_key> held() const;    ///< every sequence here, in whatever stage, in the order they came
  /// Aborts unless every block is owned once and every sequence is where its stage says. O(everything); for tests.
  void check_invariants() const;

private:
  using effects = std::vector<effect>;
  struct draft;
  class chunk_budget;

  // batcher.cpp: a sequence's life
  result<void> admissible(const sequence_spec& spec) const;
  sequence& insert(sequence_spec spec, stage at);
  std::vector<sequence*>::iterator place_among_running(const sequence& s);
  void enter(sequence& s, stage at);
  void leave(sequence& s);
  void move_to(sequence& s, stage at);
  void drop(sequence& s, const error* tell_peer, effects& out);
  bool excused(const error& why) const; ///< of a hand-back, by retirement
  void hand_back(sequence& s, const error& why, effects& out);
  void give_up(sequence& s, const error& why, effects& out);
  void end_well(sequence& s, stop_cause cause, effects& out);
  void finish_entry(
      sequence& s, std::uint32_t count, bool pushed, const token_id* sampled, time_point now, effects& out);
  void take_token(sequence& s, token_id id, time_point now, effects& out);
  bool valid(token_id id) const;
  bool is_eos(const sequence& s, token_id id) const;
  void settle(time_point now, effects& out);
  void retire_if_due(time_point now, effects& out);
  void announce_wake(effects& out);

  // batcher_plan.cpp: the next step
  void plan_step(time_point now, effects& out);
  void plan_decodes(draft& d, time_point now, effects& out);
  void grant(draft& d);
  bool sits_out(sequence& s) const;
  bool may_defer(const sequence& s, const draft& d, time_point now) const;
  void relegate(draft& d, time_point now);
  void plan_prefills(draft& d, time_point now, effects& out);
  std::optional<duration> step_limit(const draft& d, time_point now) const;
  bool lost(const sequence& s, time_point now, duration decode_only) const;
  time_point due(const sequence& s) const;
  rank rank_of(const sequence& s) const;
  bool room_for(const sequence& s, const prefix_hit& hit) const;
  void take_blocks(sequence& s, const prefix_hit& hit);
  bool start(sequence& s, const prefix_hit& hit, time_point now, effects& out);
  void preempt(sequence& s, effects& out);
  void add_entry(sequence& s, std::uint32_t count, draft& d);

  // batcher_prefix.cpp: the prefix cache
  std::span<const block_hash> chain_of(sequence& s, std::uint32_t blocks);
  prefix_hit find_prefix(sequence& s);
  void publish(sequence& s);
  void check_prefix(const sequence& s) const;

  // batcher_handover.cpp: both sides of a transfer
  void link(sequence& s, const handover& h);
  void unlink(sequence& s, effects& out);
  void end_transfer(sequence& s, const error* tell_peer, effects& out);
  void offer_handover(sequence& s, time_point now, effects& out);
  void push_computed(sequence& s, effects& out);
  void commit_first(sequence& s, token_id first, time_point now, effects& out);
  void accept_offers(time_point now, effects& out);
  void begin_decode(sequence& s, effects& out);
  void expire_leases(time_point now, effects& out);
  bool lasts(const sequence_spec& spec, std::uint32_t count) const;
  result<void> check_commit(const sequence& s, const kv_committed& e) const;
  // batcher_migration.cpp: a hand-over while decoding goes on
  result<void> may_migrate(const sequence& s, instance_id to) const;
  std::uint32_t steps_ahead(const sequence& s) const;
  void stop_if_due(sequence& s, effects& out);
  void stay(sequence& s, const error& why, bool tell_peer, effects& out);
  void recall(sequence& s, const error& why, effects& out);
  sequence* find_outbound(transfer_id id);
  sequence* find_inbound(transfer_id id);
  /// What the step in flight works on.
  struct flying_entry {
    sequence* s{}; ///< none: it left meanwhile
    std::uint32_t count{};
    bool sample{false};
    bool pushed{false};
  };
  struct flying_step {
    std::uint64_t id{};
    step_shape shape;
    std::vector<flying_entry> entries;
  };
  std::optional<error> failure_of(const flying_step& step, const step_finished& e) const;

  options options_;
  std::uint32_t context_limit_; ///< tokens of a sequence: what the model and the whole pool hold
  block_pool pool_;
  std::map<std::uint64_t, sequence> sequences_; ///< by serial; addresses stay
  std::unordered_map<request_key, sequence*> by_key_;
  std::map<rank, sequence*> waiting_;
  std::vector<sequence*> running_; ///< by serial
  std::map<std::uint64_t, sequence*> offered_;
  std::uint32_t receiving_{};
  std::uint32_t sending_{};
  std::map<transfer_id, sequence*> by_transfer_; ///< hand-overs under way
  std::map<transfer_id, sequence*> arrived_;     ///< sequences that a hand-over brought, for a late abort
  std::set<std::pair<time_point, transfer_id>> leases_;
  std::optional<flying_step> flying_;
  std::vector<std::vector<std::uint32_t>> held_; ///< blocks of dropped sequences that the step may still write
  std::optional<time_point> retire_at_;          ///< set: retiring
  bool retired_{false};
  std::optional<time_point> wake_announced_;
  std::uint64_t next_serial_{1};
  std::uint32_t next_transfer_;
  std::uint64_t next_step_{1};
  std::uint64_t steps_{};
  std::uint64_t preemptions_{};
  std::optional<duration> handover_wait_; ///< smoothed
  std::uint64_t started_tokens_{};
  std::uint64_t cached_tokens_{};
  step_shape last_shape_;
  duration last_elapsed_{};
};

} // namespace hflex::instance
