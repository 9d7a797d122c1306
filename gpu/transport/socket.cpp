#include "gpu/transport/socket.hpp"
#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>

namespace hflex::gpu {
namespace {

constexpr int stream_flags = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
constexpr int backlog = SOMAXCONN; // a full one drops a peer that believes itself connected

std::string errno_text() { return std::strerror(errno); } // NOLINT(concurrency-mt-unsafe): glibc's is

struct unix_address {
  sockaddr_un address{};
  socklen_t length{};
};

result<unix_address> abstract_address(const std::string& name) {
  unix_address a;
  a.address.sun_family = AF_UNIX;
  if (name.empty() || name.size() > sizeof a.address.sun_path - 1)
    return fail(errc::reject, "socket name of {} characters", name.size());
  std::memcpy(a.address.sun_path + 1, name.data(), name.size()); // the leading NUL makes it abstract
  a.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return a;
}

using address_info = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

result<address_info> resolve(const std::string& host, std::uint16_t port, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  const int bad = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
  if (bad != 0) return fail(errc::reject, "{}: {}", host, ::gai_strerror(bad));
  return address_info{list, &::freeaddrinfo};
}

bool is_wildcard(const sockaddr* a) {
  if (a->sa_family == AF_INET) {
    sockaddr_in in{};
    std::memcpy(&in, a, sizeof in);
    return in.sin_addr.s_addr == INADDR_ANY;
  }
  sockaddr_in6 in6{};
  std::memcpy(&in6, a, sizeof in6);
  return IN6_IS_ADDR_UNSPECIFIED(&in6.sin6_addr) != 0;
}

result<std::string> own_address(int socket) {
  sockaddr_storage bound{};
  socklen_t length = sizeof bound;
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&bound), &length) != 0 ||
      ::getnameinfo(reinterpret_cast<sockaddr*>(&bound), length, host.data(), host.size(), port.data(), port.size(),
          NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return fail(errc::fatal, "cannot read the bound address");
  if (bound.ss_family == AF_INET6) return fmt::format("[{}]:{}", host.data(), port.data());
  return fmt::format("{}:{}", host.data(), port.data());
}

/// The descriptor that came with a message; further ones are closed.
void take_fds(msghdr& message, io_outcome& out) {
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
      unique_fd owned{fd};
      if (out.received_fd)
        out.too_many_fds = true;
      else
        out.received_fd = std::move(owned);
    }
  }
  if ((message.msg_flags & MSG_CTRUNC) != 0) out.too_many_fds = true;
}

} // namespace

result<unique_fd> listen_unix(const std::string& name) {
  const auto at = abstract_address(name);
  if (!at) return pass(at.error());
  unique_fd s{::socket(AF_UNIX, stream_flags, 0)};
  if (!s || ::bind(s.get(), reinterpret_cast<const sockaddr*>(&at->address), at->length) != 0 ||
      ::listen(s.get(), backlog) != 0)
    return fail(errc::fatal, "cannot listen on a Unix socket: {}", errno_text());
  return s;
}

result<unique_fd> dial_unix(const std::string& name) {
  const auto at = abstract_address(name);
  if (!at) return pass(at.error());
  unique_fd s{::socket(AF_UNIX, stream_flags, 0)};
  if (!s || ::connect(s.get(), reinterpret_cast<const sockaddr*>(&at->address), at->length) != 0)
    return fail(errc::reroute, "cannot reach shm peer: {}", errno_text());
  return s;
}

result<tcp_listener> listen_tcp(const std::string& host, std::uint16_t port) {
  const auto found = resolve(host, port, 0);
  if (!found) return pass(found.error());
  const addrinfo& a = **found;
  if (is_wildcard(a.ai_addr))
    return fail(errc::reject, "listen_host {}: expected an address that peers can dial, not a wildcard", host);
  unique_fd s{::socket(a.ai_family, stream_flags, 0)};
  const int on = 1;
  if (!s || ::setsockopt(s.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      ::bind(s.get(), a.ai_addr, a.ai_addrlen) != 0 || ::listen(s.get(), backlog) != 0)
    return fail(errc::reject, "cannot listen on {} port {}: {}", host, port, errno_text());
  auto address = own_address(s.get());
  if (!address) return pass(address.error());
  return tcp_listener{std::move(s), std::move(*address)};
}

result<unique_fd> dial_tcp(const std::string& host, std::uint16_t port) {
  const auto found = resolve(host, port, AI_NUMERICHOST);
  if (!found) return pass(found.error());
  const addrinfo& a = **found;
  unique_fd s{::socket(a.ai_family, stream_flags, 0)};
  if (!s || (::connect(s.get(), a.ai_addr, a.ai_addrlen) != 0 && errno != EINPROGRESS))
    return fail(errc::reroute, "cannot reach {} port {}: {}", host, port, errno_text());
  set_no_delay(s.get());
  return s;
}

int connect_error(int socket) {
  int code = 0;
  socklen_t length = sizeof code;
  return ::getsockopt(socket, SOL_SOCKET, SO_ERROR, &code, &length) == 0 ? code : errno;
}

bool same_user(int socket) {
  ucred peer{};
  socklen_t length = sizeof peer;
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.uid == ::geteuid();
}

void set_no_delay(int socket) {
  const int on = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

io_outcome read_some(int socket, std::span<std::byte> into) {
  io_outcome out;
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(4 * sizeof(int))> control{};
  iovec part{into.data(), into.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const auto n = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (n < 0) {
    out.ended = errno != EAGAIN && errno != EINTR;
    return out;
  }
  take_fds(message, out);
  out.bytes = static_cast<std::size_t>(n);
  out.ended = n == 0;
  return out;
}

io_outcome write_some(int socket, std::span<const std::byte> bytes, int fd) {
  io_outcome out;
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  const auto n = ::sendmsg(socket, &message, MSG_NOSIGNAL);
  if (n < 0)
    out.ended = errno != EAGAIN && errno != EINTR && errno != ENOTCONN;
  else
    out.bytes = static_cast<std::size_t>(n);
  return out;
}

} // namespace hflex::gpu
