// The dynamic program of slos_serve: which of the new requests an instance can take so that they and all that it has
// promised attain. Pure; used by slos_serve.cpp only.
//
// Jobs in order of prefill deadline. State: how many of each TPOT tier decode by then (those accepted join at their
// deadline). Value: prefill tokens that the instance can still do by then, when every decode has its tokens. Between
// deadlines the value grows at the rate that the state leaves to prefill; a job takes its tokens from it. A job may be
// accepted when the value stays at 0 or above; promised ones are accepted whatever it is. Kept for each state: the way
// that makes the fewest promised ones late, then accepts most, then has most tokens left.
#pragma once
#include "actors/scheduler/view.hpp"
#include <vector>

namespace hflex::scheduler {

struct prefill_job {
  duration due{};          ///< from now
  std::uint32_t tokens{};  ///< of prefill left
  std::uint32_t context{}; ///< that its decode will have
  std::uint32_t blocks{};  ///< to reserve
  duration tpot{};
  bool promised{false}; ///< accepted before
};

struct slos_serve_settings {
  double margin{1.0};                                    ///< share of the targets that planned steps may take
  duration longest_step{std::chrono::milliseconds{100}}; ///< of prefill when nobody decodes
  bool decodes_here{true};                               ///< false: accepted ones decode on another instance
};

/// Indices of the new jobs to accept; `free_blocks` and `free_sequences` bound what they may take. Time: jobs times
/// states; callers pass few new jobs at a time.
std::vector<std::size_t> accept_jobs(const instance_load& at, const std::vector<prefill_job>& jobs,
    std::uint32_t free_blocks, std::uint32_t free_sequences, const slos_serve_settings& settings);

} // namespace hflex::scheduler
