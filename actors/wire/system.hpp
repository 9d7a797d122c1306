// The CAF actor system as every hflex process sets it up.
#pragma once
#include "actors/common/time.hpp"
#include <caf/all.hpp>

namespace hflex::wire {

struct system_options {
  bool network{true};               ///< load the middleman
  std::size_t scheduler_threads{2}; ///< actors never compute: few threads are enough
  duration heartbeat{std::chrono::milliseconds{500}};
  duration peer_timeout{std::chrono::seconds{2}}; ///< a silent peer counts as lost; more than 2 heartbeats
  bool testing{false};                            ///< virtual clock, no threads: for the deterministic fixture
};

/// All message types registered, polling off (platform measurements: 72 us instead of 270 us a round trip), nothing
/// read from files or the command line. Construct it before the actor_system and keep it as long.
class system_config : public caf::actor_system_config {
public:
  explicit system_config(const system_options& options);
};

} // namespace hflex::wire
