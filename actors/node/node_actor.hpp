// The shell of a node agent: performs its core's decisions on actors, devices and the connection to the head. No policy
// here.
#pragma once
#include "actors/node/machine_actor.hpp"
#include "actors/node/node.hpp"
#include "actors/weights/bandwidth.hpp"
#include "actors/wire/interfaces.hpp"

namespace hflex::node {

struct shell_settings {
  options core;
  backend machine;
  wire::cluster_actor head; ///< when the head lives in this process; else it is dialled
  std::string head_host{"127.0.0.1"};
  std::uint16_t head_port{0};
  std::string address;                               ///< of this host, for people
  std::string host_id;                               ///< equal for processes that can share memory
  bool from_neighbours{true};                        ///< take weights from other processes of this host
  duration fetch_deadline{std::chrono::seconds{10}}; ///< of one try with one neighbour
  std::uint64_t host_cache_bytes{0};                 ///< weights that nobody uses stay in memory up to this
  weights::bandwidth_options giving;                 ///< how fast other hosts get weights from here
  std::function<std::uint64_t()> random;             ///< 64 random bits: incarnations
};

/// For system.spawn(). Tell it NodeLeave to end it in good order; it quits when everything is released.
wire::node_agent_actor::behavior_type node_shell(wire::node_agent_actor::pointer self, shell_settings settings);

} // namespace hflex::node
