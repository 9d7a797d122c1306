// Makes a workload fit a small cluster: fewer requests, in less time, short enough for a model's context. Called by
// `hflex bench load`, which replays an hour of a large fleet's trace in minutes on one machine. Pure; what was changed
// is told, so that a result can say what it was measured with.
#pragma once
#include "tools/sim/workload.hpp"
#include <optional>

namespace hflex::sim {

struct shape_options {
  std::optional<std::size_t> requests;  ///< keep so many, drawn at random over the whole workload
  std::optional<duration> compress_to;  ///< the arrivals take that long, in the rhythm of the workload
  std::optional<double> request_rate;   ///< instead of its arrivals: so many per second; infinite = all at once
  double burstiness{1};                 ///< shape of the gamma distribution of the gaps: 1 = Poisson, less = bursts
  std::uint32_t min_prompt_tokens{1};   ///< a shorter prompt is this long
  std::optional<std::uint32_t> context; ///< prompt and answer together have at most so many tokens
  std::uint64_t seed{1};
};

struct shape_report {
  std::size_t offered{};  ///< requests before
  double length_scale{1}; ///< all lengths were multiplied by it: the 99th percentile fits the context
  std::size_t cut{};      ///< requests that were cut beyond that
  double rate_scale{1};   ///< arrivals came so many times as fast; 1 when they are made up
};

/// `load` has a request at least; burstiness and request_rate > 0; context > min_prompt_tokens.
shape_report shape(workload& load, const shape_options& options);

} // namespace hflex::sim
