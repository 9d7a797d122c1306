// What the scheduler knows: who waits, and what every instance has in hand and has promised. The ledger keeps it;
// policies, tests and topology read it. All iteration is in id order. It must not decide anything.
#pragma once
#include "actors/scheduler/arrival_line.hpp"
#include "actors/scheduler/prefix_index.hpp"
#include "actors/scheduler/request_table.hpp"
#include "actors/scheduler/scheduler.hpp"
#include "actors/scheduler/tpot_tiers.hpp"
#include <algorithm>
#include <cstdint>
#include <deque>
#include <limits>
#include <map>

namespace hflex::scheduler {

/// A request that has no place yet.
struct waiting_request {
  request_arrived request;
  time_point queued_at;
  std::uint64_t order{};                 ///< first come, first served is ascending `order`
  std::uint32_t output_to_come{};        ///< predicted tokens that it still produces, >= 1
  std::uint32_t output_hold{};           ///< of them, to keep room for (output_length_predictor::expected_hold)
  std::vector<prefix_index::hit> cached; ///< who is likely to have how much of its text, by instance id
  std::uint32_t length_class{};          ///< of its SLO class, for the length prediction
  std::uint32_t place_in_line{};         ///< in view::first_come
};

/// A request that was dispatched and has not ended.
struct placed_request {
  request_arrived request;
  instance_id prefill;
  instance_id decode;
  std::uint32_t decode_blocks{}; ///< reserved on `decode`
  std::uint32_t
      prefill_blocks{};         ///< reserved on `prefill` until its prefill is finished, when that is another instance
  std::uint32_t prefill_work{}; ///< tokens that its instance has to compute, as believed when it was placed
  std::uint32_t prefill_left{}; ///< of them, not yet reported as prefilled
  std::uint32_t output_to_come{};
  instance_id moving_to;          ///< it migrates: room is promised there too
  std::uint32_t moving_blocks{};  ///< reserved there
  std::uint64_t moving_context{}; ///< counted there
  bool best_effort{false};        ///< its targets bind nobody
  bool decodes{false};            ///< prefill is finished
  bool binds{false};              ///< its token deadlines are in the decode instance's book
  std::uint64_t steps_before{};   ///< decode steps of the instance before its first one
  time_point anchor;              ///< token deadlines: anchor + (decode steps of the instance) * TPOT
  std::uint32_t length_class{};   ///< of its SLO class, for the length prediction
  std::uint32_t resident_at{};    ///< its index in instance_load::residents of `decode`
};

/// One instance and its accounts.
struct instance_load {
  explicit instance_load(const instance_ready& ready, const options& opts, time_point now);

  instance_ready is;
  bool draining{false};
  std::optional<time_point> weights_at; ///< when the last of its weights is due; nothing: all are there
  bool shut{false};                     ///< its weights are under way, and the policy does not reckon with that
  step_time_corrector corrector;
  bool measured{false}; ///< the model was measured at its start, or by enough steps since

  std::uint32_t reserved_blocks{};    ///< promised KV blocks, in use or not
  std::uint32_t overshoot_blocks{};   ///< in use beyond what was promised (outputs longer than predicted)
  std::uint32_t outstanding{};        ///< requests in hand, prefill or decode side
  std::uint64_t outstanding_tokens{}; ///< prefill tokens to do + output tokens to come: the load that baselines compare
  std::uint64_t pending_prefill{};    ///< prefill tokens dispatched here and not yet done
  std::deque<request_key> prefilling; ///< whose prefill is here and not finished, in dispatch order
  std::uint32_t decoding{};           ///< sequences that decode here
  std::uint32_t promised{};           ///< sequences that will decode here once their prefill is finished
  std::uint64_t decode_context{};     ///< summed context of both
  std::uint64_t decode_steps{};       ///< steps with decode work so far
  tpot_tiers tiers;                   ///< those that bind, by TPOT target
  std::vector<request_key> residents; ///< all whose decode side it is, in no order
  std::uint32_t slot{};               ///< a small number of its own, for tables beside this one; used again later
  duration handover_wait{};           ///< as last reported: how long a prompt's KV is on its way after its prefill
  time_point handed_over_at;          ///< when that changed
  time_point last_heard;              ///< last report, or the last dispatch that a silence let through

