#include "tests/support/process.hpp"
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <poll.h>
#include <set>
#include <sstream>
#include <stdexcept>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

extern char** environ; // NOLINT(readability-identifier-naming)

namespace hflex::test {

namespace {

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> list;
  for (auto& w : words) list.push_back(w.data());
  list.push_back(nullptr);
  return list;
}

std::vector<std::string> environment_with(const std::vector<std::string>& extra) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry)
    if (std::string_view{*entry}.substr(0, 6) != "HFLEX_") all.emplace_back(*entry);
  all.insert(all.end(), extra.begin(), extra.end());
  return all;
}

/// A readable file that nobody else sees, at its start.
int input_file(const std::string& text) {
  int fd = ::memfd_create("input", MFD_CLOEXEC);
  if (fd < 0 || ::write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
      ::lseek(fd, 0, SEEK_SET) != 0)
    throw std::runtime_error("cannot make a child's standard input");
  return fd;
}

/// Between fork and exec: nothing that allocates or locks.
[[noreturn]] void become(pid_t parent, const int (&fds)[3], char** words, char** environment) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(126);
  for (int i = 0; i < 3; ++i) ::dup2(fds[i], i);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execve(words[0], words, environment);
  ::_exit(127);
}

} // namespace

process::process(const command& c) : name_(c.words.at(0)) {
  auto words = c.words;
  for (std::size_t i = 1; i < std::min<std::size_t>(words.size(), 4); ++i) name_ += " " + words[i].substr(0, 60);
  auto environment = environment_with(c.environment);
  auto word_list = pointers(words);
  auto environment_list = pointers(environment);
  int out[2], err[2];
  if (::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(err, O_CLOEXEC) != 0) throw std::runtime_error("no pipes left");
  int in = input_file(c.input);
  auto parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) become(parent, {in, out[1], err[1]}, word_list.data(), environment_list.data());
  for (int fd : {in, out[1], err[1]}) ::close(fd);
  if (pid_ < 0) throw std::runtime_error("cannot start " + name_);
  ::setpgid(pid_, pid_); // here too: whoever comes first
  reader_ = std::thread([this, out = out[0], err = err[0]] { follow(out, err); });
}

process::~process() {
  {
    // Until it is collected the process group keeps its id.
    std::lock_guard lock{mutex_};
    if (!exit_) ::kill(-pid_, SIGKILL);
  }
  reader_.join();
}

/// The reader's whole life: both streams to their ends, then the exit.
void process::follow(int out, int err) {
  pollfd watched[2] = {{out, POLLIN, 0}, {err, POLLIN, 0}};
  for (int open = 2; open > 0;) {
    if (::poll(watched, 2, -1) < 0) continue;
    for (std::size_t i = 0; i < 2; ++i) {
      if (watched[i].fd < 0 || watched[i].revents == 0) continue;
      char bytes[16384];
      auto size = ::read(watched[i].fd, bytes, sizeof(bytes));
      if (size < 0 && errno == EINTR) continue;
      std::lock_guard lock{mutex_};
      if (size > 0) {
        channels_[i].text.append(bytes, static_cast<std::size_t>(size));
      } else {
        channels_[i].ended = true;
        ::close(std::exchange(watched[i].fd, -1));
        --open;
      }
      changed_.notify_all();
    }
  }
  siginfo_t info{};
  while (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) {
  }
  std::lock_guard lock{mutex_};
  int status = 0;
  ::waitpid(pid_, &status, 0);
  exit_ = WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  changed_.notify_all();
}

template <class Ready>
bool process::wait(std::chrono::milliseconds longest, Ready ready) {
  std::unique_lock lock{mutex_};
  return changed_.wait_for(lock, longest, ready);
}

void process::fail(const std::string& what) const {
  throw std::runtime_error(
      name_ + ": " + what + "\n-- stdout:\n" + text(stream::out) + "\n-- stderr:\n" + text(stream::err));
}

void process::wait_output(stream from, const std::function<bool(std::string_view)>& ready, const std::string& what) {
  auto& c = channels_[static_cast<std::size_t>(from)];
  bool found = false;
  auto done = wait(patience, [&] { return (found = ready(c.text)) || c.ended; });
  if (!found) fail(done ? "ended without " + what : "no " + what + " in time");
}

std::string process::wait_line(stream from, std::string_view text) {
  std::string line;
  wait_output(
      from,
      [&](std::string_view all) {
        auto at = all.find(text);
        if (at == all.npos) return false;
        auto start = all.substr(0, at).rfind('\n') + 1; // npos + 1 is 0: the first line
        auto end = all.find('\n', at);
        if (end == all.npos) return false;
        line = all.substr(start, end - start);
        return true;
      },
      "line with \"" + std::string{text} + "\"");
  return line;
}

bool process::wait_size(stream from, std::size_t size, std::chrono::milliseconds longest) {
  auto& c = channels_[static_cast<std::size_t>(from)];
  bool there = false;
  wait(longest, [&] { return (there = c.text.size() >= size) || c.ended; });
  return there;
}

int process::wait_exit() {
  if (!wait(patience, [&] { return exit_.has_value(); })) fail("did not end in time");
  std::lock_guard lock{mutex_};
  return *exit_;
}

void process::signal(int number) {
  std::lock_guard lock{mutex_};
  if (!exit_) ::kill(pid_, number);
}

std::string process::text(stream of) const {
  std::lock_guard lock{mutex_};
  return channels_[static_cast<std::size_t>(of)].text;
}

std::vector<std::uint16_t> listening_ports(pid_t pid) {
  namespace fs = std::filesystem;
  auto root = "/proc/" + std::to_string(pid);
  std::set<std::string> inodes;
  for (const auto& entry : fs::directory_iterator{root + "/fd"}) {
    std::error_code gone;
    auto target = fs::read_symlink(entry.path(), gone).string();
    if (target.rfind("socket:[", 0) == 0) inodes.insert(target.substr(8, target.size() - 9));
  }
  std::vector<std::uint16_t> ports;
  std::ifstream table{root + "/net/tcp"};
  std::string line;
  std::getline(table, line); // the headings
  while (std::getline(table, line)) {
    std::istringstream in{line};
    std::string number, local, remote, state, queues, timer, retransmits, user, timeout, inode;
    in >> number >> local >> remote >> state >> queues >> timer >> retransmits >> user >> timeout >> inode;
    if (state == "0A" && inodes.count(inode) > 0)
      ports.push_back(static_cast<std::uint16_t>(std::stoul(local.substr(local.find(':') + 1), nullptr, 16)));
  }
  return ports;
}

} // namespace hflex::test
