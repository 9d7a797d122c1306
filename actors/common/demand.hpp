// What is asked of the fleet, and how it copes: the scheduler's account to the scaler. Made by scheduler/demand.hpp,
// carried by schema/scheduling.capnp, read by scaling policies. Plain values; sums since the report before, so that
// nothing is lost when reports are coalesced.
#pragma once
#include "actors/common/ids.hpp"
#include "actors/common/request.hpp"
#include "actors/common/step_time.hpp"
#include <string>
#include <vector>

namespace hflex {

/// What came and went of one SLO class since the report before.
struct class_demand {
  std::string slo_class;
  duration ttft{}; ///< targets of its latest arrival
  duration tpot{};
  std::uint32_t arrivals{};
  double prompt_tokens{};         ///< of the arrivals: sum ...
  double prompt_tokens_squared{}; ///< ... and sum of squares: how uneven they are
  std::uint32_t ended{};          ///< ended well
  double output_tokens{};         ///< sum over those
  friend bool operator==(const class_demand&, const class_demand&) = default;
};

/// One instance as the scheduler's accounts have it.
struct instance_demand {
  instance_id instance;
  instance_role role{instance_role::mixed};
  bool draining{false};
  std::uint32_t decoding{};        ///< sequences that decode there
  std::uint32_t promised{};        ///< sequences that will, once their prefill is finished
  std::uint64_t decode_context{};  ///< summed context of both, tokens
  std::uint64_t pending_prefill{}; ///< prefill tokens dispatched there and not done
  std::uint32_t kv_blocks{};       ///< its pool
  std::uint32_t kv_blocks_taken{}; ///< promised or in use
  std::uint32_t block_size{1};     ///< tokens in a block
  std::uint32_t max_batched_tokens{1};
  std::uint32_t max_sequences{1};
  double tpot_headroom{1.0}; ///< 1 - planned decode step / tightest target that counts; < 0: over it; 1: no target
  step_time_model model;     ///< as its steps have corrected it
  friend bool operator==(const instance_demand&, const instance_demand&) = default;
};

struct demand_report {
  duration span{};                        ///< time that the sums of `classes` cover
  std::vector<class_demand> classes;      ///< those of which something came or went
  std::vector<instance_demand> instances; ///< all that the scheduler knows, in id order
  std::uint32_t waiting{};                ///< requests without a place
  std::uint64_t waiting_tokens{};         ///< their prefill
  std::uint32_t late{};                   ///< of them: planned demotions, that is, late although not beyond hope
  std::uint32_t late_with_one_more{};     ///< what would be left of those with one more instance
  duration latest_by{};                   ///< how late the latest of them would be
  std::uint32_t without_room{};           ///< of those looked at: no instance has KV blocks or decode time for them
  std::uint32_t looked_at{}; ///< waiting requests that `late` and `without_room` are about: a bounded number
  std::uint32_t overdue{};   ///< waiting requests whose first token is late already
  std::uint64_t decoded{};   ///< output tokens after the first ones that all requests have made since the report before
  bool mixed_apart{false};   ///< mixed instances prefill or decode for now, not both
  friend bool operator==(const demand_report&, const demand_report&) = default;
};

} // namespace hflex
