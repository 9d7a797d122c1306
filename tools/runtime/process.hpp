// What every long-running hflex process needs of the operating system: signals as values, a worker thread, identity.
#pragma once
#include "actors/common/result.hpp"
#include "actors/common/time.hpp"
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

namespace hflex::runtime {

/// Blocks SIGINT, SIGTERM and SIGCHLD in this and every later thread, and ignores SIGPIPE. For a command that looks for
/// them (next_signal) and ends in good order, before its first thread: the others end at once, as the system has it.
void hold_signals();
/// Undoes it for a child between fork and exec.
void release_signals();
/// Waits for one of the held signals, at most so long. Main thread only.
std::optional<int> next_signal(duration timeout);

/// 64 bits from the kernel.
std::uint64_t random_bits();
/// Milliseconds since 1970.
std::uint64_t unix_ms();
/// This host's name.
std::string host_name();
/// Absolute path of the running program.
std::string self_path();

/// Runs blocking functions one after another, off the actors' threads. Waits for the one that runs when destroyed.
class worker {
public:
  worker();
  ~worker();
  worker(const worker&) = delete;
  worker& operator=(const worker&) = delete;
  /// Any thread.
  void post(std::function<void()> job);

private:
  void run();
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  bool ending_{false};
  std::thread thread_;
};

} // namespace hflex::runtime
