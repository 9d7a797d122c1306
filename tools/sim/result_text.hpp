// What came of simulated runs, as text: a table for people, JSON and CSV for scripts. Called by `hflex simulate`.
// Figures are those of actors/common/metrics.hpp; nothing is computed here but costs from prices.
#pragma once
#include "tools/cli/terminal.hpp"
#include "tools/sim/result.hpp"
#include <nlohmann/json.hpp>
#include <span>
#include <string>

namespace hflex::sim {

/// Runs side by side, then each SLO class. Mode and scaling are shown where runs differ in them; the cost in money
/// where there is a price.
std::string result_table(std::span<const run_result> runs, const cli::terminal& on, double price_per_device_hour = 0);

/// A list with one object per run: the keys of `hflex simulate -o json`. A strict attainment that is not known is null.
nlohmann::ordered_json result_json(std::span<const run_result> runs);

/// A header, then per run one line for all requests (class "(all)", which no class can be called) and one per class.
/// What is known of the whole run only (cost, steps, ...) is empty in the lines of classes.
std::string result_csv(std::span<const run_result> runs);

/// A header, then one line per decision of every run, by time. The request is its place in the workload.
std::string decisions_csv(std::span<const run_result> runs);

} // namespace hflex::sim
