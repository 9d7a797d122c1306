// Which source each newcomer takes: the cheapest kind, and among the memories of other hosts the one that will feed it
// fastest.
#include "actors/weights/weights.hpp"
#include <algorithm>
#include <limits>

namespace hflex::weights {
namespace {

/// Whether other hosts can be given weights there (gpu/transport/transport.hpp).
bool gives_to_hosts(const std::vector<std::string>& endpoints) {
  return std::any_of(endpoints.begin(), endpoints.end(), [](auto& e) { return e.rfind("weights:", 0) == 0; });
}

} // namespace

/// The cheapest source that was not tried yet.
std::optional<source> core::next_source(const load& l) const {
  if (auto near = memory_of_this_host(l)) return near;
  if (auto far = memory_of_another_host(l)) return far;
  if (!l.want.directory.empty() && l.tried.count({source_kind::disk, {}}) == 0)
    return source{source_kind::disk, {}, {}, l.want.digest, l.want.directory};
  return std::nullopt;
}

std::optional<source> core::memory_of_this_host(const load& l) const {
  auto& want = l.want;
  auto untried = [&](source_kind kind, node_id node) { return l.tried.count({kind, node}) == 0; };
  auto weights = want.digest.empty() ? holders_.end() : holders_.find(want.digest);
  if (weights == holders_.end()) return std::nullopt;
  auto& nodes = weights->second;
  if (nodes.count(want.node) && untried(source_kind::same_process, want.node))
    return source{source_kind::same_process, want.node, {}, want.digest, {}};
  for (auto& [node, h] : nodes)
    if (node != want.node && h.host == want.host && !h.endpoints.empty() && untried(source_kind::shared_memory, node))
      return source{source_kind::shared_memory, node, h.endpoints, want.digest, {}};
  return std::nullopt;
}

/// Whole weights of a node, or those that a newcomer is still pulling itself.
std::optional<source> core::memory_of_another_host(const load& l) const {
  auto& want = l.want;
  if (want.digest.empty()) return std::nullopt;
  std::optional<source> best;
  double most = 0;
  auto consider = [&](node_id node, const std::string& host, const std::vector<std::string>& endpoints) {
    if (host == want.host || !gives_to_hosts(endpoints) || l.tried.count({source_kind::network, node}) > 0) return;
    const auto offer = std::min(rate_of(node) / static_cast<double>(fed_by(node) + 1), inflow(node, want.digest));
    if (best && offer <= most) return;
    most = offer;
    best = source{source_kind::network, node, endpoints, want.digest, {}};
  };
  if (auto weights = holders_.find(want.digest); weights != holders_.end())
    for (auto& [node, h] : weights->second) consider(node, h.host, h.endpoints);
  for (auto& [id, other] : loads_)
    if (other.pulls() && other.want.digest == want.digest && other.want.node != want.node &&
        !feeds(want.node, other.want.node, want.digest))
      consider(other.want.node, other.want.host, other.want.endpoints);
  return best;
}

/// Who has waited long enough, and all others that wait for the same. Who was in a group before may have what it wants
/// by now, and would let another group wait in vain: it gets one of its own.
void core::gather_devices(time_point now, std::vector<effect>& out) {
  for (auto& [id, first] : loads_) {
    if (!first.device_due || *first.device_due > now) continue;
    std::vector<load_map::value_type*> group{&*loads_.find(id)};
    for (auto& other : loads_) {
      const auto& l = other.second;
      if (first.grouped || l.grouped || &l == &first || group.size() == opts_.max_receivers) continue;
      if (l.device_due && l.from->digest == first.from->digest && l.want.device_kind == first.want.device_kind)
        group.push_back(&other);
    }
    give_to_devices give{holder_for(group), first.from->digest, first.want.device_kind, {}};
    for (auto* member : group) {
      member->second.device_due.reset();
      member->second.grouped = true;
      give.to.push_back({member->first, member->second.attempt});
    }
    if (give.holder) out.emplace_back(std::move(give));
  }
}

/// One that has all of the weights, so that it may have them on a device: rather one that feeds a host of the group.
node_id core::holder_for(const std::vector<load_map::value_type*>& group) const {
  const auto weights = holders_.find(group.front()->second.from->digest);
  if (weights == holders_.end()) return {};
  for (const auto* member : group)
    if (const auto from = member->second.from->holder; weights->second.count(from) > 0) return from;
  return weights->second.begin()->first;
}

/// The pull by which the node gets these weights now.
const core::load* core::pull_of(node_id node, const std::string& digest) const {
  for (auto& [id, l] : loads_)
    if (l.pulls() && l.want.node == node && l.want.digest == digest) return &l;
  return nullptr;
}

/// Whether what `to` receives comes from `from`, by however many others.
bool core::feeds(node_id from, node_id to, const std::string& digest) const {
  for (auto steps = loads_.size() + 1; steps > 0; --steps) {
    if (to == from) return true;
    const auto* pull = pull_of(to, digest);
    if (pull == nullptr) return false;
    to = pull->from->holder;
  }
  return true;
}

std::size_t core::fed_by(node_id node) const {
  return static_cast<std::size_t>(std::count_if(
      loads_.begin(), loads_.end(), [&](auto& x) { return x.second.pulls() && x.second.from->holder == node; }));
}

double core::rate_of(node_id node) const {
  auto seen = rates_.find(node);
  return seen == rates_.end() ? opts_.assumed_bytes_per_s : seen->second;
}

/// How fast the weights reach the node itself. Who has them gives as fast as it can.
double core::inflow(node_id node, const std::string& digest) const {
  auto least = std::numeric_limits<double>::max();
  for (auto steps = loads_.size() + 1; steps > 0; --steps) {
    const auto* pull = pull_of(node, digest);
    if (pull == nullptr) break;
    node = pull->from->holder;
    least = std::min(least, rate_of(node) / static_cast<double>(std::max<std::size_t>(fed_by(node), 1)));
  }
  return least;
}

/// What a source has given, counted for all that it feeds: it gave the others as much meanwhile.
void core::note_rate(const load& l, std::uint64_t bytes, time_point now) {
  const auto took = to_s(now - l.started);
  if (!l.pulls() || took <= 0 || pull_of(l.from->holder, l.want.digest) != nullptr) return; // it was fed itself
  const auto rate = static_cast<double>(bytes) / took * static_cast<double>(fed_by(l.from->holder));
  auto [seen, fresh] = rates_.emplace(l.from->holder, rate);
  if (!fresh) seen->second += (rate - seen->second) / 4;
}

} // namespace hflex::weights
