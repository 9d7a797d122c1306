// A cluster for benchmarks that load one: `hflex up` in a process of its own, with an agent's process per instance.
// Used by `hflex bench load` and `hflex bench role`. Main thread only, as runtime::child.
#pragma once
#include "tools/cli/endpoint.hpp"
#include "tools/runtime/child.hpp"
#include <cstdint>
#include <string>
#include <vector>

namespace hflex::bench {

struct own_cluster_options {
  std::uint32_t instances{2};
  std::string policy{"hyperflexis"}; ///< of the scheduler
  std::vector<std::string> words;    ///< more for `hflex up`
  std::vector<std::string> environment;
};

/// Ends with this object.
struct own_cluster {
  runtime::child process;
  cli::endpoint head;
};

/// Started and listening; its instances come later. errc::fatal: it did not start.
result<own_cluster> start_own_cluster(const own_cluster_options& options);

} // namespace hflex::bench
