// How a waiting request stands: its place in the order and what keeps it from each instance, for people. Made only when
// somebody asks (`hflex explain`), from the accounts as they are; it decides nothing. Policies with an order of their
// own say more than this (policy::explain).
#pragma once
#include "actors/scheduler/view.hpp"
#include <optional>
#include <string>
#include <vector>

namespace hflex::scheduler {

struct obstacle {
  instance_id instance;
  std::string why;
};

struct standing {
  static constexpr std::size_t most_obstacles = 16;

  std::string band;                       ///< the part of the queue that it is in
  std::uint32_t position{};               ///< in its band; 1 = next
  std::uint32_t of{};                     ///< requests in that band
  time_point due;                         ///< of its next token
  std::optional<time_point> latest_start; ///< to be in time, where the policy plans with one
  std::vector<obstacle> obstacles;        ///< by instance, at most most_obstacles
  std::uint32_t more{};                   ///< instances beyond those

  /// Asks `why(instance_load)` of each instance.
  template <class Why>
  void ask_each(const view& v, Why why) {
    for (const auto& [id, at] : v.instances)
      if (obstacles.size() < most_obstacles)
        obstacles.push_back({id, why(at)});
      else
        ++more;
  }
};

/// Why it can take nothing at all now; nothing when it can take something.
std::optional<std::string> closed(const view& v, const instance_load& at);

/// First come, first served: what holds for a policy without an order of its own. `key` waits. O(waiting).
standing standing_by_arrival(const view& v, request_key key);

} // namespace hflex::scheduler
