#include "actors/scaler/scaler.hpp"
#include "actors/scaler/placement.hpp"
#include "actors/scaler/policy.hpp"
#include <algorithm>

namespace hflex::scaler {

struct core::kept {
  kept(const options& o, std::unique_ptr<policy> p) : opts(o), chooser(std::move(p)), next_instance(o.first_instance) {
    for (const auto& line : opts.fleet) fleet.configured[line.role] = line.count;
  }

  void adopt(const node_up& e, time_point now, std::vector<effect>& out);
  void lose(instance_id id, std::string_view reason, time_point now, std::vector<effect>& out);
  void rest(device_id device, time_point now);
  void stop(instance_id id, bool drain, time_point now, std::vector<effect>& out);
  std::uint32_t running(instance_role role) const;
  std::optional<std::string> why_not_flip(instance_id id, instance_role to) const;

  void reconcile(time_point now, std::vector<effect>& out);
  void stop_overdue(time_point now, std::vector<effect>& out);
  void stop_surplus(const role_counts& wanted, time_point now, std::vector<effect>& out);
  void start_missing(const role_counts& wanted, time_point now, std::vector<effect>& out);
  bool gathered(time_point now, std::vector<effect>& out);
  void wake(bool short_of_slots, time_point now, std::vector<effect>& out);

