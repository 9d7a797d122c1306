#include "gpu/transport/endpoint.hpp"
#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <string_view>
#include <sys/random.h>
#include <sys/stat.h>

namespace hflex::gpu {
namespace {

constexpr std::size_t max_endpoints = 16;
constexpr std::size_t max_endpoint_chars = 256;

/// HOST:PORT, numeric.
std::optional<endpoint> parse_address(std::string_view rest, const std::string& text) {
  const auto colon = rest.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return std::nullopt;
  std::string_view host = rest.substr(0, colon);
  const std::string_view digits = rest.substr(colon + 1);
  std::uint16_t port = 0;
  const auto [end, bad] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (bad != std::errc{} || end != digits.data() + digits.size() || port == 0) return std::nullopt;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return endpoint{path_kind::tcp, std::string{host}, port, text};
}

std::optional<endpoint> parse(const std::string& text, const std::string& local_id, const std::string& host_id) {
  std::string_view rest = text;
  const auto starts = [&](const std::string& prefix) {
    if (rest.substr(0, prefix.size()) != prefix) return false;
    rest.remove_prefix(prefix.size());
    return true;
  };
  if (rest.size() > max_endpoint_chars) return std::nullopt;
  if (starts("local:")) {
    if (rest != local_id) return std::nullopt;
    return endpoint{path_kind::local, std::string{rest}, 0, text};
  }
  if (starts("shm:" + host_id + ":")) {
    if (rest.empty()) return std::nullopt;
    return endpoint{path_kind::shm, std::string{rest}, 0, text};
  }
  if (!starts("tcp:")) return std::nullopt;
  return parse_address(rest, text);
}

bool enabled(path_kind kind, const transport_options& options) {
  switch (kind) {
  case path_kind::local:
    return options.enable_local;
  case path_kind::shm:
    return options.enable_shm;
  case path_kind::tcp:
    return options.enable_tcp;
  }
  return false;
}

} // namespace

std::string random_name() {
  std::uint64_t words[2]{};
  auto* at = reinterpret_cast<char*>(words);
  for (std::size_t got = 0; got < sizeof words;) {
    const auto n = ::getrandom(at + got, sizeof words - got, 0);
    if (n > 0) got += static_cast<std::size_t>(n);
  }
  return fmt::format("{:016x}{:016x}", words[0], words[1]);
}

std::string shm_host_id() {
  std::string boot;
  std::ifstream{"/proc/sys/kernel/random/boot_id"} >> boot;
  struct stat net {};
  if (boot.empty() || ::stat("/proc/self/ns/net", &net) != 0) return random_name(); // cannot tell: share with nobody
  return fmt::format("{}-{}", boot, net.st_ino);
}

std::vector<endpoint> usable_endpoints(const endpoint_list& peer, const transport_options& options,
    const std::string& local_id, const std::string& host_id) {
  std::vector<endpoint> usable;
  for (std::size_t i = 0; i < std::min(peer.size(), max_endpoints); ++i)
    if (auto e = parse(peer[i], local_id, host_id); e && enabled(e->kind, options)) usable.push_back(std::move(*e));
  std::stable_sort(usable.begin(), usable.end(), [](const endpoint& a, const endpoint& b) { return a.kind < b.kind; });
  return usable;
}

std::vector<endpoint> weights_endpoints(const endpoint_list& peer) {
  constexpr std::string_view prefix = "weights:";
  std::vector<endpoint> usable;
  for (std::size_t i = 0; i < std::min(peer.size(), max_endpoints); ++i) {
    const std::string_view text = peer[i];
    if (text.size() > max_endpoint_chars || text.substr(0, prefix.size()) != prefix) continue;
    if (auto e = parse_address(text.substr(prefix.size()), peer[i])) usable.push_back(std::move(*e));
  }
  return usable;
}

} // namespace hflex::gpu
