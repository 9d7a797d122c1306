// Other processes of this program: started without a shell, in a group of their own, gone with their parent. Main
// thread only, after hold_signals().
#pragma once
#include "actors/common/result.hpp"
#include "actors/common/time.hpp"
#include <optional>
#include <string>
#include <sys/types.h>
#include <vector>

namespace hflex::runtime {

/// Starts `hflex WORDS...`. What it says on standard output goes to `out`, a file descriptor, or to standard error when
/// there is none. `environment`: "NAME=value" beside this process's own. errc::retry when the system has no process to
/// give.
result<pid_t> start_self(const std::vector<std::string>& words, std::optional<int> out = {},
    const std::vector<std::string>& environment = {});

/// One child whose standard output is read by lines.
class child {
public:
  static result<child> start(const std::vector<std::string>& words, const std::vector<std::string>& environment = {});
  child(child&& other) noexcept;
  child& operator=(child&&) = delete;
  ~child(); ///< stop(3 s)

  /// The next line, without its end. errc::retry when none came in time; errc::fatal when the child has ended.
  result<std::string> read_line(duration timeout);
  /// Asks it to end, and ends it when it has not after `grace`.
  void stop(duration grace);

private:
  child(pid_t pid, int out) : pid_(pid), out_(out) {}
  pid_t pid_{-1};
  int out_{-1};
  std::string read_;
};

} // namespace hflex::runtime
