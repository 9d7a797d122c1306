// Real processes for system tests: started in a group of their own with pipes, read by a thread so that no pipe ever
// fills, waited for by line or by exit (never by sleeping), and gone with the object: also when the test binary itself
// dies.
#pragma once
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <thread>
#include <vector>

namespace hflex::test {

/// Longest wait for anything that must happen. Generous: a wait that ends here is a failed test.
inline constexpr std::chrono::seconds patience{30};

enum class stream : std::size_t { out, err };

struct command {
  std::vector<std::string> words;       ///< program first
  std::vector<std::string> environment; ///< "NAME=value" on top of this process's own, of which HFLEX_* is left out
  std::string input;                    ///< what it reads on standard input
};

/// One child. Members may be called from one thread; they throw std::runtime_error, with all output so far, when a wait
/// ends in vain.
class process {
public:
  explicit process(const command& c);
  process(const process&) = delete;
  process& operator=(const process&) = delete;
  ~process(); ///< kills the whole group and collects it

  /// Waits for output that `ready` accepts. It sees all of the stream from its start.
  void wait_output(stream from, const std::function<bool(std::string_view)>& ready, const std::string& what);
  /// The first whole line with this text, from the start of the stream.
  std::string wait_line(stream from, std::string_view text);
  /// True when `size` bytes or more are there before `longest` is over; false also when the stream ends first.
  bool wait_size(stream from, std::size_t size, std::chrono::milliseconds longest);
  /// Exit code, or minus the signal that ended it.
  int wait_exit();
  void signal(int number); ///< to the process alone; nothing when it has ended

  pid_t pid() const { return pid_; }
  std::string text(stream of) const; ///< so far

private:
  struct channel {
    std::string text;
    bool ended{false};
  };
  void follow(int out, int err);
  template <class Ready>
  bool wait(std::chrono::milliseconds longest, Ready ready);
  [[noreturn]] void fail(const std::string& what) const;

  std::string name_;
  pid_t pid_{-1};
  mutable std::mutex mutex_; ///< guards what follows
  std::condition_variable changed_;
  channel channels_[2];
  std::optional<int> exit_;
  std::thread reader_;
};

/// Ports on which the process listens (IPv4, from /proc).
std::vector<std::uint16_t> listening_ports(pid_t pid);

} // namespace hflex::test
