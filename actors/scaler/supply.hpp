// How many instances hold a load within its targets, by the step-time model (design/scheduling.md, sections 2 and 7).
// Pure functions; the hyperflexis scaling policy asks them.
//
// Work is counted in instance-seconds: what a request adds to the steps that it is part of, c1 per token, c2 per
// query-key pair, c3 per decode and c4 per context token. The rest of a step's cost is paid once per step
// (share_for_work).
#pragma once
#include "actors/common/demand.hpp"
#include "actors/common/step_capacity.hpp"
#include <map>
#include <string>

namespace hflex::scaler {

/// What requests of one class are like, as seen lately.
struct class_profile {
  duration ttft{};
  duration tpot{};
  double arrivals{}; ///< decayed counts and sums
  double prompt_tokens{};
  double prompt_squared{};
  double ended{};
  double output_tokens{};

  double mean_prompt() const { return arrivals > 0 ? prompt_tokens / arrivals : 0; }
  /// `unseen` until some have ended: the first to end are the short ones.
  double mean_output(double unseen) const { return (unseen * doubt + output_tokens) / (doubt + ended); }
  static constexpr double doubt = 32; ///< requests
};

using mix = std::map<std::string, class_profile>;

/// Instance-seconds of the prefill of prompts with that sum of tokens and of squares.
double prefill_work(const step_time_model& m, double tokens, double squared);
/// Instance-seconds of `outputs` tokens after a prompt of `prompt`, per request.
double decode_work(const step_time_model& m, double prompt, double outputs, bool beside_prefill);

/// The targets that bind: of the tightest classes that are not just a few requests.
struct binding {
  duration ttft{std::chrono::hours{1}};
  duration tpot{std::chrono::hours{1}};
};
/// `least_share` of the arrivals makes a class count.
binding binding_targets(const mix& classes, double least_share);

/// The share for work (step_capacity.hpp) of an instance that only decodes: in steps of at most `tau`, and no more than
/// `most` sequences, each of which reads `context` tokens. The tokens that ride along free count as work, here and in
/// decode_work().
double decode_share_for_work(const step_time_model& m, duration tau, double most, double context);

/// Work per second, and how uneven it is.
struct work_rate {
  double expected{}; ///< instance-seconds per second
  double excess{};   ///< by how much the forecast is exceeded, as a standard deviation
  double variance{}; ///< of the work that comes in one second
};

/// Instances for `w` such that what comes within `horizon` is done within it but for `z` standard deviations, each
/// giving `share` of its time. Not rounded.
double instances_for(const work_rate& w, double share, duration horizon, double z);

/// What residents, here already, take of every instance's steps and memory: how many instances hold them. Not rounded.
double instances_for_residents(const demand_report& d, const step_time_model& m, duration tpot, instance_role side);

} // namespace hflex::scaler
