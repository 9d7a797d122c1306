// The inside of the scaler's core. scaler.cpp has the events, reconcile.cpp what should be there, commands.cpp what
// people ask for. Nobody else includes it.
#pragma once
#include "actors/scaler/policy.hpp"
#include "actors/scaler/scaler.hpp"
#include <fmt/format.h>
#include <utility>

namespace hflex::scaler {

struct core::kept {
  kept(const options& o, std::unique_ptr<policy> p) : opts(o), chooser(std::move(p)), next_instance(o.first_instance) {
    for (const auto& line : opts.fleet) fleet.configured[line.role] = line.count;
    fleet.min_instances = opts.min_instances;
    fleet.max_instances = opts.max_instances;
    fleet.lead_time = opts.lead_time;
  }

  void adopt(const node_up& e, time_point now, std::vector<effect>& out);
  void lose(instance_id id, std::string_view reason, time_point now, std::vector<effect>& out);
  void rest(device_id device, time_point now);
  void stop(instance_id id, bool drain, time_point now, std::vector<effect>& out);
  std::uint32_t running(instance_role role) const { return fleet.running(role); }
  std::uint64_t residents(instance_id id) const;
  std::optional<std::string> why_not_flip(instance_id id, instance_role to) const;
  std::optional<std::string> why_not_scale(const request_scale& e) const;
  void flip(instance_id id, instance_role to, time_point now, std::vector<effect>& out);
  void learn_lead_time(duration took);

  void reconcile(time_point now, std::vector<effect>& out);
  role_counts target(time_point now, std::vector<effect>& out);
  void keep_hand_made(role_counts& wish, time_point now) const;
  void one_less_by_hand(instance_role role);
  role_counts within_limits(role_counts counts) const;
  void flip_surplus(const role_counts& wanted, time_point now, std::vector<effect>& out);
  void stop_overdue(time_point now, std::vector<effect>& out);
  /// Stops and starts at most so many.
  void stop_surplus(const role_counts& wanted, std::uint64_t most, time_point now, std::vector<effect>& out);
  void start_missing(const role_counts& wanted, std::uint64_t most, time_point now, std::vector<effect>& out);
  bool gathered(time_point now, std::vector<effect>& out);
  void wake(bool short_of_slots, time_point now, std::vector<effect>& out);
  void keep(const std::vector<effect>& out, std::size_t first, time_point now);

  options opts;
  std::unique_ptr<policy> chooser;
  fleet_view fleet;
  std::uint32_t next_instance;
  std::optional<time_point> armed;      ///< the wake_at that is under way
  std::optional<time_point> first_node; ///< when the first one joined
  bool all_expected{false};             ///< for good: a node that dies later is not waited for
  bool short_of_slots{false};           ///< something is missing and has no slot: said once, not at every event
  role_counts last_wish;                ///< of the policy, as it was noted
  std::deque<decision> decisions;       ///< the latest notes
  std::uint64_t last_decision{0};
};

template <class... Ts>
void say(std::vector<effect>& out, fmt::format_string<Ts...> text, Ts&&... xs) {
  out.emplace_back(note{fmt::format(text, std::forward<Ts>(xs)...), {}, false});
}

inline bool counts(const fleet_instance& i) { return i.phase != life::stopping; }

inline std::string_view name(instance_role role) { return to_string(role); }

/// Remembers at the end of an event what was noted during it.
struct core::chronicle {
  kept& to;
  const std::vector<effect>& out;
  time_point now;
  std::size_t first{out.size()};
  chronicle(kept& k, const std::vector<effect>& o, time_point t) : to(k), out(o), now(t) {}
  chronicle(const chronicle&) = delete;
  chronicle& operator=(const chronicle&) = delete;
  ~chronicle() { to.keep(out, first, now); }
};

} // namespace hflex::scaler
