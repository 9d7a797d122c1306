// The node agent's core: keeps the connection to the head, owns the node's device contexts and watches its instances.
// Called by the agent's shell. It decides no placement and no role (the head does); the shell performs its effects on
// actors, devices and the network, and reports back by event.
//
//   head:     disconnected --connect--> connecting --opened--> joining --welcomed--> joined
//                  ^------------- failed, refused, lost, deadline: back off, then connect again -----|
//
//   instance: waiting_weights -> creating_context -> spawning -> running <-> changing_role
//                    |                  |               |          |-> stopping -> (gone)
//                    '------------------'---------------'-- failed, died, deadline -> (gone)
//
// A context is made before all weights are in this process where it can do with their head: a CPU's waits itself for
// what a step needs (serve_while_loading), a device with a ticket gets them from a device of another host.
//
// A context (weights + KV memory on one device) belongs to the node, not to the instance: a role change and a crashed
// actor leave it alone; idle, it stays warm for keep_contexts and serves the next instance of the same model without a
// load.
#pragma once
#include "actors/common/ids.hpp"
#include "actors/common/request.hpp"
#include "actors/common/time.hpp"
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace hflex::node {

/// One weights + KV memory allocation; counted by the node, never used twice.
using context_id = strong_id<struct context_tag, std::uint32_t>;

struct device_slots {
  std::string kind; ///< "cpu", "cuda"
  std::string name;
  std::uint64_t memory_bytes{};
  std::uint32_t slots{1}; ///< contexts that fit at a time
};

struct options {
  std::string name;                                            ///< the node's, unique in the cluster
  std::vector<device_slots> devices;                           ///< indices are the device numbers
  duration heartbeat_interval{std::chrono::milliseconds{500}}; ///< until the head's welcome names another
  duration connect_deadline{std::chrono::seconds{5}};          ///< connect to welcome
  duration backoff_min{std::chrono::milliseconds{100}};        ///< doubles with each failure in a row ...
  duration backoff_max{std::chrono::seconds{10}};              ///< ... up to this; jitter takes off up to a quarter
  std::uint64_t seed{1};                                       ///< of the jitter
  duration start_deadline{std::chrono::minutes{15}};           ///< start_instance to instance_ready, weights included
  duration spawn_deadline{std::chrono::seconds{10}};           ///< spawn of the new role's actor to instance_ready
  duration drain_deadline{std::chrono::seconds{60}};           ///< retire to instance_stopped; then the actor is killed
  duration keep_contexts{std::chrono::minutes{5}};             ///< an idle context stays warm
  bool serve_while_loading{false}; ///< CPU instances that prefill begin before the last of their weights came
};

/// Which weights a context holds.
struct model_ref {
  std::string directory;
  std::string digest; ///< empty: not known yet
  friend bool operator==(const model_ref&, const model_ref&) = default;
};

// ---- events: the head ----

/// The agent begins: connect.
struct begin {};
/// The way to the head is open. `incarnation`: 64 random bits, fresh for each connection, not 0.
struct opened {
  std::uint64_t incarnation{};
};
struct connect_failed {
  std::string reason;
};
/// Answer to `join`, for that incarnation only.
struct welcomed {
  std::uint64_t incarnation{};
  node_id node{};
  duration heartbeat_interval{};
};
struct refused {
  std::uint64_t incarnation{};
  std::string reason;
};
/// The connection broke, or the head says that this life of the node no longer counts.
struct head_lost {
  std::string reason;
};

// ---- events: orders of the head ----

struct start_instance {
  instance_id instance{};
  std::uint32_t device{};
  instance_role role{};
  model_ref model{};
};
/// End it; the context stays warm.
struct stop_instance {
  instance_id instance{};
  bool drain{true}; ///< finish what it runs first, up to drain_deadline; false: drop it
};
/// Another role on the same context.
struct change_role {
  instance_id instance{};
  instance_role to{};
};

// ---- events: answers of the shell ----

/// A source was named, the first or another one. A ticket of the one before is void, unless it is in use.
struct source_named {
  instance_id instance{};
  bool network{}; ///< another host's memory, which goes on with what has come; else it begins anew
};
/// The head of the weights is in this process, so a context can be made of what they are going to be, if it can do with
/// that. weights_ready or weights_failed follows, in whatever state the instance is by then.
struct weights_arriving {
  instance_id instance{};
  std::string digest;
};
/// A device of another host waits to give the weights to this instance's.
struct ticket_came {
  instance_id instance{};
};
/// The weights are in this process.
struct weights_ready {
  instance_id instance{};
  std::string digest;
};
struct weights_failed {
  instance_id instance{};
  std::string reason;
};
struct context_ready {
  context_id context{};
};
struct context_failed {
  context_id context{};
  std::string reason;
};
/// The spawned actor takes work.
struct instance_ready {
  instance_id instance{};
};
/// The retired or killed actor has ended; it touches the context no more.
struct instance_stopped {
  instance_id instance{};
};
/// The actor ended without being asked to. `device_fault`: its context is not to be used again.
struct instance_died {
  instance_id instance{};
  std::string reason;
  bool device_fault{false};
};
/// The agent ends: instances drain, contexts are freed, then it says goodbye. A second one does not wait for the drain.
struct shut_down {};
struct tick {};

// ---- effects: to the head ----

struct connect {};
/// Close what is left of the connection.
struct hang_up {};
struct warm_context {
  std::uint32_t device{};
  model_ref model{};
};
struct join {
  std::uint64_t incarnation{};
  std::vector<warm_context> warm; ///< idle contexts: an instance of that model starts there without a load
};
/// The shell adds the devices' memory in use.
struct heartbeat {
  node_id node{};
  std::uint64_t incarnation{};
  std::uint64_t sequence{};
};
enum class report_state : std::uint8_t {
  starting, ///< accepted
  running,  ///< takes work, in `role`
  stopping, ///< drains
  stopped,  ///< ended as asked
  failed,   ///< ended, or never was; `reason` says why
  rejected, ///< the order was at fault and changed nothing
};
std::string_view to_string(report_state s);
struct report {
  instance_id instance{};
  report_state state{};
  std::optional<instance_role> role;
  std::string reason;
};
/// Goodbye: the node leaves on purpose.
struct leave {
  node_id node{};
  std::uint64_t incarnation{};
};

// ---- effects: on this node ----

struct ask_weights {
  instance_id instance{};
  model_ref model{};
};
/// The instance does not need them any more.
struct cancel_weights {
  instance_id instance{};
};
/// What a context is made of.
enum class weights_base : std::uint8_t {
  whole,    ///< all weights are in this process
  arriving, ///< their head is, and a step waits for the rest
  ticket,   ///< their head is, and a device of another host gives them; the host's copy comes later, or never
};
struct create_context {
  context_id context{};
  instance_id instance{}; ///< whose weights are ready, or arriving
  std::uint32_t device{};
  model_ref model{};
  weights_base base{};
};
/// Free the context; answers to an unfinished create_context are ignored and what comes of it is freed too.
struct release_context {
  context_id context{};
};
struct spawn_instance {
  instance_id instance{};
  instance_role role{};
  std::uint32_t device{};
  context_id context{};
};
/// Stop taking work, finish the residents, end: answered by instance_stopped.
struct retire_instance {
  instance_id instance{};
};
/// End at once, dropping its work: answered by instance_stopped.
struct kill_instance {
  instance_id instance{};
};
struct wake_at {
  time_point time{};
};

using effect = std::variant<connect, hang_up, join, heartbeat, report, leave, ask_weights, cancel_weights,
    create_context, release_context, spawn_instance, retire_instance, kill_instance, wake_at>;

enum class head_state : std::uint8_t { disconnected, connecting, joining, joined };
enum class instance_state : std::uint8_t {
  waiting_weights,
  creating_context,
  spawning,
  running,
  changing_role, ///< the old role's actor drains
  stopping,
  killing, ///< told to end at once
};
std::string_view to_string(head_state s);
std::string_view to_string(instance_state s);

/// One row of what runs here, for logs and tests.
struct instance_view {
  instance_id instance{};
  instance_state state{};
  instance_role role{};
  std::uint32_t device{};
  context_id context{};
  friend bool operator==(const instance_view&, const instance_view&) = default;
};

class core {
public:
  explicit core(options opts);

  void on(const begin& e, time_point now, std::vector<effect>& out);
  void on(const opened& e, time_point now, std::vector<effect>& out);
  void on(const connect_failed& e, time_point now, std::vector<effect>& out);
  void on(const welcomed& e, time_point now, std::vector<effect>& out);
  void on(const refused& e, time_point now, std::vector<effect>& out);
  void on(const head_lost& e, time_point now, std::vector<effect>& out);
  void on(const start_instance& e, time_point now, std::vector<effect>& out);
  void on(const stop_instance& e, time_point now, std::vector<effect>& out);
  void on(const change_role& e, time_point now, std::vector<effect>& out);
  void on(const source_named& e, time_point now, std::vector<effect>& out);
  void on(const weights_arriving& e, time_point now, std::vector<effect>& out);
  void on(const ticket_came& e, time_point now, std::vector<effect>& out);
  void on(const weights_ready& e, time_point now, std::vector<effect>& out);
  void on(const weights_failed& e, time_point now, std::vector<effect>& out);
  void on(const context_ready& e, time_point now, std::vector<effect>& out);
  void on(const context_failed& e, time_point now, std::vector<effect>& out);
  void on(const instance_ready& e, time_point now, std::vector<effect>& out);
  void on(const instance_stopped& e, time_point now, std::vector<effect>& out);
  void on(const instance_died& e, time_point now, std::vector<effect>& out);
  void on(const shut_down& e, time_point now, std::vector<effect>& out);
  void on(const tick& e, time_point now, std::vector<effect>& out);

  head_state connection() const { return head_; }
  node_id id() const { return node_; }
  /// By instance id.
  std::vector<instance_view> instances() const;
  /// Whether what a source brings for it is of use: it has none yet, or not all.
  bool wants_weights(instance_id id) const;
  /// Contexts that exist or are being made, idle ones included.
  std::size_t contexts() const { return contexts_.size(); }
  /// After shut_down: nothing runs and nothing is held any more.
  bool done() const { return ending_ && instances_.empty() && contexts_.empty(); }

private:
  struct instance {
    instance_state state{instance_state::waiting_weights};
    instance_role role{}; ///< while changing_role: the new one
    std::uint32_t device{};
    model_ref model{};
    context_id context{};
    std::optional<time_point> deadline; ///< of the present stage
    bool told_end{false};               ///< its failure was reported before its actor ended
    std::string head{};                 ///< digest of the weights whose head has come; empty: none has
    bool ticket{false};                 ///< a device of another host waits
  };
  struct context {
    std::uint32_t device{};
    model_ref model{};
    instance_id user{}; ///< none: idle
    bool ready{false};
    time_point idle_since{};
    weights_base base{}; ///< unless its weights are whole it ends with its instance
  };
  using effects = std::vector<effect>;

  // node_link.cpp: the connection to the head
  void try_connect(time_point now, effects& out);
  void back_off(time_point now);
  void drop_link(time_point now, effects& out);
  void drop_work(time_point now, effects& out);
  void step_link(time_point now, effects& out);
  void beat(time_point now, effects& out);
  void leave_when_done(effects& out);
  void tell(
      instance_id id, report_state state, std::optional<instance_role> role, std::string reason, effects& out) const;
  duration jittered(duration d);

  // node.cpp: instances and contexts
  std::string start_fault(const start_instance& e) const;
  std::uint32_t used_slots(std::uint32_t device) const;
  bool make_slot(std::uint32_t device, effects& out);
  context_id idle_context(std::uint32_t device, const model_ref& model) const;
  void begin_early(instance_id id, time_point now, effects& out);
  bool serves_while_loading(const instance& i) const;
  void make_context(instance_id id, const std::string& digest, weights_base base, time_point now, effects& out);
  bool has_arriving_weights(const instance& i) const;
  void lose_weights(instance_id id, const std::string& reason, time_point now, effects& out);
  void spawn(instance_id id, instance& i, effects& out);
  void retire(instance_id id, instance& i, instance_state to, time_point now, effects& out);
  void stop_start(instance_id id, report_state state, const std::string& reason, time_point now, effects& out);
  void kill(instance_id id, instance& i, const std::string& fault, time_point now, effects& out);
  void end(
      instance_id id, report_state state, const std::string& reason, bool keep_context, time_point now, effects& out);
  void release(context_id id, effects& out);
  void expire_instances(time_point now, effects& out);
  void expire_contexts(time_point now, effects& out);
  void settle(effects& out);

  options opts_;
  head_state head_{head_state::disconnected};
  node_id node_{};
  std::uint64_t incarnation_{0};
  std::uint64_t beats_{0};
  std::uint32_t failures_{0}; ///< connections in a row that did not join
  std::uint64_t random_;
  bool ending_{false};
  duration heartbeat_interval_;
  std::optional<time_point> next_step_; ///< of the connection: retry, deadline or heartbeat, by state
  std::uint32_t last_context_{0};
  std::map<instance_id, instance> instances_;
  std::map<context_id, context> contexts_;
  std::optional<time_point> announced_; ///< the last wake_at, until it has come
};

} // namespace hflex::node
