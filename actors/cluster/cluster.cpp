#include "actors/cluster/cluster.hpp"
#include "actors/common/check.hpp"
#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <utility>

namespace hflex::cluster {

namespace {

constexpr std::size_t max_name_length = 128;
constexpr std::size_t max_devices = 256;
constexpr std::size_t past_lives_kept = 16;

std::string duty_text(std::optional<instance_role> role, instance_role duty) {
  return role == instance_role::mixed && duty != instance_role::mixed ? std::string(to_string(duty)) : "";
}

bool has_control_character(const std::string& text) {
  return std::any_of(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20U || c == 0x7F; });
}

/// Exactly the fields that name an actor of its kind are set.
bool well_formed(const actor_ref& ref) {
  auto instance = ref.kind == actor_kind::instance;
  auto agent = ref.kind == actor_kind::node_agent;
  return bool(ref.instance) == instance && bool(ref.node) == agent;
}

std::string link_text(const actor_ref& from, const actor_ref& to) { return to_string(from) + " -> " + to_string(to); }

} // namespace

std::string_view to_string(actor_kind k) {
  switch (k) {
  case actor_kind::router:
    return "router";
  case actor_kind::scheduler:
    return "scheduler";
  case actor_kind::scaler:
    return "scaler";
  case actor_kind::weights:
    return "weights";
  case actor_kind::cluster:
    return "cluster";
  case actor_kind::gateway:
    return "gateway";
  case actor_kind::node_agent:
    return "node_agent";
  case actor_kind::instance:
    return "instance";
  }
  return "instance";
}

std::string_view to_string(link_kind k) {
  switch (k) {
  case link_kind::control:
    return "control";
  case link_kind::kv:
    return "kv";
  case link_kind::weights:
    return "weights";
  }
  return "control";
}

std::string to_string(const actor_ref& ref) {
  if (ref.kind == actor_kind::instance) return to_string(ref.instance);
  if (ref.kind == actor_kind::node_agent) return "agent-" + to_string(ref.node);
  return std::string(to_string(ref.kind));
}

core::core(options opts) : opts_(opts) {
  HFLEX_CHECK(opts_.suspect_after > opts_.heartbeat_interval && opts_.lost_after > opts_.suspect_after);
  HFLEX_CHECK(opts_.max_nodes > 0);
}

// ---- nodes ----

void core::on(const node_joined& e, time_point now, std::vector<effect>& out) {
  auto* known = by_name(e.name);
  if (auto fault = join_fault(e, known, now)) {
    out.emplace_back(refuse_join{e.name, e.incarnation, *fault});
    return;
  }
  if (known && known->incarnation == e.incarnation) { // asked twice
    known->last_heard = now;
  } else {
    if (!known && nodes_.size() >= opts_.max_nodes && !make_room()) {
      out.emplace_back(refuse_join{e.name, e.incarnation,
          fmt::format("the cluster has {} live nodes, limit {}", nodes_.size(), opts_.max_nodes)});
      return;
    }
    if (!known) {
      node_id id{++last_node_};
      known = &nodes_[id];
      known->id = id;
      known->name = e.name;
    }
    admit(*known, e, now, out);
  }
  out.emplace_back(welcome{e.name, e.incarnation, known->id, epoch_, opts_.heartbeat_interval});
  announce(out);
}

/// Why it may not join; nothing when it may.
std::optional<std::string> core::join_fault(const node_joined& e, const node* known, time_point now) const {
  if (e.incarnation == 0) return "incarnation 0 is not valid; send 64 random bits";
  if (e.name.empty() || e.name.size() > max_name_length || has_control_character(e.name))
    return fmt::format("a node's name has 1 to {} bytes and no control characters", max_name_length);
  if (e.devices.size() > max_devices)
    return fmt::format("{} devices announced, limit {}", e.devices.size(), max_devices);
  if (!known) return std::nullopt;
  auto& past = known->past_incarnations;
  if (std::find(past.begin(), past.end(), e.incarnation) != past.end())
    return "this incarnation was replaced by a newer one; join again with a new one";
  if (known->incarnation == e.incarnation)
    return known->live() ? std::nullopt
                         : std::optional<std::string>("this incarnation is out; join again with a new one");
  // Each of two agents with one name would end the other's life for ever, and the jobs there with it.
  const auto same_agent = known->address == e.address && known->process == e.process;
  if (known->state == node_state::up && now - known->last_heard < opts_.suspect_after && !same_agent)
    return fmt::format("the name \"{}\" is taken by a live node, process {} at {}; choose another one with --name",
        e.name, known->process, known->address);
  return std::nullopt;
}