  const step_time_model& model() const { return corrector.model(); }
  /// Nothing new onto it.
  bool closed() const { return draining || shut; }
  bool may_prefill() const { return !closed() && can_prefill(is.role); }
  bool may_decode() const { return !closed() && can_decode(is.role); }
  /// A sequence that decodes elsewhere may come: it would not have to wait for weights.
  bool may_take_over() const { return may_decode() && !weights_at; }
  /// Nothing was heard of it for so long that what it was given must be done. While weights are under way it is silent
  /// for a reason.
  bool is_silent(time_point now, duration timeout) const { return !weights_at && now - last_heard > timeout; }
  /// How long from `now` until its first step can end.
  duration until_weights(time_point now) const {
    return weights_at ? std::max(duration{0}, *weights_at - now) : duration{0};
  }
  /// Blocks that a new reservation can take.
  std::uint32_t free_blocks() const;
  std::uint32_t sequences() const { return decoding + promised; }
  /// The decode part of its steps, promised sequences included.
  step_shape decode_shape() const;
  /// Tightest TPOT target that still counts here; nothing when none does.
  std::optional<duration> tightest_tpot() const;
  /// How long after `last_heard` the first resident's next token is due; at most the banked slack of the one worst off.
  /// Those later than `lost_after` token times have lost their attainment and do not count. Nothing when none counts.
  std::optional<duration> slack(double lost_after) const;
};

inline std::uint32_t instance_load::free_blocks() const {
  const auto taken = std::uint64_t{reserved_blocks} + overshoot_blocks;
  return taken >= is.kv_blocks ? 0 : static_cast<std::uint32_t>(is.kv_blocks - taken);
}

inline step_shape instance_load::decode_shape() const {
  step_shape shape;
  shape.decode_seqs = sequences();
  shape.decode_context = static_cast<double>(decode_context);
  return shape;
}

inline std::optional<duration> instance_load::tightest_tpot() const {
  if (tiers.empty()) return std::nullopt;
  return tiers.begin()->first;
}

/// What the fleet can serve at all, as its roles and pools stand. Kept by the ledger at every change of the fleet.
struct fleet_abilities {
  std::uint32_t mixed{}; ///< instances that take new requests, by role
  std::uint32_t prefill{};
  std::uint32_t decode{};
  std::uint32_t loading{};      ///< of those that prefill, with weights under way
  std::uint32_t draining{};     ///< those that take none any more
  std::uint64_t mixed_tokens{}; ///< the largest pool of that role in tokens, draining or not
  std::uint64_t prefill_tokens{};
  std::uint64_t decode_tokens{};

  /// Whether there is somebody for every part of a request.
  bool serviceable() const { return mixed > 0 || (prefill > 0 && decode > 0); }
  /// Whether nobody prefills before some weights are there.
  bool all_load() const { return loading == mixed + prefill; }
  std::uint64_t largest_tokens() const { return std::max({mixed_tokens, prefill_tokens, decode_tokens}); }
  /// Whether some pool, or pair of pools, could ever hold it.
  bool can_hold(const request_arrived& r) const;
};

struct view {
  const options* opts{};
  fleet_abilities fleet;
  std::map<instance_id, instance_load> instances; ///< an instance stays where it is until it is gone
  request_table<waiting_request> waiting;
  arrival_line first_come; ///< waiting ones by `order`
  request_table<placed_request> placed;
  std::uint64_t decoded{}; ///< output tokens after the first ones that the fleet has made so far, as reported
};

/// Tokens of the request at its end: the whole prompt and all the output that it may produce.
std::uint64_t tokens_at_most(const request_arrived& r);
/// Tokens that the instance would have to compute for it, beyond what its prefix cache is likely to hold; >= 1.
std::uint32_t prefill_work(const waiting_request& w, instance_id at);
/// The same where it would be least.
std::uint32_t least_prefill_work(const waiting_request& w);
/// KV blocks of `tokens` tokens on that instance.
inline std::uint32_t blocks_for(const instance_load& at, std::uint64_t tokens) {
  const auto blocks = (tokens + at.is.block_size - 1) / at.is.block_size;
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(blocks, std::numeric_limits<std::uint32_t>::max()));
}
/// KV blocks of the request at its end.
std::uint32_t blocks_at_most(const instance_load& at, const request_arrived& r);
/// Tokens of a placed request that its decode instance holds by now.
std::uint64_t context_of(const instance_load& decode, const placed_request& p);
/// How many more requests may be given to it at all.
inline std::uint32_t room_in(const options& o, const instance_load& at) {
  const auto unstarted = static_cast<std::uint32_t>(at.prefilling.size());
  if (at.outstanding >= o.max_outstanding || unstarted >= o.max_unstarted) return 0;
  return std::min(o.max_outstanding - at.outstanding, o.max_unstarted - unstarted);
}
inline bool has_room(const view& v, const instance_load& at) { return room_in(*v.opts, at) > 0; }
/// Whether `p` and `d` may serve a request together: both roles fit, p == d only when mixed, and both pools could ever
/// hold it. One that is closed counts as unfit when `now_placeable`.
bool can_serve(const instance_load& p, const instance_load& d, const request_arrived& r, bool now_placeable);

} // namespace hflex::scheduler
