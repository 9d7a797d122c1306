// The shell of the cluster: the head's front door. Lets nodes in, tells the other roles of instances that come and go,
// links counterparts, and shows the topology. No policy here.
#pragma once
#include "actors/cluster/cluster.hpp"
#include "actors/wire/interfaces.hpp"
#include <functional>
#include <string>

namespace hflex::cluster {

struct shell_settings {
  options core;
  linking_options links;
  wire::router_actor router;
  wire::scheduler_actor scheduler;
  wire::scaler_actor scaler;
  wire::weights_actor weights;
  std::string model;                      ///< name of what is served, for people
  std::string listen_address;             ///< HOST:PORT, for people
  std::function<std::uint64_t()> unix_ms; ///< wall clock for event stamps
  std::size_t max_watchers{256};
};

/// For system.spawn(); then published on the head's port.
wire::cluster_actor::behavior_type cluster_shell(wire::cluster_actor::pointer self, shell_settings settings);

} // namespace hflex::cluster
