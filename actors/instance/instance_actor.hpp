// The shell of a prefill, decode or mixed instance: decodes messages, asks the batcher core, performs its effects on a
// device context and a transport. Spawned by the node agent; ends with `Retired` to it, or with the agent. No policy
// here.
//
//   StartSequence -> core.add -> run_step -> device -> StepDone -> core.step_finished -> tokens to the router, next
//   step KvOffer / KvAccept / KvCommit between counterparts; rows go by the transport, whose callbacks come back as
//   KvMoved
#pragma once
#include "actors/instance/batcher.hpp"
#include "actors/wire/interfaces.hpp"
#include "gpu/device.hpp"
#include "gpu/transport/transport.hpp"
#include <memory>

namespace hflex::instance {

struct shell_settings {
  options core; ///< self, role, sizes, policy
  node_id node;
  std::shared_ptr<gpu::device_context> context; ///< shared with the node agent, which keeps it when this actor ends
  std::shared_ptr<gpu::transport> transport;    ///< of the process
  wire::router_actor router;
  wire::scheduler_actor scheduler;
  wire::cluster_actor cluster;
  wire::node_agent_actor agent;
  duration report_every{
      std::chrono::milliseconds{100}}; ///< status to the cluster at most this often (the scheduler gets each step)
  step_time_model step_time{unmeasured_step_time}; ///< what its steps are taken to last; measured ones correct it
  double migration_bytes_per_s{1e9}; ///< what a migration is taken to move its rows at: too slow a guess makes it take
                                     ///< longer, too fast a guess makes the sequence stand still at its end
  duration sign_every{std::chrono::seconds{1}}; ///< what is alive here to the router at most this often; well below its
                                                ///< stage_timeout
};

/// For system.spawn(). The step-time predictor of `settings.core` is the shell's, corrected by measured steps, and so
/// is the prefix cache's seed.
wire::instance_actor::behavior_type instance_shell(wire::instance_actor::pointer self, shell_settings settings);

} // namespace hflex::instance