void core::admit(node& n, const node_joined& e, time_point now, effects& out) {
  if (n.live() && n.incarnation != 0) lose(n, node_state::lost, "replaced by a new incarnation", out);
  if (n.incarnation != 0) n.past_incarnations.push_back(n.incarnation);
  if (n.past_incarnations.size() > past_lives_kept) n.past_incarnations.pop_front();
  n.incarnation = e.incarnation;
  n.address = e.address;
  n.process = e.process;
  n.devices = e.devices;
  n.state = node_state::up;
  n.last_sequence = n.weights_bytes = n.weights_idle_bytes = 0;
  n.last_heard = now;
  changed(change::node_joined, to_string(n.id), fmt::format("{} at {}", n.name, n.address), out);
}

void core::on(const heartbeat& e, time_point now, std::vector<effect>& out) {
  auto* n = live(e.node, e.incarnation);
  if (!n) {
    auto it = nodes_.find(e.node);
    auto said_goodbye =
        it != nodes_.end() && it->second.state == node_state::left && it->second.incarnation == e.incarnation;
    if (!said_goodbye) out.emplace_back(ask_rejoin{e.node, e.incarnation});
    return;
  }
  if (e.sequence <= n->last_sequence) return;
  n->last_sequence = e.sequence;
  n->last_heard = now;
  n->weights_bytes = e.weights_bytes;
  n->weights_idle_bytes = std::min(e.weights_idle_bytes, e.weights_bytes);
  for (std::size_t i = 0; i < std::min(n->devices.size(), e.memory_used_bytes.size()); ++i)
    n->devices[i].memory_used_bytes = std::min(e.memory_used_bytes[i], n->devices[i].memory_bytes);
  if (n->state == node_state::suspect) {
    n->state = node_state::up;
    note(change::node_recovered, to_string(n->id), n->name, out);
  }
  announce(out);
}

void core::on(const device_memory& e, time_point, std::vector<effect>&) {
  auto found = nodes_.find(e.node);
  if (found != nodes_.end() && found->second.live() && e.index < found->second.devices.size())
    found->second.devices[e.index].memory_used_bytes = e.used_bytes;
}

void core::on(const node_left& e, time_point, std::vector<effect>& out) {
  if (auto* n = live(e.node, e.incarnation)) lose(*n, node_state::left, "left", out);
  announce(out);
}

void core::on(const node_down& e, time_point, std::vector<effect>& out) {
  if (auto* n = live(e.node, e.incarnation)) lose(*n, node_state::lost, e.reason, out);
  announce(out);
}

void core::on(const tick&, time_point now, std::vector<effect>& out) {
  if (announced_ && *announced_ <= now) announced_.reset();
  for (auto& [id, n] : nodes_) {
    if (!n.live()) continue;
    auto silence = now - n.last_heard;
    if (n.state == node_state::suspect && due(n) <= now) {
      lose(n, node_state::lost, fmt::format("no heartbeat for {:g} s", to_s(silence)), out);
    } else if (silence >= opts_.suspect_after && n.state == node_state::up) {
      n.state = node_state::suspect;
      n.suspect_since = now;
      note(change::node_suspect, to_string(id), fmt::format("no heartbeat for {:g} s", to_s(silence)), out);
    }
  }
  announce(out);
}

void core::lose(node& n, node_state to, const std::string& reason, effects& out) {
  std::vector<actor_ref> here;
  for (auto& [ref, a] : actors_)
    if (a.node == n.id) here.push_back(ref);
  for (auto& ref : here) drop_actor(ref, to_string(n.id) + ": " + reason, out);
  n.state = to;
  changed(to == node_state::left ? change::node_left : change::node_lost, to_string(n.id), reason, out);
  out.emplace_back(node_lost{n.id, reason});
}

core::node* core::live(node_id id, std::uint64_t incarnation) {
  auto it = nodes_.find(id);
  return it != nodes_.end() && it->second.live() && it->second.incarnation == incarnation ? &it->second : nullptr;
}

core::node* core::by_name(const std::string& name) {
  auto it = std::find_if(nodes_.begin(), nodes_.end(), [&](const auto& entry) { return entry.second.name == name; });
  return it == nodes_.end() ? nullptr : &it->second;
}

/// Forgets the node that has been out for longest; false when all are in.
bool core::make_room() {
  auto longest_gone = nodes_.end();
  for (auto it = nodes_.begin(); it != nodes_.end(); ++it)
    if (!it->second.live() && (longest_gone == nodes_.end() || it->second.last_heard < longest_gone->second.last_heard))
      longest_gone = it;
  if (longest_gone == nodes_.end()) return false;
  nodes_.erase(longest_gone);
  return true;
}

// ---- actors ----

