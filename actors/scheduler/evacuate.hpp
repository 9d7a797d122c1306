// Scale-in and role flips without waiting for the longest answer: what decodes on an instance that drains moves, live,
// to where it keeps its targets. Called by the scheduler's core after every plan, whatever the policy. It places no new
// request.
#pragma once
#include "actors/scheduler/policy.hpp"

namespace hflex::scheduler {

/// Moves residents of draining instances while there is room elsewhere, the longest to come first, a few at a time per
/// leaver. Each goes to the fullest instance that holds it within the targets of all that decode there: the emptier
/// ones may be the next to leave. What finds no room stays and ends where it is; it is tried again half a second later.
class evacuation {
public:
  void move_out(const view& v, time_point now, decisions& d);

private:
  time_point next_try_{time_point::min()};
};

} // namespace hflex::scheduler
