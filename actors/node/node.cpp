#include "actors/node/node.hpp"
#include "actors/common/check.hpp"
#include <algorithm>
#include <fmt/format.h>
#include <utility>

namespace hflex::node {

std::string_view to_string(report_state s) {
  switch (s) {
  case report_state::starting:
    return "starting";
  case report_state::running:
    return "running";
  case report_state::stopping:
    return "stopping";
  case report_state::stopped:
    return "stopped";
  case report_state::failed:
    return "failed";
  case report_state::rejected:
    return "rejected";
  }
  return "failed";
}

std::string_view to_string(instance_state s) {
  switch (s) {
  case instance_state::waiting_weights:
    return "waiting_weights";
  case instance_state::creating_context:
    return "creating_context";
  case instance_state::spawning:
    return "spawning";
  case instance_state::running:
    return "running";
  case instance_state::changing_role:
    return "changing_role";
  case instance_state::stopping:
    return "stopping";
  case instance_state::killing:
    return "killing";
  }
  return "killing";
}

core::core(options opts) : opts_(std::move(opts)), random_(opts_.seed), heartbeat_interval_(opts_.heartbeat_interval) {
  HFLEX_CHECK(opts_.backoff_min > duration{0} && opts_.backoff_max >= opts_.backoff_min);
  HFLEX_CHECK(heartbeat_interval_ > duration{0} && opts_.connect_deadline > duration{0});
}

// ---- orders of the head ----

void core::on(const start_instance& e, time_point now, std::vector<effect>& out) {
  if (auto fault = start_fault(e); !fault.empty()) {
    tell(e.instance, report_state::rejected, std::nullopt, std::move(fault), out);
    return;
  }
  auto warm = idle_context(e.device, e.model);
  if (!warm && !make_slot(e.device, out)) {
    tell(e.instance, report_state::rejected, std::nullopt,
        fmt::format("device {} has no free slot: {} of {} in use", e.device, used_slots(e.device),
            opts_.devices[e.device].slots),
        out);
    return;
  }
  auto& i = instances_[e.instance];
  i = {instance_state::waiting_weights, e.role, e.device, e.model, warm, now + opts_.start_deadline, false};
  tell(e.instance, report_state::starting, e.role, {}, out);
  if (warm) {
    contexts_.at(warm).user = e.instance;
    spawn(e.instance, i, out);
  } else {
    out.emplace_back(ask_weights{e.instance, e.model});
  }
  settle(out);
}

/// What is wrong with the order itself; empty when nothing is.
std::string core::start_fault(const start_instance& e) const {
  if (ending_) return "the node is shutting down";
  if (!e.instance) return "an instance needs an id";
  if (auto it = instances_.find(e.instance); it != instances_.end())
    return fmt::format("{} is here already: {}", to_string(e.instance), to_string(it->second.state));
  if (e.device >= opts_.devices.size())
    return fmt::format(
        "device {} is unknown; {} has {} devices, counted from 0", e.device, opts_.name, opts_.devices.size());
  if (e.model.directory.empty() && e.model.digest.empty()) return "no model is named";
  return {};
}

void core::on(const stop_instance& e, time_point now, std::vector<effect>& out) {
  auto it = instances_.find(e.instance);
  if (it == instances_.end()) {
    tell(e.instance, report_state::rejected, std::nullopt, to_string(e.instance) + " is not on this node", out);
    return;
  }
  auto& i = it->second;
  switch (i.state) {
  case instance_state::waiting_weights:
  case instance_state::creating_context:
    stop_start(e.instance, report_state::stopped, {}, now, out);
    break;
  case instance_state::spawning:
    kill(e.instance, i, {}, now, out);
    break;
  case instance_state::running:
    if (e.drain)
      retire(e.instance, i, instance_state::stopping, now, out);
    else
      kill(e.instance, i, {}, now, out);
    break;
  case instance_state::changing_role: // drains already: it just does not come back
  case instance_state::stopping:
    i.state = instance_state::stopping;
    if (!e.drain) kill(e.instance, i, {}, now, out);
    break;
  case instance_state::killing:
    break;
  }
  settle(out);
}

void core::on(const change_role& e, time_point now, std::vector<effect>& out) {
  auto it = instances_.find(e.instance);
  if (it == instances_.end()) {
    tell(e.instance, report_state::rejected, std::nullopt, to_string(e.instance) + " is not on this node", out);
  } else if (auto& i = it->second; i.state != instance_state::running) {
    tell(e.instance, report_state::rejected, std::nullopt,
        fmt::format("{} is {}; only a running instance changes its role", to_string(e.instance), to_string(i.state)),
        out);
  } else if (i.role == e.to) {
    tell(e.instance, report_state::running, i.role, {}, out);
  } else {
    i.role = e.to;
    retire(e.instance, i, instance_state::changing_role, now, out);
    settle(out);
  }
}

void core::on(const shut_down&, time_point now, std::vector<effect>& out) {
  auto hurry = std::exchange(ending_, true);
  std::vector<instance_id> ids;
  for (auto& [id, i] : instances_) ids.push_back(id);
  for (auto id : ids) on(stop_instance{id, !hurry}, now, out);
  expire_contexts(now, out);
  settle(out);
}

// ---- a start, stage by stage ----

void core::on(const source_named& e, time_point now, std::vector<effect>& out) {
  auto it = instances_.find(e.instance);
  if (it == instances_.end()) return;
  auto& i = it->second;
  if (i.state == instance_state::waiting_weights) {
    i.ticket = false;
    if (!e.network) i.head.clear();
  } else if (!e.network && i.context && contexts_.at(i.context).base == weights_base::arriving) {
    // It may be in a step, in memory that only another host goes on with.
    lose_weights(e.instance, "no host gives the rest of the weights that it has begun to serve with", now, out);
    settle(out);
  }
}

void core::on(const weights_arriving& e, time_point now, std::vector<effect>& out) {
  auto it = instances_.find(e.instance);
  if (it == instances_.end() || it->second.state != instance_state::waiting_weights) return;
  it->second.head = e.digest;
  begin_early(e.instance, now, out);
}

void core::on(const ticket_came& e, time_point now, std::vector<effect>& out) {
  auto it = instances_.find(e.instance);
  if (it == instances_.end() || it->second.state != instance_state::waiting_weights) return;
  it->second.ticket = true;
  begin_early(e.instance, now, out);
}

/// Makes the context of an instance that waits for weights, if it can do with their head.
void core::begin_early(instance_id id, time_point now, effects& out) {
  const auto& i = instances_.at(id);
  const bool serves = serves_while_loading(i);
  if (i.head.empty() || (!serves && !i.ticket)) return;
  make_context(id, i.head, serves ? weights_base::arriving : weights_base::ticket, now, out);
  settle(out);
}

/// A GPU's weights are copied to it as a whole. Sequences that decode elsewhere must not be moved to where no step
/// ends.
bool core::serves_while_loading(const instance& i) const {
  return opts_.serve_while_loading && can_prefill(i.role) && opts_.devices[i.device].kind == "cpu";
}

void core::on(const weights_ready& e, time_point now, std::vector<effect>& out) {
  auto it = instances_.find(e.instance);
  if (it == instances_.end()) return;
  if (it->second.state == instance_state::waiting_weights)
    make_context(e.instance, e.digest, weights_base::whole, now, out);
  else if (it->second.context)
    contexts_.at(it->second.context).base = weights_base::whole;
  settle(out);
}

void core::make_context(instance_id id, const std::string& digest, weights_base base, time_point now, effects& out) {
  auto& i = instances_.at(id);
  if (!i.model.digest.empty() && i.model.digest != digest) {
    const auto why = fmt::format("weights {} came, {} wanted", digest, i.model.digest);
    if (base != weights_base::whole) out.emplace_back(cancel_weights{id});
    end(id, report_state::failed, why, true, now, out);
    return;
  }
  i.model.digest = digest;
  i.context = {++last_context_};
  i.state = instance_state::creating_context;
  contexts_[i.context] = {i.device, i.model, id, false, now, base};
  out.emplace_back(create_context{i.context, id, i.device, i.model, base});
}

bool core::has_arriving_weights(const instance& i) const {
  return i.context && contexts_.at(i.context).base != weights_base::whole;
}

bool core::wants_weights(instance_id id) const {
  auto it = instances_.find(id);
  if (it == instances_.end() || it->second.state == instance_state::killing) return false;
  return it->second.state == instance_state::waiting_weights || has_arriving_weights(it->second);
}

void core::on(const weights_failed& e, time_point now, std::vector<effect>& out) {
  auto it = instances_.find(e.instance);
  if (it == instances_.end()) return;
  lose_weights(e.instance, e.reason, now, out);
  settle(out);
}

/// The rest of its weights will never come.
void core::lose_weights(instance_id id, const std::string& reason, time_point now, effects& out) {
  auto& i = instances_.at(id);
  const bool arriving = has_arriving_weights(i);
  if (const auto& c = contexts_.find(i.context);
      c != contexts_.end() && c->second.base == weights_base::ticket && c->second.ready)
    return; // its device has them all
  if (i.state == instance_state::waiting_weights || (i.state == instance_state::creating_context && arriving))
    end(id, report_state::failed, reason, true, now, out);
  else if (arriving && i.state != instance_state::killing)
    kill(id, i, reason, now, out); // with what it runs
}

void core::on(const context_ready& e, time_point, std::vector<effect>& out) {
  auto it = contexts_.find(e.context);
  if (it == contexts_.end() || std::exchange(it->second.ready, true)) return;
  if (auto user = it->second.user) spawn(user, instances_.at(user), out);
  settle(out);
}

void core::on(const context_failed& e, time_point now, std::vector<effect>& out) {
  auto it = contexts_.find(e.context);
  if (it == contexts_.end() || it->second.ready) return;
  auto user = it->second.user;
  contexts_.erase(it); // there is nothing to free
  if (user) {
    instances_.at(user).context = {};
    end(user, report_state::failed, e.reason, true, now, out);
  }
  settle(out);
}

void core::on(const instance_ready& e, time_point, std::vector<effect>& out) {
  auto it = instances_.find(e.instance);
  if (it == instances_.end() || it->second.state != instance_state::spawning) return;
  it->second.state = instance_state::running;
  it->second.deadline.reset();
  tell(e.instance, report_state::running, it->second.role, {}, out);
  settle(out);
}

void core::spawn(instance_id id, instance& i, effects& out) {
  i.state = instance_state::spawning;
  out.emplace_back(spawn_instance{id, i.role, i.device, i.context});
}

// ---- the end of an actor ----

void core::on(const instance_stopped& e, time_point now, std::vector<effect>& out) {
  auto it = instances_.find(e.instance);
  if (it == instances_.end()) return;
  auto& i = it->second;
  switch (i.state) {
  case instance_state::waiting_weights:
  case instance_state::creating_context:
    return; // has no actor
  case instance_state::changing_role:
    i.deadline = now + opts_.spawn_deadline;
    spawn(e.instance, i, out);
    break;
  case instance_state::stopping:
  case instance_state::killing:
    end(e.instance, report_state::stopped, {}, true, now, out);
    break;
  case instance_state::spawning:
  case instance_state::running:
    end(e.instance, report_state::failed, "ended without being asked to", true, now, out);
    break;
  }
  settle(out);
}

void core::on(const instance_died& e, time_point now, std::vector<effect>& out) {
  auto it = instances_.find(e.instance);
  if (it == instances_.end()) return;
  auto state = it->second.state;
  if (state == instance_state::waiting_weights || state == instance_state::creating_context) return;
  auto asked = state == instance_state::killing;
  end(e.instance, asked ? report_state::stopped : report_state::failed, e.reason, !e.device_fault, now, out);
  settle(out);
}

void core::retire(instance_id id, instance& i, instance_state to, time_point now, effects& out) {
  i.state = to;
  i.deadline = now + opts_.drain_deadline;
  out.emplace_back(retire_instance{id});
  tell(id, report_state::stopping, std::nullopt, {}, out);
}

/// Ends a start that has no actor yet.
void core::stop_start(instance_id id, report_state state, const std::string& reason, time_point now, effects& out) {
  if (instances_.at(id).state == instance_state::waiting_weights) out.emplace_back(cancel_weights{id});
  end(id, state, reason, true, now, out);
}

/// A `fault` is reported now: the actor may never end.
void core::kill(instance_id id, instance& i, const std::string& fault, time_point now, effects& out) {
  i.state = instance_state::killing;
  i.deadline = now + opts_.spawn_deadline;
  out.emplace_back(kill_instance{id});
  if (fault.empty()) return;
  i.told_end = true;
  tell(id, report_state::failed, std::nullopt, fault, out);
}

/// The one place where an instance leaves. Its context becomes idle or is freed.
void core::end(
    instance_id id, report_state state, const std::string& reason, bool keep_context, time_point now, effects& out) {
  auto i = instances_.at(id);
  instances_.erase(id);
  const bool arriving = has_arriving_weights(i);
  if (arriving) out.emplace_back(cancel_weights{id});
  if (i.context && keep_context && !ending_ && !arriving) {
    auto& c = contexts_.at(i.context);
    c.user = {};
    c.idle_since = now;
  } else if (i.context) {
    release(i.context, out);
  }
  if (!i.told_end) tell(id, state, std::nullopt, reason, out);
}

// ---- contexts ----

/// Contexts on the device, idle ones too, and starts that will make one.
std::uint32_t core::used_slots(std::uint32_t device) const {
  auto made = std::count_if(contexts_.begin(), contexts_.end(), [&](auto& c) { return c.second.device == device; });
  auto coming = std::count_if(
      instances_.begin(), instances_.end(), [&](auto& i) { return i.second.device == device && !i.second.context; });
  return static_cast<std::uint32_t>(made + coming);
}

/// Frees the context that was idle for longest if the device is full; false when none is idle.
bool core::make_slot(std::uint32_t device, effects& out) {
  if (used_slots(device) < opts_.devices[device].slots) return true;
  auto oldest = contexts_.end();
  for (auto it = contexts_.begin(); it != contexts_.end(); ++it) {
    auto& c = it->second;
    if (c.device == device && !c.user && (oldest == contexts_.end() || c.idle_since < oldest->second.idle_since))
      oldest = it;
  }
  if (oldest == contexts_.end()) return false;
  release(oldest->first, out);
  return true;
}

/// A warm context that holds that model. An order that names no digest takes what the directory held.
context_id core::idle_context(std::uint32_t device, const model_ref& model) const {
  for (auto& [id, c] : contexts_) {
    auto same = model.digest.empty() ? c.model.directory == model.directory : c.model.digest == model.digest;
    if (c.device == device && c.ready && !c.user && same) return id;
  }
  return {};
}

void core::release(context_id id, effects& out) {
  out.emplace_back(release_context{id});
  contexts_.erase(id);
}

// ---- time ----

void core::on(const tick&, time_point now, std::vector<effect>& out) {
  if (announced_ && *announced_ <= now) announced_.reset();
  step_link(now, out);
  expire_instances(now, out);
  expire_contexts(now, out);
  settle(out);
}

void core::expire_instances(time_point now, effects& out) {
  std::vector<instance_id> late;
  for (auto& [id, i] : instances_)
    if (i.deadline && *i.deadline <= now) late.push_back(id);
  for (auto id : late) {
    auto& i = instances_.at(id);
    auto fault = fmt::format("its deadline passed while {}", to_string(i.state));
    switch (i.state) {
    case instance_state::waiting_weights:
      stop_start(id, report_state::failed, fault, now, out);
      break;
    case instance_state::creating_context:
      end(id, report_state::failed, fault, false, now, out);
      break;
    case instance_state::running:
      break; // has no deadline
    case instance_state::spawning:
    case instance_state::changing_role:
    case instance_state::stopping:
      kill(id, i, fault, now, out);
      break;
    case instance_state::killing:
      kill(id, i, {}, now, out);
      break; // again: its context is not free before it ends
    }
  }
}

void core::expire_contexts(time_point now, effects& out) {
  std::vector<context_id> cold;
  for (auto& [id, c] : contexts_)
    if (!c.user && (ending_ || c.idle_since + opts_.keep_contexts <= now)) cold.push_back(id);
  for (auto id : cold) release(id, out);
}

/// Ends an event: says goodbye if that was the last of it, and asks to be woken at the earliest deadline.
void core::settle(effects& out) {
  leave_when_done(out);
  auto due = next_step_;
  auto consider = [&](time_point t) {
    if (!due || t < *due) due = t;
  };
  for (auto& [id, i] : instances_)
    if (i.deadline) consider(*i.deadline);
  for (auto& [id, c] : contexts_)
    if (!c.user) consider(c.idle_since + opts_.keep_contexts);
  if (!due || (announced_ && *announced_ <= *due)) return;
  announced_ = due;
  out.emplace_back(wake_at{*due});
}

std::vector<instance_view> core::instances() const {
  std::vector<instance_view> all;
  for (auto& [id, i] : instances_) all.push_back({id, i.state, i.role, i.device, i.context});
  return all;
}

} // namespace hflex::node
