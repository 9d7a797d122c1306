// The head: spawns its role actors in the order in which they need each other, and nothing else.
#pragma once
#include "actors/cluster/cluster_actor.hpp"
#include "actors/router/router_actor.hpp"
#include "actors/scaler/scaler_actor.hpp"
#include "actors/scheduler/scheduler_actor.hpp"
#include "actors/weights/weights_actor.hpp"

namespace hflex::cluster {

/// Options of all cores; the handles in the shells' settings are filled in by spawn_head.
struct head_settings {
  scheduler::options scheduler;
  router::shell_settings router;
  scaler::shell_settings scaler;
  weights::shell_settings weights;
  shell_settings cluster;
  wire::scaler_actor other_scaler; ///< takes the scaler's place: a benchmark's, which starts instances by hand
};

struct head_actors {
  wire::scheduler_actor scheduler;
  wire::router_actor router;
  wire::scaler_actor scaler;
  wire::weights_actor weights;
  wire::cluster_actor cluster; ///< the one to publish: it introduces the others
};

/// errc::reject when a core refuses its options.
result<head_actors> spawn_head(caf::actor_system& system, head_settings settings);

/// Ends the head's actors.
void stop_head(const head_actors& head);

} // namespace hflex::cluster
