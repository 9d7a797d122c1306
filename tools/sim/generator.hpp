// Synthetic requests: when they arrive, how long they are, what they share. The same seed gives the same requests on
// every machine (to the last bit of its exp and log). Called by workload_builder.
//
// A description is ARRIVALS, then key=value parts with commas between:
//   poisson,rate=8,duration=300,prompt=p50:512/p90:2048/p99:6000,output=p50:128/p90:400
//
// ARRIVALS
//   poisson           gaps between arrivals are exponential
//   gamma             gaps are gamma with the coefficient of variation `cv`: 1 = poisson, more = bursts, 0 = evenly
//   spaced diurnal           poisson whose rate follows a sine (period, amplitude, phase) or a file (rates)
// how many
//   rate=R            requests per second, mean; with rates= the curve is scaled to this mean (without: as it is)
//   duration=S        seconds; or
//   requests=N        at most so many; with both, whichever ends first
//   cv=X              of gamma, 0 to 100
//   period=S          of the sine: 86400 when left out
//   amplitude=A       of the sine, as a share of the rate, 0 to 1: 0.5 when left out
//   phase=S           where in the sine or the curve the requests begin: 0 = rising through the mean, or the first
//   point rates=FILE:COLUMN curve with t_s and COLUMN in requests per second; repeated when it ends speed=X the sine or
//   curve runs X times as fast (a day in an hour: 24); rates stay as they are
// how long
//   prompt=LENGTHS    tokens (lengths.hpp); the shared prefix is part of it
//   output=LENGTHS    tokens
//   lengths=FILE      instead: pairs of prompt_tokens,output_tokens drawn from a file's rows; FILE:SERVICE from
//   quantiles
// what they share
//   share=P           share of the requests that begin with a shared prefix, 0 to 1
//   prefix=N          tokens of one such prefix, a multiple of 16; a shorter prompt is its beginning
//   prefixes=N        how many different ones there are, equally likely: 1 when left out
// else
//   seed=N            instead of the run's
#pragma once
#include "actors/common/result.hpp"
#include "tools/sim/random.hpp"
#include "tools/sim/trace_reader.hpp"
#include <cstdint>
#include <optional>
#include <string_view>

namespace hflex::sim {

struct generator_options {
  std::uint64_t seed{1};
  std::optional<duration> length; ///< of a description that says neither duration nor requests
  std::size_t max_requests{10'000'000};
};

/// `description` as above (without the "synthetic:" in front). Rows carry no class, session or line. errc::reject
/// names the key, what was expected and the nearest known word. Reads the files that it names.
result<trace> generate(std::string_view description, const generator_options& options);

/// Arrivals of a poisson process with `rate` per second in [0, length): session starts, for one. Bounded by `most`.
std::vector<duration> poisson_arrivals(double rate, duration length, std::size_t most, random_source& random);

} // namespace hflex::sim
