// HOST:PORT as people write it.
#pragma once
#include "actors/common/result.hpp"
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace hflex::cli {

struct endpoint {
  std::string host; ///< IPv4, IPv6 without brackets, or a name
  std::uint16_t port{};
  friend bool operator==(const endpoint&, const endpoint&) = default;
};

/// "10.0.0.1:7450", "head.example:7450", "[::1]:7450". Without a port only where `default_port` is given. errc::reject
/// says what is wrong. Names are not looked up.
result<endpoint> parse_endpoint(std::string_view text, std::optional<std::uint16_t> default_port = {});

/// The reverse: IPv6 in brackets.
std::string to_string(const endpoint& e);

} // namespace hflex::cli
