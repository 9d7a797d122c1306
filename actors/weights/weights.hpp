// The weight-transfer coordinator's core: tells each new instance where to take its weights from, cheapest source
// first, and goes on to the next when a source fails, stalls or dies. Called by the coordinator's shell on the head. It
// moves no byte and opens no file: instances load, and report how far they are.
//
//   needed -> waiting (another instance of this host loads the same weights) -> loading -> loaded
//                                                                                 |  ^
//                                                        failed, stalled, holder gone: next source, else give_up
//
// Cost order: same_process < shared_memory (another process of the same host) < network (memory of another host) <
// disk. Weights of another digest never mix.
//
// Several newcomers at once are a multicast: each that receives over the network is a source for the next, with the
// chunks that it has, so that N of them cost about as much as one. plan.cpp picks for each the source that will feed it
// fastest: by the rates seen so far, shared among those that a source feeds already, and no faster than the source
// itself is fed. Among equals that makes a chain. Nobody is fed by who is fed by it.
//
// Newcomers on other hosts whose devices can take the weights from a device are gathered for a moment: one that has
// them sends them to all of these at once, while the hosts' copies go their own ways.
#pragma once
#include "actors/common/ids.hpp"
#include "actors/common/time.hpp"
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

namespace hflex::weights {

struct options {
  duration same_process_stall{std::chrono::seconds{5}}; ///< longest time without progress from each kind of source
  duration shared_memory_stall{std::chrono::seconds{10}};
  duration network_stall{std::chrono::seconds{10}};
  duration disk_stall{std::chrono::seconds{60}};
  std::size_t max_neighbours{16}; ///< that a newcomer is told of
  duration max_wait{
      std::chrono::minutes{10}}; ///< how long a newcomer waits for a neighbour's load before it reads the disk too
  std::size_t max_loads{4096};   ///< instances waiting or loading at a time; more are given up at once
  std::size_t max_known{1024};   ///< directories whose digest is remembered
  bool across_hosts{true};       ///< a directory's path names the same weights on hosts that have not read it yet
  duration device_window{
      std::chrono::milliseconds{50}}; ///< how long a newcomer's device waits for others that want the same
  std::size_t max_receivers{16};      ///< devices that are sent weights at once
  double assumed_bytes_per_s{1e9};    ///< what a source on another host gives that has not been seen giving yet
};

enum class source_kind : std::uint8_t { same_process, shared_memory, network, disk };
std::string_view to_string(source_kind k);

struct source {
  source_kind kind{};
  node_id holder{};                   ///< none for disk
  std::vector<std::string> endpoints; ///< of the holder's transport (shared_memory, network)
  std::string digest;                 ///< what must be found there; empty only for disk: whatever the directory holds
  std::string directory;              ///< checkpoint (disk)
};

// ---- events ----

/// An instance wants weights. A second `needed` of the same instance is ignored.
struct needed {
  instance_id instance{};
  node_id node{};
  std::string host;   ///< which machine the node runs on: nodes of one host share memory
  std::string digest; ///< empty: not known before the directory was read; such a newcomer shares with neighbours that
                      ///< load the same directory at the same time, or have loaded it with the same stamp; on a host
                      ///< that has not read this directory it gets what the other hosts found in theirs last
  std::string directory; ///< on the instance's host
  std::string stamp;     ///< of the directory's files: equal on one host means that the weights in it are the same.
                         ///< Empty: not known
  std::vector<std::string> endpoints{}; ///< of its node's transport: how others reach what it has while it loads
  std::string device_kind{}; ///< what they are on a device that this one could take them from; empty: from none
};
/// The instance was stopped or died before it was loaded.
struct not_needed {
  instance_id instance{};
};
/// A node holds these weights already, outside of any load from here: it joined with them, or its endpoints changed.
struct held {
  node_id node{};
  std::string host;
  std::string digest;
  std::vector<std::string> endpoints; ///< may be empty: then only its own process can use them
  std::uint64_t bytes{};
};
/// The node let these weights go.
struct released {
  node_id node{};
  std::string digest;
};
/// The node is lost: everything it held, and every load of its instances, is gone.
struct node_gone {
  node_id node{};
};
struct progress {
  instance_id instance{};
  std::uint32_t attempt{};
  std::uint64_t bytes_done{};
  std::uint64_t bytes_total{};
};
/// The instance's node holds these weights from now on.
struct loaded {
  instance_id instance{};
  std::uint32_t attempt{};
  std::string digest;                 ///< of what was loaded
  std::vector<std::string> endpoints; ///< as of `held`: how the neighbours that waited reach them
  std::uint64_t bytes{};
};
struct failed {
  instance_id instance{};
  std::uint32_t attempt{};
  std::string reason;
};
struct tick {};

// ---- effects ----

/// Take them from there; answer with progress, then loaded or failed, naming this attempt.
struct load_from {
  instance_id instance{};
  std::uint32_t attempt{}; ///< 1, 2, ...: reports of an earlier one are ignored
  source from{};
  std::vector<std::string> neighbours{}; ///< endpoints of other processes of this host that hold these weights
};
/// Abandon that attempt: it stalled or its source died. Another load_from or give_up follows.
struct stop_load {
  instance_id instance{};
  std::uint32_t attempt{};
};
struct receiver {
  instance_id instance{};
  std::uint32_t attempt{};
  friend bool operator==(const receiver&, const receiver&) = default;
};
/// These wait on devices of other hosts. A holder that has the weights on a device of that kind sends them to all of
/// them at once; each is told how to receive them. One that has none, or fails, costs nothing: the hosts' copies come
/// anyhow.
struct give_to_devices {
  node_id holder{};
  std::string digest;
  std::string kind;
  std::vector<receiver> to;
};
/// No source is left. The reason lists what each one said.
struct give_up {
  instance_id instance{};
  std::string reason;
};
/// The instance has its weights.
struct ready {
  instance_id instance{};
  source_kind from{};
  std::string digest;
  duration waited{}; ///< `needed` to `loaded`
};
struct wake_at {
  time_point time{};
};

using effect = std::variant<load_from, give_to_devices, stop_load, give_up, ready, wake_at>;

/// How far an instance's weights are, for the topology.
struct load_view {
  instance_id instance{};
  node_id node{};
  std::optional<source_kind> from; ///< nothing: waits for a neighbour's load
  std::uint32_t attempt{};
  std::uint64_t bytes_done{};
  std::uint64_t bytes_total{};
  node_id holder{}; ///< whose memory they come from; none: the disk
  friend bool operator==(const load_view&, const load_view&) = default;
};

/// A node that can serve weights.
struct holder_view {
  node_id node{};
  std::string host;
  std::uint64_t bytes{};
  friend bool operator==(const holder_view&, const holder_view&) = default;
};

class core {
public:
  explicit core(options opts);

