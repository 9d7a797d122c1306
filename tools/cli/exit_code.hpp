// What hflex's exit codes mean. Scripts rely on them.
#pragma once

namespace hflex::cli {

enum exit_code : int {
  exit_done = 0,   ///< the operation was done
  exit_failed = 1, ///< it was tried and failed; the reason is on stderr
  exit_usage = 2,  ///< the command line, a configuration or an input file is at fault: nothing was tried
};

} // namespace hflex::cli