void core::on(const actor_up& e, time_point, std::vector<effect>& out) {
  if (!well_formed(e.actor)) return;
  auto host = nodes_.find(e.node);
  if (e.node && (host == nodes_.end() || !host->second.live()))
    return refuse_actor(e, to_string(e.node) + " is not in the cluster", out);
  auto known = actors_.find(e.actor);
  if (known == actors_.end()) {
    if (actors_.size() >= opts_.max_actors)
      return refuse_actor(e, fmt::format("the cluster has {} actors, limit {}", actors_.size(), opts_.max_actors), out);
    auto& a = actors_[e.actor];
    a.node = e.node;
    a.role = e.role;
    a.device = e.device;
    a.status.state = e.state;
    auto role = e.role ? std::string(to_string(*e.role)) + ", " : std::string{};
    changed(change::actor_up, to_string(e.actor), role + e.state, out);
  } else if (known->second.node == e.node) { // told again
    set_role(e.actor, known->second, e.role, out);
    set_state(e.actor, known->second, e.state, out);
  }
}

/// Whoever counts on the instance must hear that it never was one.
void core::refuse_actor(const actor_up& e, const std::string& reason, effects& out) const {
  if (e.actor.kind == actor_kind::instance && actors_.count(e.actor) == 0)
    out.emplace_back(instance_lost{e.actor.instance, reason});
}

void core::on(const actor_status& e, time_point, std::vector<effect>& out) {
  auto ref = instance_ref(e.instance);
  auto it = actors_.find(ref);
  if (it == actors_.end()) return;
  auto state = it->second.status.state;
  it->second.status = e;
  it->second.status.state = std::move(state);
  set_state(ref, it->second, e.state, out);
}

void core::on(const mailbox_status& e, time_point, std::vector<effect>&) {
  if (auto it = actors_.find(e.actor); it != actors_.end()) it->second.status.mailbox = e.mailbox;
}

void core::on(const actor_down& e, time_point, std::vector<effect>& out) {
  if (actors_.count(e.actor)) drop_actor(e.actor, e.reason, out);
}

void core::on(const role_changed& e, time_point, std::vector<effect>& out) {
  auto ref = instance_ref(e.instance);
  if (auto it = actors_.find(ref); it != actors_.end()) set_role(ref, it->second, e.role, out);
}

void core::on(const duty_status& e, time_point, std::vector<effect>&) {
  if (auto it = actors_.find(instance_ref(e.instance)); it != actors_.end()) it->second.duty = e.duty;
}

void core::set_role(const actor_ref& ref, actor& a, std::optional<instance_role> role, effects& out) {
  if (!role || a.role == role) return;
  auto before = a.role ? std::string(to_string(*a.role)) : std::string("none");
  a.role = role;
  changed(change::role_changed, to_string(ref), fmt::format("{} -> {}", before, to_string(*role)), out);
}

void core::set_state(const actor_ref& ref, actor& a, const std::string& state, effects& out) {
  if (state.empty() || a.status.state == state) return;
  auto before = std::exchange(a.status.state, state);
  changed(change::actor_state, to_string(ref), fmt::format("{} -> {}", before, state), out);
}

void core::drop_actor(const actor_ref& ref, const std::string& reason, effects& out) {
  close_links(ref, out);
  actors_.erase(ref);
  changed(change::actor_down, to_string(ref), reason, out);
  if (ref.kind == actor_kind::instance) out.emplace_back(instance_lost{ref.instance, reason});
}

// ---- links ----

bool core::takes_link(const actor_ref& from, const actor_ref& to, link_kind kind) const {
  if (actors_.count(from) == 0 || actors_.count(to) == 0) return false;
  return links_.size() < opts_.max_links || links_.count({from, to, kind}) > 0;
}

void core::on(const link_opening& e, time_point, std::vector<effect>& out) {
  if (!takes_link(e.from, e.to, e.kind)) return;
  links_[{e.from, e.to, e.kind}] = {link_state::opening, e.transport, 0, 0};
  changed(change::link_opening, link_text(e.from, e.to), std::string(to_string(e.kind)), out);
}

void core::on(const link_failed& e, time_point, std::vector<effect>& out) {
  auto found = links_.find({e.from, e.to, e.kind});
  if (found == links_.end() || found->second.is == link_state::failed) return;
  found->second.is = link_state::failed;
  changed(change::link_failed, link_text(e.from, e.to), fmt::format("{}: {}", to_string(e.kind), e.reason), out);
}

void core::on(const link_opened& e, time_point, std::vector<effect>& out) {
  if (!takes_link(e.from, e.to, e.kind)) return;
  auto [known, fresh] = links_.try_emplace({e.from, e.to, e.kind});
  auto& l = known->second;
  if (!fresh && l.is == link_state::open && l.transport == e.transport) return;
  l.is = link_state::open;
  l.transport = e.transport;
  changed(change::link_opened, link_text(e.from, e.to), fmt::format("{} by {}", to_string(e.kind), e.transport), out);
}