  options opts;
  std::unique_ptr<policy> chooser;
  fleet_view fleet;
  std::uint32_t next_instance;
  std::optional<time_point> armed;      ///< the wake_at that is under way
  std::optional<time_point> first_node; ///< when the first one joined
  bool all_expected{false};             ///< for good: a node that dies later is not waited for
  bool short_of_slots{false};           ///< something is missing and has no slot: said once, not at every event
};

namespace {

template <class... Ts>
void say(std::vector<effect>& out, fmt::format_string<Ts...> text, Ts&&... xs) {
  out.emplace_back(note{fmt::format(text, std::forward<Ts>(xs)...)});
}

bool counts(const fleet_instance& i) { return i.phase != life::stopping; }

std::string_view name(instance_role role) { return to_string(role); }

} // namespace

// --- what is there --------------------------------------------------------------------------------------------------

void core::kept::adopt(const node_up& e, time_point now, std::vector<effect>& out) {
  auto& node = fleet.nodes[e.node];
  node.draining = false;
  auto before = std::exchange(node.devices, {});
  for (const auto& slot : e.devices) {
    auto& device = node.devices[slot.index] = before[slot.index]; // its failures are remembered
    device.max_instances = slot.max_instances;
  }
  std::vector<instance_id> missing;
  for (const auto& [id, i] : fleet.instances)
    if (i.device.node == e.node &&
        std::none_of(e.running.begin(), e.running.end(), [id = id](const auto& r) { return r.instance == id; }))
      missing.push_back(id);
  for (auto id : missing) lose(id, "its node joined again without it", now, out);
  for (const auto& r : e.running) {
    next_instance = std::max(next_instance, r.instance.value + 1);
    auto [at, fresh] = fleet.instances.try_emplace(r.instance);
    if (!fresh && at->second.phase != life::starting) continue;
    at->second = {{e.node, r.device_index}, r.role, life::ready, now};
    if (fresh)
      say(out, "{} ({}) runs on {} already: adopted", to_string(r.instance), name(r.role),
          to_string(at->second.device));
  }
}

// An instance that is no more. Whether it is replaced is decided by the count of those that are left.
void core::kept::lose(instance_id id, std::string_view reason, time_point now, std::vector<effect>& out) {
  const auto found = fleet.instances.find(id);
  if (found == fleet.instances.end()) return;
  const auto was = found->second;
  fleet.instances.erase(found);
  if (was.phase == life::stopping) return say(out, "{} ({}) has ended", to_string(id), name(was.role));
  say(out, "{} ({}) on {} is lost: {}", to_string(id), name(was.role), to_string(was.device), reason);
  // One that served long was a good start; one that failed or died young makes its device rest.
  if (was.phase == life::starting || now - was.since < opts.backoff_max) return rest(was.device, now);
  if (auto node = fleet.nodes.find(was.device.node); node != fleet.nodes.end())
    if (auto device = node->second.devices.find(was.device.index); device != node->second.devices.end())
      device->second.failures = 0;
}

void core::kept::rest(device_id id, time_point now) {
  const auto node = fleet.nodes.find(id.node);
  if (node == fleet.nodes.end()) return;
  const auto device = node->second.devices.find(id.index);
  if (device == node->second.devices.end()) return;
  auto pause = opts.backoff_first;
  for (std::uint32_t i = 0; i < device->second.failures && pause < opts.backoff_max; ++i) pause *= 2;
  ++device->second.failures;
  device->second.rests_until = now + std::min(pause, opts.backoff_max);
}

void core::kept::stop(instance_id id, bool drain, time_point now, std::vector<effect>& out) {
  auto& i = fleet.instances.at(id);
  i.phase = life::stopping;
  i.since = now;
  out.emplace_back(stop_instance{id, drain});
}

std::uint32_t core::kept::running(instance_role role) const {
  return static_cast<std::uint32_t>(std::count_if(fleet.instances.begin(), fleet.instances.end(),
      [&](const auto& i) { return i.second.role == role && counts(i.second); }));
}

std::optional<std::string> core::kept::why_not_flip(instance_id id, instance_role to) const {
  const auto found = fleet.instances.find(id);
  if (found == fleet.instances.end()) return "no such instance";
  if (found->second.phase != life::ready) return "it is not ready";
  if (found->second.role == to) return fmt::format("it is {} already", name(to));
  bool prefill = can_prefill(to), decode = can_decode(to);
  for (const auto& [other, i] : fleet.instances) {
    if (other == id || i.phase != life::ready) continue;
    prefill = prefill || can_prefill(i.role);
    decode = decode || can_decode(i.role);
  }
  if (!prefill) return "no ready instance that can prefill would be left";
  if (!decode) return "no ready instance that can decode would be left";
  return std::nullopt;
}

// --- what should be there -------------------------------------------------------------------------------------------

void core::kept::reconcile(time_point now, std::vector<effect>& out) {
  stop_overdue(now, out);
  const auto wanted = chooser->wanted(fleet, now);
  stop_surplus(wanted, now, out);
  if (gathered(now, out)) start_missing(wanted, now, out);
  wake(short_of_slots, now, out);
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

// The newest go first, and those that still start before those that serve.
void core::kept::stop_surplus(const role_counts& wanted, time_point now, std::vector<effect>& out) {
  for (auto role : {instance_role::prefill, instance_role::decode, instance_role::mixed}) {
    const auto want = wanted.count(role) ? wanted.at(role) : 0;
    for (auto have = running(role); have > want; --have) {
      std::optional<std::pair<bool, instance_id>> leaver; // (still starts, id): the largest goes
      for (const auto& [id, i] : fleet.instances)
        if (i.role == role && counts(i) && i.phase != life::flipping)
          leaver = std::max(leaver.value_or(std::pair{false, instance_id{}}), {i.phase == life::starting, id});
      if (!leaver) break;
      say(out, "stop {}: {} {} instances run, {} are wanted", to_string(leaver->second), have, name(role), want);
      stop(leaver->second, true, now, out);
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

void core::kept::start_missing(const role_counts& wanted, time_point now, std::vector<effect>& out) {
  const bool was_short = std::exchange(short_of_slots, false);
  while (true) {
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
  for (const auto& [id, i] : fleet.instances)
    if (i.phase == life::starting) next = std::min(next.value_or(time_point::max()), i.since + opts.start_deadline);
  if (waits_for_device)
    if (const auto rested = next_rested(fleet, now)) next = std::min(next.value_or(time_point::max()), *rested);
  if (!next || (armed && *armed <= *next)) return;
  armed = next;
  out.emplace_back(wake_at{*next});
}

// --- events ---------------------------------------------------------------------------------------------------------

result<core> core::make(const options& opts) {
  std::map<instance_role, bool> seen;
  for (const auto& line : opts.fleet)
    if (std::exchange(seen[line.role], true))
      return fail(errc::reject, "fleet: role {} is listed twice", name(line.role));
  if (opts.start_deadline <= duration{0}) return fail(errc::reject, "start_deadline: expected more than 0");
  if (opts.backoff_first <= duration{0} || opts.backoff_max < opts.backoff_first)
    return fail(errc::reject, "backoff: expected 0 < backoff_first <= backoff_max");
  if (opts.first_instance == 0) return fail(errc::reject, "first_instance: expected 1 or more");
  return make_policy(opts).map([&](std::unique_ptr<policy>&& p) { return core(opts, std::move(p)); });
}

core::core(const options& opts, std::unique_ptr<policy> p) : kept_(std::make_unique<kept>(opts, std::move(p))) {}
core::core(core&&) noexcept = default;
core& core::operator=(core&&) noexcept = default;
core::~core() = default;

const fleet_view& core::state() const { return kept_->fleet; }

void core::on(const node_up& e, time_point now, std::vector<effect>& out) {
  kept_->adopt(e, now, out);
  kept_->reconcile(now, out);
}

void core::on(const node_gone& e, time_point now, std::vector<effect>& out) {
  kept_->fleet.nodes.erase(e.node);
  std::vector<instance_id> lost;
  for (const auto& [id, i] : kept_->fleet.instances)
    if (i.device.node == e.node) lost.push_back(id);
  for (auto id : lost) kept_->lose(id, "its node is gone", now, out);
  kept_->reconcile(now, out);
}

void core::on(const instance_state& e, time_point now, std::vector<effect>& out) {
  auto found = kept_->fleet.instances.find(e.instance);
  if (found == kept_->fleet.instances.end()) return;
  auto& i = found->second;
  switch (e.phase) {
  case instance_phase::started:
    return;
  case instance_phase::ready:
    if (i.phase != life::starting) return;
    i.phase = life::ready;
    i.since = now;
    say(out, "{} ({}) on {} is ready", to_string(e.instance), name(i.role), to_string(i.device));
    break;
  case instance_phase::failed:
  case instance_phase::gone:
    kept_->lose(e.instance, e.reason.empty() ? "no reason given" : e.reason, now, out);
    break;
  }
  kept_->reconcile(now, out);
}

void core::on(const role_changed& e, time_point now, std::vector<effect>& out) {
  auto found = kept_->fleet.instances.find(e.instance);
  if (found == kept_->fleet.instances.end()) return;
  auto& i = found->second;
  if (i.phase == life::flipping) i.phase = life::ready;
  if (i.role != e.role) {
    // It did not become what was asked: the wanted fleet follows what is, or it would be started and stopped for ever.
    auto& asked = kept_->fleet.configured[i.role];
    if (counts(i) && asked > 0) {
      --asked;
      ++kept_->fleet.configured[e.role];
    }
    i.role = e.role;
  }
  say(out, "{} is {} now", to_string(e.instance), name(e.role));
  kept_->reconcile(now, out);
}

void core::on(const request_role_change& e, time_point now, std::vector<effect>& out) {
  if (const auto reason = kept_->why_not_flip(e.instance, e.to)) {
    out.emplace_back(refuse{fmt::format("change role of {} to {}", to_string(e.instance), name(e.to)), *reason});
    return;
  }
  auto& i = kept_->fleet.instances.at(e.instance);
  const auto from = std::exchange(i.role, e.to);
  i.phase = life::flipping;
  auto& configured = kept_->fleet.configured;
  if (configured[from] > 0) --configured[from];
  ++configured[e.to];
  say(out, "change role of {} from {} to {}: asked for by hand", to_string(e.instance), name(from), name(e.to));
  out.emplace_back(change_role{e.instance, from, e.to});
  kept_->reconcile(now, out);
}

void core::on(const drain_instance& e, time_point now, std::vector<effect>& out) {
  const auto found = kept_->fleet.instances.find(e.instance);
  const bool known = found != kept_->fleet.instances.end();
  if (!known || found->second.phase == life::stopping) {
    out.emplace_back(
        refuse{fmt::format("drain {}", to_string(e.instance)), known ? "it is stopping already" : "no such instance"});
    return;
  }
  auto& asked = kept_->fleet.configured[found->second.role];
  if (asked > 0) --asked;
  say(out, "drain {} ({}): asked for by hand, not replaced", to_string(e.instance), name(found->second.role));
  kept_->stop(e.instance, true, now, out);
  kept_->reconcile(now, out);
}

void core::on(const drain_node& e, time_point now, std::vector<effect>& out) {
  const auto found = kept_->fleet.nodes.find(e.node);
  const bool known = found != kept_->fleet.nodes.end();
  if (!known || found->second.draining) {
    out.emplace_back(
        refuse{fmt::format("drain {}", to_string(e.node)), known ? "it is draining already" : "no such node"});
    return;
  }
  found->second.draining = true;
  say(out, "drain {}: asked for by hand, its instances are replaced elsewhere", to_string(e.node));
  for (auto& [id, i] : kept_->fleet.instances)
    if (i.device.node == e.node && counts(i)) kept_->stop(id, true, now, out);
  kept_->reconcile(now, out);
}

void core::on(const tick&, time_point now, std::vector<effect>& out) {
  kept_->armed.reset();
  kept_->reconcile(now, out);
}

} // namespace hflex::scaler
