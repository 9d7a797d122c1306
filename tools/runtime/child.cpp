#include "tools/runtime/child.hpp"
#include "tools/runtime/process.hpp"
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

extern char** environ; // NOLINT(readability-identifier-naming)

namespace hflex::runtime {

namespace {

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> out;
  for (auto& w : words) out.push_back(w.data());
  out.push_back(nullptr);
  return out;
}

/// This process's environment with some of its values replaced.
std::vector<std::string> with_environment(const std::vector<std::string>& own) {
  std::vector<std::string> all = own;
  const auto name = [](const std::string& entry) { return entry.substr(0, entry.find('=') + 1); };
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (std::none_of(own.begin(), own.end(), [&](const auto& o) { return name(o) == name(text); })) all.push_back(text);
  }
  return all;
}

} // namespace

result<pid_t> start_self(
    const std::vector<std::string>& words, std::optional<int> out, const std::vector<std::string>& environment) {
  // All memory is taken before fork(): other threads may hold the allocator's locks in the child.
  std::string program = self_path();
  std::vector<std::string> all{program};
  all.insert(all.end(), words.begin(), words.end());
  auto variables = with_environment(environment);
  const auto argv = pointers(all), envp = pointers(variables);
  const auto parent = ::getpid();
  const auto pid = ::fork();
  if (pid < 0) return fail(errc::retry, "cannot start {}: {}", program, std::strerror(errno));
  if (pid > 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGTERM); // also when the parent is killed outright
  ::setpgid(0, 0);                    // Ctrl-C is for the parent, which then tells its children
  if (::getppid() != parent) ::_exit(1);
  release_signals();
  ::dup2(out.value_or(STDERR_FILENO), STDOUT_FILENO);
  ::execve(program.c_str(), argv.data(), envp.data());
  ::_exit(127);
}

result<child> child::start(const std::vector<std::string>& words, const std::vector<std::string>& environment) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail(errc::retry, "no pipe: {}", std::strerror(errno));
  auto pid = start_self(words, ends[1], environment);
  ::close(ends[1]);
  if (!pid) {
    ::close(ends[0]);
    return pass(pid.error());
  }
  return child{*pid, ends[0]};
}

child::child(child&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), out_(std::exchange(other.out_, -1)), read_(std::move(other.read_)) {}

child::~child() {
  stop(std::chrono::seconds{3});
  if (out_ >= 0) ::close(out_);
}

result<std::string> child::read_line(duration timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (true) {
    if (const auto end = read_.find('\n'); end != std::string::npos) {
      auto line = read_.substr(0, end);
      read_.erase(0, end + 1);
      return line;
    }
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= duration{0}) return fail(errc::retry, "it said nothing in time");
    pollfd wait{out_, POLLIN, 0};
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(left).count() + 1;
    if (::poll(&wait, 1, static_cast<int>(std::min<std::int64_t>(ms, 1000))) <= 0) continue;
    char bytes[512];
    const auto got = ::read(out_, bytes, sizeof(bytes));
    if (got <= 0) return fail(errc::fatal, "it has ended");
    read_.append(bytes, static_cast<std::size_t>(got));
  }
}

void child::stop(duration grace) {
  if (pid_ < 0) return;
  ::kill(pid_, SIGTERM);
  const auto deadline = std::chrono::steady_clock::now() + grace;
  while (::waitpid(pid_, nullptr, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > deadline) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
      break;
    }
    next_signal(std::chrono::milliseconds{50}); // its end, mostly
  }
  pid_ = -1;
}

} // namespace hflex::runtime
