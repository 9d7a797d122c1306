// What fits into an instance's steps, by the step-time model: how much of its time is left for work, and how many
// sequences it can decode. The scaler counts instances by it, the scheduler divides mixed fleets by it. Pure.
#pragma once
#include "actors/common/step_time.hpp"

namespace hflex {

/// Share of an instance's time that is left for work when its steps may last `tau`, safely: what a step costs whoever
/// is in it, c0 less the tokens that ride along free (c1*m0), is paid once per step. At least 0.02.
double share_for_work(const step_time_model& m, duration tau);

/// Sequences that one step decodes within `tau`, planned safely, when each reads `context` tokens: 1 to `most`.
std::uint32_t most_decodes(const step_time_model& m, duration tau, double most, double context);

/// A step that decodes so many.
step_shape decode_step(std::uint32_t sequences, double context);

} // namespace hflex
