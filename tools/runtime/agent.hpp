// A node agent in this process: its devices, its transport and its actor.
#pragma once
#include "actors/node/node_actor.hpp"
#include "config/config.hpp"
#include "tools/cli/endpoint.hpp"
#include "tools/runtime/process.hpp"
#include <memory>

namespace hflex::runtime {

struct agent_parts {
  std::shared_ptr<worker> loader; ///< outlives the actor: its last jobs free contexts
  std::shared_ptr<gpu::transport> transport;
  wire::node_agent_actor actor;
};

struct agent_plan {
  config::agent_config agent;
  config::membership_config membership;
  config::weights_config weights;
  std::uint32_t threads{0}; ///< of an "auto" or "cpu" device without a number, 0 = all cores
  std::uint32_t max_instances_per_device{4};
};

/// The devices that an agent offers, as they were found on this machine.
struct machine_plan;
/// May start CUDA: takes seconds then. errc::reject: a device that is not there.
result<std::shared_ptr<const machine_plan>> find_devices(const agent_plan& plan);

/// Starts the transport and spawns the agent, which then connects by itself: to `head` when it is in this process, else
/// to `address`.
result<agent_parts> start_agent(caf::actor_system& system, const agent_plan& plan,
    const std::shared_ptr<const machine_plan>& devices, const wire::cluster_actor& head, const cli::endpoint& address);

/// Tells it to leave and waits for its end, at most so long; false when it had to be left behind.
bool stop_agent(caf::actor_system& system, const agent_parts& parts, duration timeout);

} // namespace hflex::runtime
