#include "actors/scaler/kept.hpp"

namespace hflex::scaler {

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

std::optional<std::string> core::kept::why_not_scale(const request_scale& e) const {
  const auto least = e.min_instances.value_or(fleet.min_instances);
  const auto most = e.max_instances.value_or(fleet.max_instances);
  if (most == 0 || least > most) return fmt::format("from {} to {} instances is no range", least, most);
  if (!e.count) return std::nullopt;
  if (!e.role && fleet.configured.size() != 1)
    return std::string("the fleet has instances of more than one role: say which one");
  const auto role = e.role.value_or(fleet.configured.begin()->first);
  std::uint64_t total = *e.count;
  bool prefill = can_prefill(role) && *e.count > 0, decode = can_decode(role) && *e.count > 0;
  for (const auto& [other, count] : fleet.configured) {
    if (other == role) continue;
    total += count;
    prefill = prefill || (can_prefill(other) && count > 0);
    decode = decode || (can_decode(other) && count > 0);
  }
  if (total > most) return fmt::format("that makes {} instances, and at most {} are allowed", total, most);
  if (total < least) return fmt::format("that makes {} instances, and at least {} are wanted", total, least);
  if (least > 0 && !prefill) return std::string("no instance that can prefill would be left");
  if (least > 0 && !decode) return std::string("no instance that can decode would be left");
  return std::nullopt;
}

void core::on(const request_role_change& e, time_point now, std::vector<effect>& out) {
  const chronicle noted{*kept_, out, now};
  if (const auto reason = kept_->why_not_flip(e.instance, e.to)) {
    out.emplace_back(refuse{fmt::format("change role of {} to {}", to_string(e.instance), name(e.to)), *reason});
    return;
  }
  const auto from = kept_->fleet.instances.at(e.instance).role;
  auto& configured = kept_->fleet.configured;
  if (configured[from] > 0) --configured[from];
  ++configured[e.to];
  auto& held = kept_->fleet.held; // a number that a person set follows what the person does
  if (const auto count = held.find(from); count != held.end() && count->second > 0) --count->second;
  if (const auto count = held.find(e.to); count != held.end()) ++count->second;
  say(out, "change role of {} from {} to {}: asked for by hand", to_string(e.instance), name(from), name(e.to));
  kept_->one_less_by_hand(from);
  kept_->flip(e.instance, e.to, now, out);
  kept_->fleet.instances.at(e.instance).by_hand = {from, now + kept_->opts.hand_hold, kept_->running(e.to)};
  kept_->reconcile(now, out);
}

void core::on(const drain_instance& e, time_point now, std::vector<effect>& out) {
  const chronicle noted{*kept_, out, now};
  const auto found = kept_->fleet.instances.find(e.instance);
  const bool known = found != kept_->fleet.instances.end();
  if (!known || found->second.phase == life::stopping) {
    out.emplace_back(
        refuse{fmt::format("drain {}", to_string(e.instance)), known ? "it is stopping already" : "no such instance"});
    return;
  }
  auto& asked = kept_->fleet.configured[found->second.role];
  if (asked > 0) --asked;
  kept_->one_less_by_hand(found->second.role);
  say(out, "drain {} ({}): asked for by hand, not replaced", to_string(e.instance), name(found->second.role));
  kept_->stop(e.instance, true, now, out);
  kept_->reconcile(now, out);
}

void core::on(const drain_node& e, time_point now, std::vector<effect>& out) {
  const chronicle noted{*kept_, out, now};
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

void core::on(const request_scale& e, time_point now, std::vector<effect>& out) {
  const chronicle noted{*kept_, out, now};
  auto& fleet = kept_->fleet;
  if (const auto reason = kept_->why_not_scale(e)) {
    out.emplace_back(refuse{"scale", *reason});
    return;
  }
  fleet.min_instances = e.min_instances.value_or(fleet.min_instances);
  fleet.max_instances = e.max_instances.value_or(fleet.max_instances);
  if (e.min_instances || e.max_instances)
    say(out, "from {} to {} instances: asked for by hand", fleet.min_instances, fleet.max_instances);
  if (e.automatic) {
    fleet.held.clear();
    for (auto& [id, i] : fleet.instances) i.by_hand.reset();
    say(out, "the policy {} decides: asked for by hand", kept_->opts.policy);
  }
  if (e.count) {
    const auto role = e.role.value_or(fleet.configured.begin()->first);
    fleet.configured[role] = fleet.held[role] = *e.count;
    say(out, "{} {} instances: asked for by hand", *e.count, name(role));
    kept_->short_of_slots = false; // whether a device is free is what the person wants to hear, told before or not
  }
  kept_->reconcile(now, out);
}

} // namespace hflex::scaler
