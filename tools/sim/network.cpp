#include "tools/sim/network.hpp"
#include <cmath>

namespace hflex::sim {

network::flow_id network::start(
    endpoint from, endpoint to, double bytes, time_point not_before, event_queue::work arrived) {
  settle();
  const auto id = next_++;
  flows_.emplace(id, flow{from, to, from.node != to.node, bytes, 0, not_before, std::move(arrived)});
  bytes_moved_ += bytes;
  share_out();
  return id;
}

void network::cancel(flow_id id) {
  settle();
  if (flows_.erase(id) > 0) share_out();
}

// Takes off what has flowed since the last time, and lets those that are done arrive.
void network::settle() {
  const double seconds = to_s(events_.now() - settled_);
  settled_ = events_.now();
  for (auto it = flows_.begin(); it != flows_.end();) {
    auto& f = it->second;
    f.left -= f.rate * seconds;
    if (f.left > 0.5) {
      ++it;
      continue;
    }
    events_.at(std::max(events_.now() + links_[f.far].latency, f.not_before), std::move(f.arrived));
    it = flows_.erase(it);
  }
}

void network::share_out() {
  std::map<std::pair<std::uint64_t, bool>, std::uint32_t> users; // of an instance's side of a kind of link
  const auto side = [](const endpoint& e, bool in) { return std::uint64_t{e.instance.value} * 2 + in; };
  for (const auto& [id, f] : flows_) {
    ++users[{side(f.from, false), f.far}];
    ++users[{side(f.to, true), f.far}];
  }
  auto soonest = duration::max();
  for (auto& [id, f] : flows_) {
    const auto sharing = std::max(users[{side(f.from, false), f.far}], users[{side(f.to, true), f.far}]);
    f.rate = links_[f.far].bytes_per_s / sharing;
    soonest = std::min(soonest, duration{static_cast<std::int64_t>(std::ceil(f.left / f.rate * 1e9))});
  }
  const auto mine = ++generation_;
  if (flows_.empty()) return;
  events_.after(soonest, [this, mine] {
    if (mine != generation_) return;
    settle();
    share_out();
  });
}

} // namespace hflex::sim
