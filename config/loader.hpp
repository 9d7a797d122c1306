// Configuration files, environment variables and flags -> one validated cluster_config. Called once at start by `hflex
// up`, `head` and `agent`; reads files and nothing else: the environment is passed in. Every fault is found in one go.
#pragma once
#include "actors/common/result.hpp"
#include "config/config.hpp"
#include "config/fault.hpp"
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::config {

/// A value from the command line.
struct flag_value {
  std::string key;  ///< the key that the flag stands for: "listen.port"
  std::string text; ///< scalars as they are, lists as YAML
  std::string flag; ///< as the user knows it: "--port"
};

/// Everything a configuration is made of. Precedence: flag > environment > file > default.
struct sources {
  std::string file; ///< YAML; empty = none
  /// The process's variables (or some of them). HFLEX_<KEY> sets a key. A name that is none, but nearly one, is a
  /// fault; others are somebody else's.
  std::map<std::string, std::string> environment;
  std::vector<flag_value> flags;          ///< a later one wins
  std::vector<std::string_view> policies; ///< names that scheduler.policy may have; empty = not checked here
};

struct loaded_config {
  cluster_config config;
  origin_map origins; ///< of every value that is not a default
};

using load_result = tl::expected<loaded_config, std::vector<fault>>;

/// Reads and checks everything. Blocks on the disk.
load_result load_config(const sources& from);
/// The same for a file alone.
load_result load_config(const std::string& file);
/// The same for text that `file` would have. Relative paths start at file's folder; reads slo.classes_file only.
load_result read_config(const std::string& text, const sources& from);

/// Reads a file of SLO classes (config/slo_classes.yaml).
tl::expected<std::vector<slo_class>, std::vector<fault>> load_slo_classes(const std::string& file);

/// Reads a step-time profile (`hflex profile` writes them).
tl::expected<step_profile, std::vector<fault>> load_profile(const std::string& file);

/// The configuration as a YAML file that means the same, every key with its documentation and where its value came
/// from.
std::string print_config(const loaded_config& from);

/// Faults as an error for callers that pass results on: errc::reject, one line per fault.
error to_error(const std::vector<fault>& faults);

} // namespace hflex::config
