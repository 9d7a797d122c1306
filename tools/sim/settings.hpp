// "key=value,key=value": how sources of requests are described on the command line. Splits, checks ranges, and tells a
// wrong key with the nearest right one. Used by generator and workload_builder.
#pragma once
#include "actors/common/result.hpp"
#include "actors/common/time.hpp"
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::sim {

class settings {
public:
  /// Nothing, or key=value parts with commas between. `about` begins every message ("synthetic"). errc::reject: a part
  /// without '=', a key twice or one that is not in `known`.
  static result<settings> parse(std::string_view text, std::string about, std::span<const std::string_view> known);

  bool has(std::string_view key) const { return find(key) != nullptr; }
  /// Nothing when the key is not there.
  std::optional<std::string> text(std::string_view key) const;
  /// A number in [least, most], or a failure that says so.
  result<std::optional<double>> real(std::string_view key, double least, double most) const;
  result<std::optional<std::uint64_t>> whole(std::string_view key, std::uint64_t least, std::uint64_t most) const;
  /// Seconds in [least, 10^9].
  result<std::optional<duration>> seconds(std::string_view key, double least) const;
  /// "ABOUT: KEY: expected WHAT, found 'VALUE'"
  error wrong(std::string_view key, std::string_view expected) const;

private:
  struct part {
    std::string key;
    std::string value;
  };
  const part* find(std::string_view key) const;

  std::string about_;
  std::vector<part> parts_;
};

} // namespace hflex::sim
