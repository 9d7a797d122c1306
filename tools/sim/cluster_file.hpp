// A YAML file that describes the simulated hardware -> sim::cluster, checked as the configuration is
// (config/loader.hpp): every fault at once, with its place and the nearest known key. config/sim/ ships such files.
// Called by `hflex simulate`, benches and tests.
//
// The device of every instance is named by a profile, or written in place, or both: what stands in place wins.
//   device: { profile: h100-llama-3.1-8b, max_sequences: 128 }
// A profile is a file that `hflex profile` wrote (step times only: kv_tokens, kv_bytes_per_token and weight_bytes then
// stand beside it), or one of config/profiles, which has those too. NAME is looked for as NAME.yaml beside the cluster
// file, in its ../profiles, and in config/profiles of the working directory; what ends in .yaml or has a '/' is a path,
// from the cluster file's folder.
#pragma once
#include "config/fault.hpp"
#include "tools/sim/cluster.hpp"
#include <string>
#include <tl/expected.hpp>
#include <vector>

namespace hflex::sim {

using cluster_result = tl::expected<cluster, std::vector<config::fault>>;

/// Reads a cluster file and the profile that it names. Blocks on the disk.
cluster_result load_cluster(const std::string& file);
/// The same for a text that `file` would have.
cluster_result read_cluster(const std::string& text, const std::string& file);

/// Reads a device profile alone. What a profile of `hflex profile` leaves out (KV memory, weights) stays 0.
tl::expected<device_profile, std::vector<config::fault>> load_device_profile(const std::string& file);

} // namespace hflex::sim
