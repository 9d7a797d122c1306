// The shell of the SLO scheduler: decodes messages, asks the core, tells the router. No policy here.
#pragma once
#include "actors/scheduler/scheduler.hpp"
#include "actors/wire/interfaces.hpp"

namespace hflex::scheduler {

/// For system.spawn(). The router introduces itself by an Ack with its handle. `opts` was checked with core::make
/// before.
wire::scheduler_actor::behavior_type scheduler_shell(wire::scheduler_actor::pointer self, options opts);

} // namespace hflex::scheduler
