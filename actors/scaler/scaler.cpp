#include "actors/scaler/kept.hpp"
#include <algorithm>

namespace hflex::scaler {

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

// What would have to move or to end before it is free: tokens in its KV memory, and prefill still to do.
std::uint64_t core::kept::residents(instance_id id) const {
  for (const auto& i : fleet.demand.instances)
    if (i.instance == id) return i.decode_context + i.pending_prefill;
  return 0;
}

void core::kept::flip(instance_id id, instance_role to, time_point now, std::vector<effect>& out) {
  auto& i = fleet.instances.at(id);
  const auto from = std::exchange(i.role, to);
  i.phase = life::flipping;
  i.since = now;
  out.emplace_back(change_role{id, from, to});
}

// The latest starts count most: links and caches warm up, loads change.
void core::kept::learn_lead_time(duration took) {
  if (took <= duration{0}) return; // it was there before
  constexpr double newest = 0.3;
  fleet.lead_time = from_s((1 - newest) * to_s(fleet.lead_time) + newest * to_s(took));
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
  if (opts.hand_hold < duration{0}) return fail(errc::reject, "hand_hold: expected 0 or more");
  if (opts.first_instance == 0) return fail(errc::reject, "first_instance: expected 1 or more");
  if (opts.max_instances == 0 || opts.max_instances < opts.min_instances)
    return fail(errc::reject, "max_instances: expected 1 or more, and min_instances = {} or more", opts.min_instances);
  if (opts.max_decisions == 0) return fail(errc::reject, "max_decisions: expected 1 or more");
  return make_policy(opts).map([&](std::unique_ptr<policy>&& p) { return core(opts, std::move(p)); });
}

core::core(const options& opts, std::unique_ptr<policy> p) : kept_(std::make_unique<kept>(opts, std::move(p))) {}
core::core(core&&) noexcept = default;
core& core::operator=(core&&) noexcept = default;
core::~core() = default;

const fleet_view& core::state() const { return kept_->fleet; }
const std::deque<decision>& core::decisions() const { return kept_->decisions; }

void core::on(const node_up& e, time_point now, std::vector<effect>& out) {
  const chronicle noted{*kept_, out, now};
  kept_->adopt(e, now, out);
  kept_->reconcile(now, out);
}

void core::on(const node_gone& e, time_point now, std::vector<effect>& out) {
  const chronicle noted{*kept_, out, now};
  kept_->fleet.nodes.erase(e.node);
  std::vector<instance_id> lost;
  for (const auto& [id, i] : kept_->fleet.instances)
    if (i.device.node == e.node) lost.push_back(id);
  for (auto id : lost) kept_->lose(id, "its node is gone", now, out);
  kept_->reconcile(now, out);
}

void core::on(const instance_state& e, time_point now, std::vector<effect>& out) {
  const chronicle noted{*kept_, out, now};
  auto found = kept_->fleet.instances.find(e.instance);
  if (found == kept_->fleet.instances.end()) return;
  auto& i = found->second;
  switch (e.phase) {
  case instance_phase::started:
    return;
  case instance_phase::ready:
    if (i.phase != life::starting) return;
    if (e.weights_coming)
      i.loading_since = i.since;
    else
      kept_->learn_lead_time(now - i.since);
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

void core::on(const weights_there& e, time_point now, std::vector<effect>&) {
  auto found = kept_->fleet.instances.find(e.instance);
  if (found == kept_->fleet.instances.end()) return;
  if (const auto since = std::exchange(found->second.loading_since, std::nullopt)) kept_->learn_lead_time(now - *since);
}

void core::on(const role_changed& e, time_point now, std::vector<effect>& out) {
  const chronicle noted{*kept_, out, now};
  auto found = kept_->fleet.instances.find(e.instance);
  if (found == kept_->fleet.instances.end()) return;
  auto& i = found->second;
  const bool flipped = i.phase == life::flipping;
  const auto took = now - i.since;
  if (flipped) i.phase = life::ready;
  if (i.role != e.role) {
    i.by_hand.reset();
    // It did not become what was asked: the wanted fleet follows what is, or it would be started and stopped for ever.
    auto& asked = kept_->fleet.configured[i.role];
    if (counts(i) && asked > 0) {
      --asked;
      ++kept_->fleet.configured[e.role];
    }
    i.role = e.role;
  }
  if (flipped)
    out.emplace_back(note{fmt::format("{} is {} now, {:.1f} ms after its residents had gone", to_string(e.instance),
                              name(e.role), to_ms(took - e.drained)),
        {{"flip_ms", to_ms(took)}, {"drain_ms", to_ms(e.drained)}}});
  else
    say(out, "{} is {} now", to_string(e.instance), name(e.role));
  kept_->reconcile(now, out);
}

void core::on(const demand_reported& e, time_point now, std::vector<effect>& out) {
  const chronicle noted{*kept_, out, now};
  kept_->fleet.demand = e.demand;
  kept_->fleet.demand_at = now;
  kept_->chooser->told(kept_->fleet, e.demand, now);
  kept_->reconcile(now, out);
}

void core::on(const tick&, time_point now, std::vector<effect>& out) {
  const chronicle noted{*kept_, out, now};
  kept_->armed.reset();
  kept_->reconcile(now, out);
}

} // namespace hflex::scaler
