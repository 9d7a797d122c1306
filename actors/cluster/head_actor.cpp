#include "actors/cluster/head_actor.hpp"
#include <algorithm>

namespace hflex::cluster {

result<head_actors> spawn_head(caf::actor_system& system, head_settings settings) {
  // What an instance's queue does not hold waits at the scheduler.
  settings.scheduler.max_unstarted = std::min(settings.scheduler.max_unstarted, settings.scaler.instance.max_waiting);
  if (auto checked = scheduler::core::make(settings.scheduler); !checked) return pass(checked.error());
  if (auto checked = scaler::core::make(settings.scaler.core); !checked) return pass(checked.error());
  head_actors head;
  head.scheduler = system.spawn(scheduler::scheduler_shell, settings.scheduler);
  settings.router.scheduler = head.scheduler;
  head.router = system.spawn(router::router_shell, settings.router);
  settings.scaler.scheduler = head.scheduler;
  head.scaler = settings.other_scaler ? settings.other_scaler : system.spawn(scaler::scaler_shell, settings.scaler);
  head.weights = system.spawn(weights::weights_shell, settings.weights);
  settings.cluster.router = head.router;
  settings.cluster.scheduler = head.scheduler;
  settings.cluster.scaler = head.scaler;
  settings.cluster.weights = head.weights;
  head.cluster = system.spawn(cluster_shell, settings.cluster);
  return head;
}

void stop_head(const head_actors& head) {
  auto stop = [](const auto& actor) {
    if (actor) caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
  };
  stop(head.cluster);
  stop(head.scaler);
  stop(head.weights);
  stop(head.router);
  stop(head.scheduler);
}

} // namespace hflex::cluster
