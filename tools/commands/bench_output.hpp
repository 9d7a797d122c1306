// What the parts of `hflex bench` and its like have in common: one line of progress, and a report that is shown to
// people or printed as JSON. Each of them says only what it measures and how that reads.
#pragma once
#include "tools/cli/exit_code.hpp"
#include "tools/cli/json_line.hpp"
#include "tools/cli/terminal.hpp"
#include "tools/commands/commands.hpp"
#include <cstdio>
#include <string>

namespace hflex::commands {

/// What is measured now, in one line that is redrawn; nothing where standard error is no terminal. Gone with this
/// object.
class live_line {
public:
  live_line() = default;
  live_line(const live_line&) = delete;
  live_line& operator=(const live_line&) = delete;
  ~live_line() { clear(); }
  void show(const std::string& text) {
    if (terminal_.is_terminal) std::fprintf(stderr, "\r\x1b[K%s", text.c_str());
    shown_ = true;
  }
  void clear() {
    if (terminal_.is_terminal && shown_) std::fputs("\r\x1b[K", stderr);
    shown_ = false;
  }

private:
  cli::terminal terminal_{cli::detect_terminal(2)};
  bool shown_{false};
};

/// Prints a report as asked for, or what is wrong; the exit code. `to_json` gives a document, `show` writes to standard
/// output.
template <class Report, class ToJson, class Show>
int finish_bench(const result<Report>& report, output format, const ToJson& to_json, const Show& show) {
  if (!report) return commands::report(report.error());
  if (format == output::json)
    std::fputs(cli::json_line(to_json(*report)).c_str(), stdout);
  else
    show(*report);
  return cli::exit_done;
}

} // namespace hflex::commands
