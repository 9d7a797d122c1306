// Non-blocking stream sockets of both families, and descriptors passed over them. Thin wrappers that turn errno into
// values; no state, no policy.
#pragma once
#include "actors/common/result.hpp"
#include "gpu/transport/unique_fd.hpp"
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace hflex::gpu {

/// Abstract names leave no file behind: the kernel drops them with the process.
result<unique_fd> listen_unix(const std::string& name);
result<unique_fd> dial_unix(const std::string& name);

struct tcp_listener {
  unique_fd socket;
  std::string address; ///< "127.0.0.1:4711" or "[::1]:4711": numeric, as peers dial it
};
/// Resolves `host` (may block on name service). errc::reject: no such host, a wildcard (which names no address that a
/// peer could dial), or the port is taken.
result<tcp_listener> listen_tcp(const std::string& host, std::uint16_t port);
/// Numeric hosts only; the connection comes up later (or fails: connect_error).
result<unique_fd> dial_tcp(const std::string& host, std::uint16_t port);

/// 0 or the errno of a connect that has come to its end.
int connect_error(int socket);
/// True when the process at the other end of a Unix socket runs as our user.
bool same_user(int socket);
/// Sends small frames at once.
void set_no_delay(int socket);

/// What one read or write came to. `bytes` > 0 = progress.
struct io_outcome {
  std::size_t bytes{};
  bool ended{};          ///< end of stream or a broken connection
  bool too_many_fds{};   ///< read only: more descriptors than one came at once
  unique_fd received_fd; ///< read only
};
io_outcome read_some(int socket, std::span<std::byte> into);
/// `fd` >= 0 goes with the first byte.
io_outcome write_some(int socket, std::span<const std::byte> bytes, int fd);

} // namespace hflex::gpu
