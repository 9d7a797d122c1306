// Charts of simulated runs, one SVG document each. Called by `hflex simulate --plot`.
#pragma once
#include "tools/sim/result.hpp"
#include <span>
#include <string>
#include <vector>

namespace hflex::sim {

struct plot_file {
  std::string name; ///< "attainment.svg"
  std::string svg;
};

/// Attainment against load (where there is more than one), the distributions of TTFT and TPOT at the highest load that
/// has all policies, and the fleet over time of every run whose fleet changed. Mode by mode.
std::vector<plot_file> result_plots(std::span<const run_result> runs, const std::string& title);

} // namespace hflex::sim
