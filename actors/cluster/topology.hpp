// The topology as people and scripts see it: one snapshot plus a stream of changes. Made by the cluster core, sent to
// watchers, drawn by topology_render. Ids are strings ("n1", "n1/0", "i3", "router", "agent-n1"): nothing here is acted
// upon.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::cluster {

struct device_view {
  std::string id;   ///< "n1/0"
  std::string kind; ///< "cpu", "cuda"
  std::string name; ///< model of the hardware
  std::uint64_t memory_bytes{};
  std::uint64_t memory_used_bytes{};
  friend bool operator==(const device_view&, const device_view&) = default;
};

struct node_view {
  std::string id;
  std::string name;
  std::string address;
  std::string state; ///< "up", "suspect", "lost"
  std::vector<device_view> devices;
  std::uint64_t weights_bytes{};      ///< in the host's memory
  std::uint64_t weights_idle_bytes{}; ///< of them, kept for the next start only
  friend bool operator==(const node_view&, const node_view&) = default;
};

struct actor_view {
  std::string id;
  std::string kind;   ///< "router", "scheduler", "scaler", "weights", "cluster", "gateway", "node_agent", "instance"
  std::string node;   ///< empty: the head's own process
  std::string role;   ///< "prefill", "decode", "mixed"; empty for other kinds
  std::string device; ///< empty: uses none
  std::string state;
  std::uint32_t running{};
  std::uint32_t waiting{};
  std::uint32_t kv_blocks_total{};
  std::uint32_t kv_blocks_free{};
  std::uint32_t mailbox{};
  double step_ms_mean{};
  std::uint32_t kv_blocks_cached{};
  double prefix_hit_ratio{};
  std::string duty{}; ///< what a mixed instance is used for alone, for now: "prefill" or "decode"; empty: its role
  friend bool operator==(const actor_view&, const actor_view&) = default;
};

struct link_view {
  std::string from;
  std::string to;
  std::string kind; ///< "control", "kv", "weights"
  std::string transport;
  std::uint64_t bytes_total{};
  std::uint64_t bytes_expected{}; ///< of a transfer with an end; 0: has none
  std::string state{"open"};      ///< "opening", "open", "failed"; "done" of a transfer with an end
  friend bool operator==(const link_view&, const link_view&) = default;
};

/// Sorted: nodes by number, actors by kind then number, links by ends. Equal states give equal snapshots.
struct snapshot {
  std::uint64_t epoch{};
  std::vector<node_view> nodes;
  std::vector<actor_view> actors;
  std::vector<link_view> links;
  friend bool operator==(const snapshot&, const snapshot&) = default;
};

enum class change : std::uint8_t {
  node_joined,
  node_left,
  node_lost,
  node_suspect,
  node_recovered,
  actor_up,
  actor_down,
  actor_state,
  role_changed,
  link_opened,
  link_closed,
  link_opening, ///< numbers go over the wire: new ones come last
  link_failed,
  weights_arrived, ///< all that a weights link was to bring
};
inline constexpr change last_change = change::weights_arrived;
std::string_view to_string(change c);

/// One change, for watchers. Wall time is stamped by whoever sends it out.
struct cluster_event {
  std::uint64_t sequence{}; ///< grows by one with each event
  std::uint64_t epoch{};    ///< after the change
  change what{};
  std::string subject; ///< id of the node or actor; "from -> to" of a link
  std::string detail;  ///< for people: the reason, the new role, ...
  friend bool operator==(const cluster_event&, const cluster_event&) = default;
};

} // namespace hflex::cluster
