// The cluster's core: who is in (nodes, actors), what they are (roles, devices, state), how they are linked, and the
// epoch that grows with every such change. Called by the cluster's shell on the head. It decides who may join and who
// counts as lost; it starts, stops and places nothing.
//
//   node:  (unknown) --joined--> up <--heartbeat--> suspect --silence--> lost --joined--> up
//          up, suspect --down--> lost          up, suspect --left--> (forgotten, its name keeps its id)
//
// The epoch rises by one with each join, leave, loss, actor up/down/state, role change, change of a link; never with
// load numbers, heartbeats, traffic or suspicion.
#pragma once
#include "actors/cluster/linking.hpp"
#include "actors/cluster/topology.hpp"
#include "actors/common/ids.hpp"
#include "actors/common/request.hpp"
#include "actors/common/time.hpp"
#include <compare>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <variant>
#include <vector>

namespace hflex::cluster {

struct options {
  duration heartbeat_interval{std::chrono::milliseconds{500}}; ///< told to agents with the welcome
  duration suspect_after{std::chrono::milliseconds{1500}};     ///< silence; > heartbeat_interval
  duration lost_after{std::chrono::seconds{3}}; ///< silence; > suspect_after. Never sooner after the suspicion than
                                                ///< the difference of both: a head that was held up itself reads first
                                                ///< what its nodes have sent meanwhile
  std::size_t max_nodes{1024}; ///< names known at a time; when full, the longest gone makes room, never a live one
  std::size_t max_actors{16384};
  std::size_t max_links{65536};
  std::size_t max_events{4096}; ///< history kept for watchers that join late
};

enum class actor_kind : std::uint8_t { router, scheduler, scaler, weights, cluster, gateway, node_agent, instance };
enum class link_kind : std::uint8_t { control, kv, weights };
std::string_view to_string(actor_kind k);
std::string_view to_string(link_kind k);

/// Which actor: a head role by its kind, an agent by its node, an instance by its id. The fields that do not name it
/// are none.
struct actor_ref {
  actor_kind kind{};
  node_id node{};
  instance_id instance{};
  friend constexpr auto operator<=>(const actor_ref&, const actor_ref&) = default;
};
constexpr actor_ref head_ref(actor_kind kind) { return {kind, {}, {}}; }
constexpr actor_ref agent_ref(node_id node) { return {actor_kind::node_agent, node, {}}; }
constexpr actor_ref instance_ref(instance_id id) { return {actor_kind::instance, {}, id}; }
/// "router", "agent-n1", "i3".
std::string to_string(const actor_ref& ref);

// ---- events ----

struct device_description {
  std::string kind;
  std::string name;
  std::uint64_t memory_bytes{};
  std::uint64_t memory_used_bytes{};
};
/// An agent asks to be let in. Answered by `welcome` or `refuse_join` with the same name and incarnation.
struct node_joined {
  std::string name;
  std::uint64_t incarnation{}; ///< random, of this life of the agent's connection; never 0, never used before
  std::string address;
  std::vector<device_description> devices;
  std::uint32_t
      process{}; ///< of the agent, on its host; the same one may come again while its former life still counts
};
struct heartbeat {
  node_id node{};
  std::uint64_t incarnation{};
  std::uint64_t sequence{};                     ///< grows; an older one is ignored
  std::vector<std::uint64_t> memory_used_bytes; ///< per device, in the order of the join
  std::uint64_t weights_bytes{};                ///< in the host's memory
  std::uint64_t weights_idle_bytes{};           ///< of them, kept for the next start only
};
/// A device's memory in use, as told with an instance's start (heartbeats tell it ever after).
struct device_memory {
  node_id node{};
  std::uint32_t index{};
  std::uint64_t used_bytes{};
};
/// The agent said goodbye.
struct node_left {
  node_id node{};
  std::uint64_t incarnation{};
};
/// The connection to the agent broke.
struct node_down {
  node_id node{};
  std::uint64_t incarnation{};
  std::string reason;
};
struct actor_up {
  actor_ref actor{};
  node_id node{};                      ///< where it runs; none: the head's own process
  std::optional<instance_role> role;   ///< instances only
  std::optional<std::uint32_t> device; ///< index on its node
  std::string state;                   ///< "starting", "ready", ...
};
/// Load of an instance. A state that differs from the known one is a change; the numbers are not.
struct actor_status {
  instance_id instance{};
  std::string state;
  std::uint32_t running{};
  std::uint32_t waiting{};
  std::uint32_t kv_blocks_total{};
  std::uint32_t kv_blocks_free{}; ///< empty, or idle in the prefix cache
  std::uint32_t mailbox{};
  double step_ms_mean{};
  std::uint32_t kv_blocks_cached{}; ///< in the prefix cache, in use or idle
  double prefix_hit_ratio{};        ///< share of the tokens to compute that the prefix cache had, [0, 1]
};
/// Mailbox length of any actor (head roles have no other load).
struct mailbox_status {
  actor_ref actor{};
  std::uint32_t mailbox{};
};
struct actor_down {
  actor_ref actor{};
  std::string reason;
};
struct role_changed {
  instance_id instance{};
  instance_role role{};
};
/// What the scheduler uses a mixed instance for now; mixed: for both. Of another role: kept for when it is mixed. No
/// change of the cluster: it may be another one several times a second, as load is.
struct duty_status {
  instance_id instance{};
  instance_role duty{instance_role::mixed};
};
/// It is to be: a way is looked for. Both ends must be known actors; a link ends with either.
struct link_opening {
  actor_ref from{};
  actor_ref to{};
  link_kind kind{};
  std::string transport; ///< that it will most likely be
};
/// Both ends must be known actors.
struct link_opened {
  actor_ref from{};
  actor_ref to{};
  link_kind kind{};
  std::string transport; ///< "local", "shm", "tcp", ...
};
struct link_traffic {
  actor_ref from{};
  actor_ref to{};
  link_kind kind{};
  std::uint64_t bytes_total{};    ///< so far; never shrinks
  std::uint64_t bytes_expected{}; ///< in all, of a transfer with an end
};
/// No way was found in time. A transfer may still find one.
struct link_failed {
  actor_ref from{};
  actor_ref to{};
  link_kind kind{};
  std::string reason;
};
struct link_closed {
  actor_ref from{};
  actor_ref to{};
  link_kind kind{};
};
struct tick {};

// ---- effects ----

struct welcome {
  std::string name;
  std::uint64_t incarnation{};
  node_id node{};
  std::uint64_t epoch{};
  duration heartbeat_interval{};
};
struct refuse_join {
  std::string name;
  std::uint64_t incarnation{};
  std::string reason;
};
/// A heartbeat came from a life of the node that no longer counts: tell its sender to join again.
struct ask_rejoin {
  node_id node{};
  std::uint64_t incarnation{};
};
/// The node is out (lost or left). Its instance_lost effects came before.
struct node_lost {
  node_id node{};
  std::string reason;
};
/// An instance is dead for good: router, scheduler, scaler and weights must hear of it. Once per instance.
struct instance_lost {
  instance_id instance{};
  std::string reason;
};
struct wake_at {
  time_point time{};
};

/// `cluster_event` is itself an effect: for watchers.
using effect = std::variant<welcome, refuse_join, ask_rejoin, node_lost, instance_lost, cluster_event, wake_at>;

class core {
public:
  explicit core(options opts);

