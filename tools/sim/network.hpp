// Bytes on their way between instances, in virtual time. Flows of one kind of link share an instance's outgoing and
// incoming bandwidth evenly: a flow gets the smaller of the two shares.
#pragma once
#include "tools/sim/cluster.hpp"
#include "tools/sim/event_queue.hpp"
#include <map>

namespace hflex::sim {

class network {
public:
  struct endpoint {
    instance_id instance;
    std::uint32_t node{};
    friend auto operator<=>(const endpoint&, const endpoint&) = default;
  };
  using flow_id = std::uint64_t; ///< 0: none

  network(event_queue& events, const link& same_node, const link& between_nodes)
      : events_(events), links_{same_node, between_nodes} {}

  /// `arrived` is called one latency after the last byte has left, at `not_before` at the earliest.
  flow_id start(endpoint from, endpoint to, double bytes, time_point not_before, event_queue::work arrived);
  /// Its bytes stop and `arrived` is not called. Unknown ids are ignored.
  void cancel(flow_id id);
  double bytes_moved() const { return bytes_moved_; }

private:
  struct flow {
    endpoint from, to;
    bool far{false};
    double left{}; ///< bytes
    double rate{}; ///< bytes/s
    time_point not_before;
    event_queue::work arrived;
  };
  void settle();
  void share_out();

  event_queue& events_;
  link links_[2]; ///< same node, between nodes
  std::map<flow_id, flow> flows_;
  flow_id next_{1};
  time_point settled_{};
  std::uint64_t generation_{}; ///< of the completion that is awaited
  double bytes_moved_{};
};

} // namespace hflex::sim
