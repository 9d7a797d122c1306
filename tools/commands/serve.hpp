// What up, head and agent share: configuration from file, environment and flags, logging, and waiting for the end.
#pragma once
#include "actors/wire/system.hpp"
#include "config/loader.hpp"
#include "tools/commands/commands.hpp"
#include <optional>

namespace hflex::commands {

/// Flags that set configuration keys. `add` binds a flag to a key; what the user gave ends up in `given`.
class config_flags {
public:
  void add_file(CLI::App& app);
  void add(CLI::App& app, const std::string& flag, const std::string& key, const std::string& help);
  /// The configuration, or every fault on stderr and nothing. `defaults` are flags that the user's own beat, but not
  /// his file.
  std::optional<config::loaded_config> load() const;
  const std::string& file() const { return file_; }
  bool print_only() const { return print_; }
  /// Sets a key as a flag would.
  void set(const std::string& key, const std::string& text, const std::string& flag) {
    given_.push_back({key, text, flag});
  }
  /// True when the user gave this key by flag.
  bool has(const std::string& key) const;
  /// What the user gave for it; empty when he did not.
  std::string given(const std::string& key) const;

private:
  std::string file_;
  bool print_{false};
  std::vector<config::flag_value> given_;
};

void set_up_log(config::log_level level);
wire::system_options system_options_of(const config::cluster_config& config);
/// The demo model that is installed beside the program or lies in its source tree; empty when there is none.
std::string default_model();
/// False when a checkpoint will not load; then every fault is on stderr.
bool model_loads(const std::string& model);

} // namespace hflex::commands
