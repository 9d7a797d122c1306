#include "actors/scaler/kept.hpp"
#include "actors/scaler/placement.hpp"
#include <algorithm>
#include <tuple>

namespace hflex::scaler {

namespace {

role_counts running_by_role(const fleet_view& v) {
  role_counts n;
  for (auto role : {instance_role::prefill, instance_role::decode, instance_role::mixed})
    if (const auto count = v.running(role); count > 0) n[role] = count;
  return n;
}

std::uint64_t total(const role_counts& counts) {
  std::uint64_t n = 0;
  for (const auto& [role, count] : counts) n += count;
  return n;
}

/// "3 prefill and 5 decode"
std::string counted(const role_counts& counts) {
  std::string text;
  for (const auto& [role, count] : counts)
    if (count > 0) text += fmt::format("{}{} {}", text.empty() ? "" : " and ", count, name(role));
  return text.empty() ? "none" : text;
}

} // namespace

void core::kept::reconcile(time_point now, std::vector<effect>& out) {
  stop_overdue(now, out);
  const auto wanted = target(now, out);
  auto leave = ~std::uint64_t{0}, come = leave;
  if (chooser->flips_roles() && !opts.dry_run) {
    flip_surplus(wanted, now, out);
    // Where one role has too many and another too few, a flip makes it good, if not now then when one of those that
    // change or start is ready: to stop one and to start another takes longer, and may stop the last that serves.
    const auto have = total(running_by_role(fleet)), want = total(wanted);
    leave = have > want ? have - want : 0;
    come = want > have ? want - have : 0;
  }
  stop_surplus(wanted, leave, now, out);
  if (gathered(now, out)) start_missing(wanted, come, now, out);
  wake(short_of_slots, now, out);
}

// What the policy wants, within the limits and with what a person holds. Noted when it changes.
role_counts core::kept::target(time_point now, std::vector<effect>& out) {
  auto wish = chooser->wanted(fleet, now);
  for (const auto& [role, count] : fleet.held) wish[role] = count;
  wish = within_limits(std::move(wish));
  keep_hand_made(wish, now);
  wish = within_limits(std::move(wish)); // it may have made one more
  if (wish != last_wish) {
    auto reason = chooser->why();
    if (!reason.why.empty())
      out.emplace_back(note{fmt::format("{} {}, {} run: {}", opts.dry_run ? "would want" : "want", counted(wish),
                                counted(running_by_role(fleet)), reason.why),
          std::move(reason.numbers), opts.dry_run});
    last_wish = wish;
  }
  return opts.dry_run ? fleet.configured : wish;
}

// As many of a role as a person made it count as wanted for a while, in place of as many of the role that they had:
// else the policy would flip another one back.
void core::kept::keep_hand_made(role_counts& wish, time_point now) const {
  for (const auto& [id, i] : fleet.instances) {
    if (!counts(i) || !i.left_alone(now) || fleet.held.count(i.role) > 0) continue;
    const auto from = fleet.held.count(i.by_hand->from) > 0 ? wish.end() : wish.find(i.by_hand->from);
    for (auto& want = wish[i.role]; want < i.by_hand->least; ++want)
      if (from != wish.end() && from->second > 1) --from->second; // the last one stays: somebody must do its work
  }
}

// A person takes one away: what was made by hand before does not bring it back.
void core::kept::one_less_by_hand(instance_role role) {
  for (auto& [id, i] : fleet.instances)
    if (i.by_hand && i.role == role && i.by_hand->least > 1) --i.by_hand->least;
}

role_counts core::kept::within_limits(role_counts counts) const {
  const auto largest = [&] {
    return std::max_element(
        counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  };
  if (counts.empty()) return counts;
  for (auto n = total(counts); n > fleet.max_instances; --n) --largest()->second;
  for (auto n = total(counts); n < fleet.min_instances; ++n) ++largest()->second;
  return counts;
}

// The same device with its weights, in the time of a drain: before anything is started or stopped. The one with the
// least in hand goes.
void core::kept::flip_surplus(const role_counts& wanted, time_point now, std::vector<effect>& out) {
  const auto want = [&](instance_role role) { return wanted.count(role) ? wanted.at(role) : 0U; };
  for (const auto& [to, count] : wanted) {
    for (const auto& [from, ignored] : wanted) {
      while (from != to && running(to) < want(to) && running(from) > want(from)) {
        std::optional<std::pair<std::uint64_t, instance_id>> cheapest;
        for (const auto& [id, i] : fleet.instances)
          if (i.role == from && i.phase == life::ready && !i.left_alone(now) && !why_not_flip(id, to))
            cheapest = std::min(cheapest.value_or(std::pair{~std::uint64_t{0}, instance_id{}}), {residents(id), id});
        if (!cheapest) break;
        say(out, "change role of {} from {} to {}: {} {} and {} {} instances run, {} and {} are wanted",
            to_string(cheapest->second), name(from), name(to), running(from), name(from), running(to), name(to),
            want(from), want(to));
        flip(cheapest->second, to, now, out);
      }
    }
  }
}

// A start that takes too long holds its slot until the node says that it is gone, but is tried again elsewhere at once.
void core::kept::stop_overdue(time_point now, std::vector<effect>& out) {
  for (auto& [id, i] : fleet.instances) {
    if (i.phase != life::starting || now < i.since + opts.start_deadline) continue;
    say(out, "{} ({}) on {} was not ready within {:.0f} s: stopped", to_string(id), name(i.role), to_string(i.device),
        to_s(opts.start_deadline));
    rest(i.device, now);
    stop(id, false, now, out);
  }
}

// Those that still start go before those that serve, then those with the least in hand, then the newest.
void core::kept::stop_surplus(const role_counts& wanted, std::uint64_t most, time_point now, std::vector<effect>& out) {
  for (auto role : {instance_role::prefill, instance_role::decode, instance_role::mixed}) {
    const auto want = wanted.count(role) ? wanted.at(role) : 0;
    for (auto have = running(role); have > want && most > 0; --have, --most) {
      using rank = std::tuple<bool, std::uint64_t, instance_id>; // the largest goes
      std::optional<rank> leaver;
      for (const auto& [id, i] : fleet.instances)
        if (i.role == role && counts(i) && i.phase != life::flipping && !i.left_alone(now)) {
          const rank here{i.phase == life::starting, ~residents(id), id};
          if (!leaver || *leaver < here) leaver = here;
        }
      if (!leaver) break;
      const auto id = std::get<instance_id>(*leaver);
      say(out, "stop {}: {} {} instances run, {} are wanted", to_string(id), have, name(role), want);
      stop(id, true, now, out);
    }
  }
}

bool core::kept::gathered(time_point now, std::vector<effect>& out) {
  if (all_expected || fleet.nodes.empty()) return all_expected;
  if (!first_node) first_node = now;
  const auto latest = *first_node + opts.expect_for;
  all_expected = fleet.nodes.size() >= opts.expect_nodes || now >= latest;
  if (!all_expected) out.emplace_back(wake_at{latest});
  return all_expected;
}

void core::kept::start_missing(
    const role_counts& wanted, std::uint64_t most, time_point now, std::vector<effect>& out) {
  const bool was_short = std::exchange(short_of_slots, false);
  for (; most > 0; --most) {
    // The role that is furthest from what it should be, so that a small fleet gets one of each first.
    std::optional<std::pair<double, instance_role>> neediest;
    for (const auto& [role, want] : wanted) {
      const auto have = running(role);
      if (have >= want) continue;
      const std::pair share{static_cast<double>(have) / want, role};
      if (!neediest || share < *neediest) neediest = share;
    }
    if (!neediest) return;
    const auto role = neediest->second;
    const auto device = place_instance(fleet, role, now);
    if (!device) {
      short_of_slots = true;
      if (!was_short)
        say(out, "{} of {} {} instances run, and no device is free for another", running(role), wanted.at(role),
            name(role));
      return;
    }
    const instance_id id{next_instance++};
    say(out, "start {} ({}) on {}: {} of {} run", to_string(id), name(role), to_string(*device), running(role),
        wanted.at(role));
    fleet.instances[id] = {*device, role, life::starting, now};
    out.emplace_back(start_instance{id, *device, role});
  }
}

void core::kept::wake(bool waits_for_device, time_point now, std::vector<effect>& out) {
  std::optional<time_point> next;
  for (const auto& [id, i] : fleet.instances) {
    if (i.phase == life::starting) next = std::min(next.value_or(time_point::max()), i.since + opts.start_deadline);
    if (i.left_alone(now)) next = std::min(next.value_or(time_point::max()), i.by_hand->until);
  }
  if (waits_for_device)
    if (const auto rested = next_rested(fleet, now)) next = std::min(next.value_or(time_point::max()), *rested);
  if (const auto look = chooser->next_look(fleet, now)) next = std::min(next.value_or(time_point::max()), *look);
  if (!next || (armed && *armed <= *next)) return;
  armed = next;
  out.emplace_back(wake_at{*next});
}

// Every event ends here: what was noted is remembered.
void core::kept::keep(const std::vector<effect>& out, std::size_t first, time_point now) {
  for (auto i = first; i < out.size(); ++i)
    if (const auto* n = std::get_if<note>(&out[i])) {
      decisions.push_back({++last_decision, now, *n});
      if (decisions.size() > opts.max_decisions) decisions.pop_front();
    }
}

} // namespace hflex::scaler
