// What an instance's shell says of itself after a step, as a message. Used by instance_actor.cpp only.
#pragma once
#include "actors/instance/batcher.hpp"
#include "actors/wire/convert.hpp"
#include "actors/wire/interfaces.hpp"

namespace hflex::instance {

/// A cancelled sequence keeps its blocks until the step that works on it is done.
inline bool is_idle(const snapshot& snap) {
  return snap.running + snap.waiting + snap.offered + snap.receiving + snap.sending == 0 &&
         snap.kv_blocks_free == snap.kv_blocks_total;
}

/// `step_ms_mean`: smoothed. `mailbox`: messages that wait for the actor.
inline wire::msg<wire::schema::StepReport> step_report(
    instance_id self, const snapshot& snap, double step_ms_mean, std::uint32_t mailbox) {
  using report = wire::schema::StepReport;
  return wire::msg<report>::make([&](report::Builder out) {
    out.setInstance(self.value);
    wire::write(out.initShape(), snap.last_shape);
    out.setElapsedUs(static_cast<std::uint64_t>(snap.last_elapsed.count()) / 1000);
    out.setRunning(snap.running);
    out.setWaiting(snap.waiting + snap.offered + snap.receiving);
    out.setKvBlocksTotal(snap.kv_blocks_total);
    out.setKvBlocksFree(snap.kv_blocks_free);
    out.setStepMsMean(step_ms_mean);
    out.setMailbox(mailbox);
    out.setSteps(snap.steps);
    out.setPreemptions(snap.preemptions);
    out.setKvBlocksCached(snap.kv_blocks_cached);
    out.setStartedTokens(snap.started_tokens);
    out.setCachedTokens(snap.cached_tokens);
    out.setHandoverUs(static_cast<std::uint64_t>(snap.handover_wait / std::chrono::microseconds{1}));
  });
}

} // namespace hflex::instance
