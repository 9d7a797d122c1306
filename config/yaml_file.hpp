// From a file to a YAML tree, with every failure as a fault. Used by the loaders of configuration and cluster files.
#pragma once
#include "config/reading.hpp"
#include <optional>
#include <string>

namespace hflex::config {

/// A file's text, or nothing and a fault. Stops one byte beyond what the parser takes, so that a device file without
/// end ends too. Blocks on the disk.
std::optional<std::string> read_file(const std::string& file, fault_list& faults);

/// The tree of a text, or nothing and a fault.
std::optional<yaml::node> parse_yaml(const std::string& text, const reading& in);

/// Where relative paths of a file start: "." for a bare name.
std::string folder_of(const std::string& file);

} // namespace hflex::config
