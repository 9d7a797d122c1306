// What came of a simulated run. Made by the world, printed and plotted by the commands. Plain values.
#pragma once
#include "actors/common/metrics.hpp"
#include "actors/common/request.hpp"
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace hflex::sim {

/// The fleet at one time of the run.
struct fleet_sample {
  duration at{};
  std::map<instance_role, std::uint32_t> instances;
  std::uint32_t waiting{}; ///< requests in the scheduler's queue
  std::uint32_t running{}; ///< placed and not ended
};

/// What no policy can exceed in the mean over the noise of step times (upper_bound.hpp). Shares of all requests.
struct attainment_bound {
  double attainment{};
  double weighted_attainment{}; ///< by slo_targets::weight
  double alone{};               ///< could attain if each were the only one
};

/// What was decided about a request or the fleet, in the words of `hflex explain`.
struct decision {
  duration at{};                      ///< since the start
  std::optional<std::size_t> request; ///< its place in the workload; none when it is about the fleet
  std::uint32_t attempt{};
  std::string what;  ///< one word: a scheduler::happening_kind, "scaling", "advice", "omitted"
  std::string where; ///< the instances, where there are some
  std::string why;
};

/// One policy over one workload.
struct run_result {
  std::string policy;
  std::string mode;           ///< collocated or disaggregated
  std::string scaling;        ///< name of the scaling policy
  double rate_scale{1};       ///< of the workload's arrivals
  std::optional<double> load; ///< offered, as a share of what the fleet can do at most; when that was measured
  std::optional<attainment_bound> bound; ///< for this workload and fleet; when it was asked for
  slo_report report;
  std::vector<request_record> records; ///< in the order of the workload
  std::vector<fleet_sample> fleet;     ///< at even distances
  std::vector<decision> decisions;     ///< by time; when they were asked for
  double cost_instance_s{};
  double cost_device_s{};
  std::uint32_t peak_instances{};
  std::uint64_t refused{}; ///< by the router: longer than the model's context; failed in the report
  std::uint64_t steps{};
  std::uint64_t preemptions{};
  std::uint64_t migrations{};
  std::uint64_t role_flips{};
  std::uint64_t scale_outs{};
  std::uint64_t scale_ins{};
  double starts_s{};                     ///< decision to ready, sum over scale_outs
  std::uint64_t starts_from_neighbour{}; ///< of scale_outs: weights over a link, device to device
  std::uint64_t starts_from_cache{};     ///< from the node's memory
  std::uint64_t starts_from_disk{};
  std::uint64_t cached_prompt_tokens{};
  std::uint64_t kv_bytes_moved{};
  duration simulated{}; ///< start to the last end
  duration wall{};      ///< of this process; the only value that differs between equal runs
};

} // namespace hflex::sim
