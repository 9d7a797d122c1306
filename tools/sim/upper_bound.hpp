// How many requests of a workload could attain at most, whatever the policy, even one that knows every arrival and
// every length: a ceiling for what is compared in the simulator. Called by `hflex simulate --bound` (study.cpp). Pure.
//
// What is assumed: instances as the simulator has them (step times, token and sequence limits of a step, control
// messages that take their time), roles that are kept to, a decode in a step per answer token after the first. What is
// given away, so that it is a bound: work flows, in shares as small as one likes, between instances and past the ends
// of steps; steps are always as full as they may be; whatever prefix another request brings in time is cached
// everywhere; KV memory and links have no limit.
//
// Noise of step times has mean 1, and a policy cannot know it beforehand: the bound is one of the expected attainment.
// A single run may come out above it by luck, where chance decides (a prompt that takes just its time to the first
// token).
#pragma once
#include "tools/sim/cluster.hpp"
#include "tools/sim/result.hpp"
#include "tools/sim/workload.hpp"
#include <span>

namespace hflex::sim {

/// `fleet`: the instances that serve, always all of them. Where mixed ones stand beside others, all count as mixed.
/// Shares of the workload's requests, in [0, 1]; 0 for a workload without any.
attainment_bound upper_bound(
    const cluster& hardware, const workload& load, std::span<const fleet_group> fleet, bool prefix_cache, bool noisy);

} // namespace hflex::sim