  void on(const needed& e, time_point now, std::vector<effect>& out);
  void on(const not_needed& e, time_point now, std::vector<effect>& out);
  void on(const held& e, time_point now, std::vector<effect>& out);
  void on(const released& e, time_point now, std::vector<effect>& out);
  void on(const node_gone& e, time_point now, std::vector<effect>& out);
  void on(const progress& e, time_point now, std::vector<effect>& out);
  void on(const loaded& e, time_point now, std::vector<effect>& out);
  void on(const failed& e, time_point now, std::vector<effect>& out);
  void on(const tick& e, time_point now, std::vector<effect>& out);

  /// Waiting and loading instances, by id.
  std::vector<load_view> loads() const;
  /// Nodes that hold these weights, by id.
  std::vector<holder_view> holders(const std::string& digest) const;

private:
  struct load {
    needed want;
    std::uint32_t attempt{0};
    std::optional<source> from; ///< nothing: waiting for a neighbour
    std::set<std::pair<source_kind, node_id>> tried;
    std::vector<std::string> faults;
    std::uint64_t bytes_done{};
    std::uint64_t bytes_total{};
    time_point since{};   ///< when it was needed
    time_point started{}; ///< this attempt
    time_point last_progress{};
    std::optional<time_point> device_due; ///< when its device goes on without waiting for others; nothing: it has
    bool grouped{false};                  ///< its device was given weights, or was to be, in one of its attempts
    bool assumed{false}; ///< the digest is what other hosts found under that path: not what this host's disk must hold
    bool pulls() const { return from && from->kind == source_kind::network; }
  };
  struct holder {
    std::string host;
    std::vector<std::string> endpoints;
    std::uint64_t bytes{};
  };
  using load_map = std::map<instance_id, load>;

  load* current(instance_id instance, std::uint32_t attempt);
  bool neighbour_loads(const load& l) const;
  std::vector<std::string> neighbours_of(const load& l) const;
  // plan.cpp
  std::optional<source> next_source(const load& l) const;
  std::optional<source> memory_of_this_host(const load& l) const;
  std::optional<source> memory_of_another_host(const load& l) const;
  node_id holder_for(const std::vector<load_map::value_type*>& group) const;
  void gather_devices(time_point now, std::vector<effect>& out);
  bool feeds(node_id from, node_id to, const std::string& digest) const;
  const load* pull_of(node_id node, const std::string& digest) const;
  std::size_t fed_by(node_id node) const;
  double rate_of(node_id node) const;
  double inflow(node_id node, const std::string& digest) const;
  void note_rate(const load& l, std::uint64_t bytes, time_point now);
  // weights.cpp
  void drop_fed_by(
      node_id node, const std::string& digest, const std::string& fault, time_point now, std::vector<effect>& out);
  void advance(instance_id instance, time_point now, std::vector<effect>& out);
  void drop_source(instance_id instance, const std::string& fault, bool stop, time_point now, std::vector<effect>& out);
  void drop_holder(
      node_id node, const std::string& digest, const std::string& fault, time_point now, std::vector<effect>& out);
  void settle(time_point now, std::vector<effect>& out);
  duration stall(source_kind kind) const;
  time_point deadline(const load& l) const;
  time_point next_look(const load& l) const;
  void announce(std::vector<effect>& out);

  options opts_;
  load_map loads_;
  std::string digest_of(const needed& e, bool& assumed) const;
  void remember(const needed& from, const std::string& digest);
  std::map<std::tuple<std::string, std::string, std::string>, std::string> known_; ///< digest by host, directory, stamp
  std::map<std::string, std::string> served_; ///< digest by directory: what was found there last, on any host
  std::map<std::string, std::map<node_id, holder>> holders_; ///< by digest
  std::map<node_id, double> rates_;                          ///< bytes a second seen, smoothed
  std::optional<time_point> announced_;
};

} // namespace hflex::weights
