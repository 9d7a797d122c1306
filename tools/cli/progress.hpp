// How far a long operation is: one redrawn line on a terminal, sparse lines elsewhere (logs, CI). Decides what to write
// and when; the caller writes it to stderr and passes the time.
#pragma once
#include "actors/common/time.hpp"
#include "tools/cli/terminal.hpp"
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace hflex::cli {

/// The time that commands measure progress in: never set back.
inline time_point steady_now() {
  return time_point{std::chrono::duration_cast<duration>(std::chrono::steady_clock::now().time_since_epoch())};
}

class progress {
public:
  /// `what` stands before the numbers: "loading weights". Not thread-safe.
  progress(std::string_view what, const terminal& on, time_point start);

  /// What to write now; often nothing: at most ten times a second on a terminal, every five seconds elsewhere. `total`
  /// 0 = unknown. `note` is free text after the numbers.
  std::string update(std::uint64_t done, std::uint64_t total, std::string_view note, time_point now);

  /// The last line, with the time it took. Ends the redrawn line. `result` stands after `what`: "done", "failed: ...".
  std::string finish(std::string_view result, time_point now);

private:
  std::string what_;
  terminal on_;
  time_point start_;
  std::optional<time_point> last_;
  bool line_open_{false};
};

} // namespace hflex::cli
