// The simulated hardware: instances with step times and KV memory, links, what a start costs. Read from a cluster file
// (cluster_file.hpp), consumed by the world. Plain values; every number of a shipped file names its source.
#pragma once
#include "actors/common/request.hpp"
#include "actors/common/step_time.hpp"
#include <cstdint>
#include <string>
#include <vector>

namespace hflex::sim {

/// A model on a device (or on several that act as one): one instance.
struct device_profile {
  std::string name;
  step_time_model steps;   ///< the true expected step time
  double step_noise{0.03}; ///< standard deviation of measured / expected (log-normal)
  std::uint64_t kv_tokens{};
  std::uint64_t kv_bytes_per_token{};
  std::uint64_t weight_bytes{};
  std::uint32_t devices{1}; ///< accelerators that it occupies
  std::uint32_t max_batched_tokens{2048};
  std::uint32_t max_sequences{256};
  std::uint32_t max_context{131072};
};

/// A way for bytes between instances. What flows at once shares it evenly, per instance and direction.
struct link {
  double bytes_per_s{};
  duration latency{};
};

/// The parts of a cold start.
struct start_costs {
  duration spawn{};   ///< process, device context
  duration warm_up{}; ///< after the weights: graphs, first step
  double disk_bytes_per_s{};
  double host_cache_bytes_per_s{};
  duration link_up{};   ///< KV links to the counterparts
  duration role_flip{}; ///< beyond the drain
};

struct fleet_group {
  instance_role role{instance_role::mixed};
  std::uint32_t count{};
  friend auto operator<=>(const fleet_group&, const fleet_group&) = default;
};

struct cluster {
  std::string name;
  device_profile device;
  std::vector<fleet_group> collocated;
  std::vector<fleet_group> disaggregated;
  std::uint32_t instances_per_node{8};
  std::uint32_t block_size{16};
  link same_node;                                           ///< between instances of one node
  link network;                                             ///< between nodes
  duration control_latency{std::chrono::microseconds{200}}; ///< of one control message
  start_costs start;
  double price_per_device_hour{}; ///< currency units
  std::uint32_t min_instances{1}; ///< limits for scaling
  std::uint32_t max_instances{64};
};

} // namespace hflex::sim
