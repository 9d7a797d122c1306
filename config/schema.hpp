// Which keys there are: one table row per key with its type, range and documentation. The loader, the names of
// environment variables, the list of keys that people read and the printed configuration all derive from it. Defaults
// are those of config.hpp.
#pragma once
#include "config/config.hpp"
#include "config/reading.hpp"
#include <string>
#include <string_view>
#include <vector>

namespace hflex::config {

/// A key as documentation: "listen.port", "HFLEX_LISTEN_PORT", "a whole number from 1 to 65535", "7450", what it does.
struct key_info {
  std::string_view key;
  std::string environment;
  std::string expected;
  std::string default_value;
  std::string_view doc;
};

/// Every key of a cluster configuration, in the order of the table; sections are contiguous.
const std::vector<key_info>& keys();

/// A configuration's value of keys()[i], as YAML.
std::string value_of(const cluster_config& config, std::size_t i);

/// Reads a whole file's tree.
void read_cluster(reading& in, const yaml::node& root, cluster_config& out);
/// Sets one key from text: scalars take the text as it is; lists and sections of structs take YAML ("[{role: mixed,
/// count: 2}]"). `key` is one of keys().
void read_key(reading& in, std::string_view key, const std::string& text, cluster_config& out);
/// Reads a file of SLO classes: {classes: {NAME: {ttft_ms, tpot_ms, ...}}}.
void read_class_file(reading& in, const yaml::node& root, std::vector<slo_class>& out);

/// Reads a step-time profile: {device, isa, ..., step_time: {c0_ms, c1_ms, m0, ...}}.
void read_profile_file(reading& in, const yaml::node& root, step_profile& out);
/// The same profile as a file that read_profile_file takes.
std::string written_profile(const step_profile& profile);

} // namespace hflex::config
