// What came of offering a workload to clusters, as text: tables for people, JSON for scripts. Live runs take the form
// of simulated ones (tools/sim/result.hpp), so that both are printed, compared and summed up by the same code. Used by
// `hflex bench load`.
#pragma once
#include "tools/bench/load_client.hpp"
#include "tools/cli/terminal.hpp"
#include "tools/sim/result.hpp"
#include "tools/sim/workload_shape.hpp"
#include <nlohmann/json.hpp>
#include <span>

namespace hflex::bench {

/// One cluster under one policy.
struct load_run {
  std::string policy;
  sim::run_result result;
  std::vector<seen_request> seen;           ///< in the order of the workload
  std::optional<sim::run_result> simulated; ///< the same in virtual time, when asked for
};

/// Figures of the kind that a live run and a simulated one have both. `instances`: of the cluster; `length`: of the
/// workload, which goodput counts over.
sim::run_result summed_up(const std::vector<seen_request>& seen, const std::string& policy, const std::string& mode,
    std::uint32_t instances, duration length, duration wall);

/// Mean and percentiles of the latencies named in `metrics` ("ttft", "tpot", "itl", "e2el"), by class and policy.
std::string latency_table(
    std::span<const load_run> runs, const std::vector<std::string>& metrics, const cli::terminal& on);
/// Each later policy against the first: attainment, goodput, mean latencies. Empty for one run.
std::string ratio_table(std::span<const load_run> runs, const cli::terminal& on);
/// Live against simulated, mean latencies. Empty when nothing was simulated.
std::string parity_table(std::span<const load_run> runs, const cli::terminal& on);

nlohmann::ordered_json ratios_json(std::span<const load_run> runs);
nlohmann::ordered_json parity_json(std::span<const load_run> runs);
/// Every request of a run, for --save-result.
nlohmann::ordered_json requests_json(const load_run& run);

} // namespace hflex::bench
