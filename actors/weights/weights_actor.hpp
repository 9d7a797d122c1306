// The shell of the weight-transfer coordinator: decodes reports of node agents, asks the core, tells them where to load
// from.
#pragma once
#include "actors/weights/weights.hpp"
#include "actors/wire/interfaces.hpp"

namespace hflex::weights {

struct shell_settings {
  options core;
  duration lease{std::chrono::minutes{10}}; ///< a source on another host gives at most so long
};

/// For system.spawn().
wire::weights_actor::behavior_type weights_shell(wire::weights_actor::pointer self, shell_settings settings);

} // namespace hflex::weights
