#include "tools/cli/endpoint.hpp"
#include "tools/cli/terminal.hpp"
#include <algorithm>
#include <arpa/inet.h>
#include <charconv>
#include <fmt/format.h>

namespace hflex::cli {

namespace {

bool is_ipv4(const std::string& host) {
  in_addr ignored{};
  return inet_pton(AF_INET, host.c_str(), &ignored) == 1;
}

bool is_ipv6(const std::string& host) {
  in6_addr ignored{};
  return inet_pton(AF_INET6, host.c_str(), &ignored) == 1;
}

/// A host name of RFC 1123: labels of letters, digits and '-', which stands neither first nor last. A last label of
/// digits only would be a mistyped address.
bool is_host_name(std::string_view host) {
  if (host.empty() || host.size() > 253) return false;
  std::string_view label;
  while (true) {
    const auto dot = host.find('.');
    label = host.substr(0, dot);
    if (label.empty() || label.size() > 63 || label.front() == '-' || label.back() == '-') return false;
    const bool letters = std::all_of(label.begin(), label.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
    });
    if (!letters) return false;
    if (dot == host.npos) break;
    host.remove_prefix(dot + 1);
  }
  return label.find_first_not_of("0123456789") != label.npos;
}

result<std::uint16_t> parse_port(std::string_view text, std::string_view whole) {
  std::uint32_t port = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, failure] = std::from_chars(text.data(), end, port);
  if (failure != std::errc{} || stopped != end || port < 1 || port > 65535)
    return fail(errc::reject, "'{}': expected a port from 1 to 65535, found '{}'", one_line(whole), one_line(text));
  return static_cast<std::uint16_t>(port);
}

} // namespace

result<endpoint> parse_endpoint(std::string_view text, std::optional<std::uint16_t> default_port) {
  std::string host;
  std::optional<std::string_view> port_text;
  const bool bracketed = text.starts_with('[');
  if (bracketed) {
    const auto close = text.find(']');
    if (close == text.npos) return fail(errc::reject, "'{}': expected a ']' after the IPv6 address", one_line(text));
    host = text.substr(1, close - 1);
    const std::string_view rest = text.substr(close + 1);
    if (rest.starts_with(':'))
      port_text = rest.substr(1);
    else if (!rest.empty())
      return fail(errc::reject, "'{}': expected ':PORT' after ']'", one_line(text));
    if (!is_ipv6(host)) return fail(errc::reject, "'{}': expected an IPv6 address in the brackets", one_line(text));
  } else {
    if (std::count(text.begin(), text.end(), ':') > 1)
      return fail(
          errc::reject, "'{}': expected HOST:PORT; an IPv6 address goes in brackets, [::1]:7450", one_line(text));
    const auto colon = text.find(':');
    host = text.substr(0, colon);
    if (colon != text.npos) port_text = text.substr(colon + 1);
    if (!is_ipv4(host) && !is_host_name(host))
      return fail(
          errc::reject, "'{}': expected HOST:PORT, found no host name or address before the port", one_line(text));
  }
  if (!port_text && !default_port) return fail(errc::reject, "'{}': expected HOST:PORT, found no port", one_line(text));
  if (!port_text) return endpoint{host, *default_port};
  return parse_port(*port_text, text).map([&](std::uint16_t port) { return endpoint{host, port}; });
}

std::string to_string(const endpoint& e) {
  return e.host.find(':') == e.host.npos ? fmt::format("{}:{}", e.host, e.port)
                                         : fmt::format("[{}]:{}", e.host, e.port);
}

} // namespace hflex::cli
