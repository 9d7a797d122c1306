// What is wrong with a configuration, and where: told to people, who should be able to repair the file from the message
// alone.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

namespace hflex::config {

/// Who set a value; a later layer wins over an earlier one.
enum class layer : std::uint8_t { built_in, file, environment, flag };

/// Where a value was written.
struct origin {
  layer from{layer::built_in};
  std::string source;     ///< file as it was named, "HFLEX_LISTEN_PORT" or "--port"; empty for built_in
  std::uint32_t line{};   ///< from 1; 0 = not in a file
  std::uint32_t column{}; ///< from 1
};

/// By key path: "listen.port", "agents[1].name". A key that nobody set is not there.
using origin_map = std::map<std::string, origin, std::less<>>;

/// One thing to repair.
struct fault {
  origin where;
  std::string key;      ///< key path; empty when the file as a whole is at fault
  std::string expected; ///< "a whole number from 1 to 65535"
  std::string found;    ///< "'70000'"
  std::string hint;     ///< "did you mean 'listen.port'?"; often empty
};

/// "config/local.yaml:3:9", "environment variable HFLEX_LISTEN_PORT", "flag --port", "default".
std::string to_string(const origin& o);
/// "config/local.yaml:3:9: listen.port: expected a whole number from 1 to 65535, found '70000'"
std::string to_string(const fault& f);
/// One line per fault, in the given order.
std::string to_string(const std::vector<fault>& faults);

/// Text of a stranger as a message may show it: in quotes, control characters and bytes beyond ASCII escaped, cut
/// after 60.
std::string shown(std::string_view text);

/// Collects faults up to a bound, so that a hostile file cannot fill the memory or the terminal.
class fault_list {
public:
  static constexpr std::size_t max_faults = 100;
  void add(fault f);
  bool empty() const { return faults_.empty(); }
  /// Whether the value of `key`, what it is part of or a part of it is at fault: what it was meant to be is not known.
  bool touch(std::string_view key) const;
  /// What was collected, in the order of (layer, source, line, column); the last one says how many were left out.
  std::vector<fault> take();

private:
  std::vector<fault> faults_;
  std::size_t left_out_{};
};

} // namespace hflex::config
