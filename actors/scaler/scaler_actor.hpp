// The shell of the scaler: decodes messages, asks the core, orders node agents. No policy here.
#pragma once
#include "actors/scaler/scaler.hpp"
#include "actors/wire/convert.hpp"
#include "actors/wire/instance_options.hpp"
#include "actors/wire/interfaces.hpp"

namespace hflex::scaler {

struct shell_settings {
  options core;                    ///< was checked with core::make before
  wire::instance_options instance; ///< what each instance is started with
  wire::scheduler_actor scheduler; ///< told to stop placing before an instance drains or flips
};

/// For system.spawn().
wire::scaler_actor::behavior_type scaler_shell(wire::scaler_actor::pointer self, shell_settings settings);

} // namespace hflex::scaler