  void on(const node_joined& e, time_point now, std::vector<effect>& out);
  void on(const heartbeat& e, time_point now, std::vector<effect>& out);
  void on(const device_memory& e, time_point now, std::vector<effect>& out);
  void on(const node_left& e, time_point now, std::vector<effect>& out);
  void on(const node_down& e, time_point now, std::vector<effect>& out);
  void on(const actor_up& e, time_point now, std::vector<effect>& out);
  void on(const actor_status& e, time_point now, std::vector<effect>& out);
  void on(const mailbox_status& e, time_point now, std::vector<effect>& out);
  void on(const actor_down& e, time_point now, std::vector<effect>& out);
  void on(const role_changed& e, time_point now, std::vector<effect>& out);
  void on(const duty_status& e, time_point now, std::vector<effect>& out);
  void on(const link_opening& e, time_point now, std::vector<effect>& out);
  void on(const link_opened& e, time_point now, std::vector<effect>& out);
  void on(const link_failed& e, time_point now, std::vector<effect>& out);
  void on(const link_traffic& e, time_point now, std::vector<effect>& out);
  void on(const link_closed& e, time_point now, std::vector<effect>& out);
  void on(const tick& e, time_point now, std::vector<effect>& out);

  std::uint64_t epoch() const { return epoch_; }
  snapshot topology() const;
  /// What a watcher that saw everything up to `sequence` has missed, oldest first. Nothing (not an empty list) when
  /// part of it is no longer kept: take a fresh topology().
  std::optional<std::vector<cluster_event>> events_after(std::uint64_t sequence) const;
  std::uint64_t last_sequence() const { return sequence_; }
  /// The oldest event that is kept.
  std::uint64_t first_sequence() const { return sequence_ + 1 - history_.size(); }

private:
  enum class node_state : std::uint8_t { up, suspect, lost, left };
  struct node {
    node_id id{};
    std::string name;
    std::string address;
    std::uint32_t process{};
    std::uint64_t incarnation{};
    std::deque<std::uint64_t> past_incarnations; ///< bounded: the latest lives
    node_state state{node_state::up};
    std::vector<device_description> devices;
    std::uint64_t last_sequence{};
    std::uint64_t weights_bytes{};
    std::uint64_t weights_idle_bytes{};
    time_point last_heard{};
    time_point suspect_since{};
    bool live() const { return state == node_state::up || state == node_state::suspect; }
  };
  struct actor {
    node_id node{};
    std::optional<instance_role> role;
    std::optional<std::uint32_t> device;
    instance_role duty{instance_role::mixed};
    actor_status status{};
  };
  struct link {
    link_state is{link_state::open};
    std::string transport;
    std::uint64_t bytes_total{};
    std::uint64_t bytes_expected{};
  };
  using link_key = std::tuple<actor_ref, actor_ref, link_kind>;
  using effects = std::vector<effect>;