void core::on(const link_traffic& e, time_point, std::vector<effect>& out) {
  auto it = links_.find({e.from, e.to, e.kind});
  if (it == links_.end()) return;
  auto& l = it->second;
  const auto before = l.bytes_total;
  l.bytes_total = std::max(l.bytes_total, e.bytes_total);
  l.bytes_expected = e.bytes_expected;
  if (e.kind == link_kind::weights && before < l.bytes_expected && l.bytes_total >= l.bytes_expected)
    changed(change::weights_arrived, link_text(e.from, e.to), fmt::format("{} bytes", l.bytes_total), out);
}

void core::on(const link_closed& e, time_point, std::vector<effect>& out) {
  if (links_.erase({e.from, e.to, e.kind}) > 0)
    changed(change::link_closed, link_text(e.from, e.to), std::string(to_string(e.kind)), out);
}

void core::close_links(const actor_ref& ref, effects& out) {
  for (auto it = links_.begin(); it != links_.end();) {
    auto& [from, to, kind] = it->first;
    if (from != ref && to != ref) {
      ++it;
      continue;
    }
    auto subject = link_text(from, to);
    auto detail = std::string(to_string(kind));
    it = links_.erase(it);
    changed(change::link_closed, std::move(subject), std::move(detail), out);
  }
}

// ---- what watchers see ----

void core::changed(change what, std::string subject, std::string detail, effects& out) {
  ++epoch_;
  note(what, std::move(subject), std::move(detail), out);
}

void core::note(change what, std::string subject, std::string detail, effects& out) {
  history_.push_back({++sequence_, epoch_, what, std::move(subject), std::move(detail)});
  out.emplace_back(history_.back());
  if (history_.size() > opts_.max_events) history_.pop_front();
}

std::optional<std::vector<cluster_event>> core::events_after(std::uint64_t sequence) const {
  if (sequence > sequence_) return std::nullopt; // counted by an earlier head
  auto oldest_missed = sequence + 1;
  auto oldest_kept = sequence_ + 1 - history_.size();
  if (oldest_missed < oldest_kept) return std::nullopt;
  return std::vector<cluster_event>(
      history_.begin() + static_cast<std::ptrdiff_t>(oldest_missed - oldest_kept), history_.end());
}

snapshot core::topology() const {
  static constexpr std::array<const char*, 4> states{"up", "suspect", "lost", "left"};
  snapshot s;
  s.epoch = epoch_;
  for (auto& [id, n] : nodes_) {
    if (n.state == node_state::left) continue;
    node_view view{to_string(id), n.name, n.address, states[static_cast<std::size_t>(n.state)], {}, n.weights_bytes,
        n.weights_idle_bytes};
    for (std::uint32_t i = 0; i < n.devices.size(); ++i) {
      auto& d = n.devices[i];
      view.devices.push_back({to_string(device_id{id, i}), d.kind, d.name, d.memory_bytes, d.memory_used_bytes});
    }
    s.nodes.push_back(std::move(view));
  }
  for (auto& [ref, a] : actors_) {
    auto& load = a.status;
    s.actors.push_back({to_string(ref), std::string(to_string(ref.kind)), a.node ? to_string(a.node) : "",
        a.role ? std::string(to_string(*a.role)) : "", a.device ? to_string(device_id{a.node, *a.device}) : "",
        load.state, load.running, load.waiting, load.kv_blocks_total, load.kv_blocks_free, load.mailbox,
        load.step_ms_mean, load.kv_blocks_cached, load.prefix_hit_ratio, duty_text(a.role, a.duty)});
  }
  for (auto& [key, l] : links_) {
    auto& [from, to, kind] = key;
    const bool done = l.bytes_expected > 0 && l.bytes_total >= l.bytes_expected;
    s.links.push_back({to_string(from), to_string(to), std::string(to_string(kind)), l.transport, l.bytes_total,
        l.bytes_expected, std::string(done ? "done" : to_string(l.is))});
  }
  return s;
}

/// When a node that goes on being silent is suspected, or lost.
time_point core::due(const node& n) const {
  if (n.state == node_state::up) return n.last_heard + opts_.suspect_after;
  return std::max(n.last_heard + opts_.lost_after, n.suspect_since + (opts_.lost_after - opts_.suspect_after));
}

void core::announce(effects& out) {
  std::optional<time_point> earliest;
  for (auto& [id, n] : nodes_) {
    if (!n.live()) continue;
    if (auto next = due(n); !earliest || next < *earliest) earliest = next;
  }
  if (!earliest || (announced_ && *announced_ <= *earliest)) return;
  announced_ = earliest;
  out.emplace_back(wake_at{*earliest});
}

} // namespace hflex::cluster
