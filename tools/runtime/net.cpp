#include "tools/runtime/net.hpp"
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace hflex::runtime {
namespace {

/// 0 when connected, else an errno.
int try_address(const addrinfo& to, duration timeout) {
  int fd = ::socket(to.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  int fault = ::connect(fd, to.ai_addr, to.ai_addrlen) == 0 ? 0 : errno;
  if (fault == EINPROGRESS) {
    pollfd waiting{fd, POLLOUT, 0};
    if (::poll(&waiting, 1, static_cast<int>(to_ms(timeout))) == 1) {
      socklen_t size = sizeof(fault);
      ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &fault, &size);
    } else {
      fault = ETIMEDOUT;
    }
  }
  ::close(fd);
  return fault;
}

} // namespace

result<void> probe(const cli::endpoint& at, duration timeout) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  if (int fault = ::getaddrinfo(at.host.c_str(), std::to_string(at.port).c_str(), &hints, &list); fault != 0)
    return fail(errc::retry, "cannot find the host {}: {}", at.host, ::gai_strerror(fault));
  std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner{list, ::freeaddrinfo};
  int fault = ECONNREFUSED;
  for (auto* a = list; a != nullptr; a = a->ai_next) {
    fault = try_address(*a, timeout);
    if (fault == 0) return {};
  }
  if (fault == ECONNREFUSED)
    return fail(errc::retry,
        "nothing listens on {}: start a cluster with `hflex up` or `hflex head`, or name another head with --head",
        cli::to_string(at));
  return fail(errc::retry, "cannot reach {}: {}", cli::to_string(at), std::strerror(fault));
}

} // namespace hflex::runtime