  std::optional<std::string> join_fault(const node_joined& e, const node* known, time_point now) const;
  node* live(node_id id, std::uint64_t incarnation);
  node* by_name(const std::string& name);
  bool make_room();
  void admit(node& n, const node_joined& e, time_point now, effects& out);
  void lose(node& n, node_state to, const std::string& reason, effects& out);
  void drop_actor(const actor_ref& ref, const std::string& reason, effects& out);
  void refuse_actor(const actor_up& e, const std::string& reason, effects& out) const;
  void set_role(const actor_ref& ref, actor& a, std::optional<instance_role> role, effects& out);
  void set_state(const actor_ref& ref, actor& a, const std::string& state, effects& out);
  bool takes_link(const actor_ref& from, const actor_ref& to, link_kind kind) const;
  void close_links(const actor_ref& ref, effects& out);
  void changed(change what, std::string subject, std::string detail, effects& out);
  void note(change what, std::string subject, std::string detail, effects& out);
  time_point due(const node& n) const;
  void announce(effects& out);

  options opts_;
  std::uint64_t epoch_{0};
  std::uint64_t sequence_{0};
  std::uint32_t last_node_{0};
  std::map<node_id, node> nodes_;
  std::map<actor_ref, actor> actors_;
  std::map<link_key, link> links_;
  std::deque<cluster_event> history_;
  std::optional<time_point> announced_;
};

} // namespace hflex::cluster
