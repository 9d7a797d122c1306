#include "actors/weights/weights.hpp"
#include <algorithm>
#include <fmt/format.h>

namespace hflex::weights {

std::string_view to_string(source_kind k) {
  switch (k) {
  case source_kind::same_process:
    return "same_process";
  case source_kind::shared_memory:
    return "shared_memory";
  case source_kind::network:
    return "network";
  case source_kind::disk:
    return "disk";
  }
  return "disk";
}

namespace {

std::string describe(const source& s) {
  auto where = s.kind == source_kind::disk ? s.directory : to_string(s.holder);
  return fmt::format("{} ({})", to_string(s.kind), where);
}

/// Whether what one of them loads is what the other wants: the same weights, as far as can be known beforehand.
bool same_weights(const needed& a, const needed& b) {
  if (!a.digest.empty() && !b.digest.empty()) return a.digest == b.digest;
  return a.digest.empty() && b.digest.empty() && a.directory == b.directory && a.stamp == b.stamp;
}

} // namespace

core::core(options opts) : opts_(opts) {}

// ---- newcomers ----

void core::on(const needed& e, time_point now, std::vector<effect>& out) {
  if (!e.instance || loads_.count(e.instance)) return;
  if (loads_.size() >= opts_.max_loads) {
    out.emplace_back(give_up{
        e.instance, fmt::format("{} instances load weights already, limit {}", loads_.size(), opts_.max_loads)});
    return;
  }
  auto& l = loads_[e.instance];
  l.want = e;
  if (e.digest.empty()) l.want.digest = digest_of(e, l.assumed);
  l.since = l.last_progress = now;
  advance(e.instance, now, out);
  announce(out);
}

/// What the directory holds, as far as somebody has read it. Files that changed since are not what they were.
std::string core::digest_of(const needed& e, bool& assumed) const {
  if (auto read = known_.find({e.host, e.directory, e.stamp}); !e.stamp.empty() && read != known_.end())
    return read->second;
  auto here = known_.lower_bound({e.host, e.directory, {}});
  const auto read_here =
      here != known_.end() && std::get<0>(here->first) == e.host && std::get<1>(here->first) == e.directory;
  auto elsewhere = served_.find(e.directory);
  assumed = opts_.across_hosts && !read_here && elsewhere != served_.end();
  return assumed ? elsewhere->second : std::string{};
}

void core::remember(const needed& from, const std::string& digest) {
  if (known_.size() >= opts_.max_known) known_.clear(); // costs a read of the disk, nothing else
  if (served_.size() >= opts_.max_known) served_.clear();
  known_[{from.host, from.directory, from.stamp}] = digest;
  served_[from.directory] = digest;
}

void core::on(const not_needed& e, time_point now, std::vector<effect>& out) {
  auto it = loads_.find(e.instance);
  if (it == loads_.end()) return;
  if (it->second.from) out.emplace_back(stop_load{e.instance, it->second.attempt});
  const auto want = it->second.want;
  loads_.erase(it);
  drop_fed_by(want.node, want.digest, "does not load any more", now, out);
  settle(now, out);
}

// ---- holders ----

void core::on(const held& e, time_point now, std::vector<effect>& out) {
  if (!e.node || e.digest.empty()) return;
  holders_[e.digest][e.node] = {e.host, e.endpoints, e.bytes};
  settle(now, out);
}

void core::on(const released& e, time_point now, std::vector<effect>& out) {
  drop_holder(e.node, e.digest, "let its weights go", now, out);
  settle(now, out);
}

void core::on(const node_gone& e, time_point now, std::vector<effect>& out) {
  for (auto it = loads_.begin(); it != loads_.end();)
    it = it->second.want.node == e.node ? loads_.erase(it) : std::next(it);
  std::vector<std::string> digests;
  for (auto& [digest, nodes] : holders_)
    if (nodes.count(e.node)) digests.push_back(digest);
  for (auto& digest : digests) drop_holder(e.node, digest, "is gone", now, out);
  std::set<std::string> fed; // by what it was still receiving itself
  for (auto& [id, l] : loads_)
    if (l.from && l.from->holder == e.node) fed.insert(l.from->digest);
  for (auto& digest : fed) drop_fed_by(e.node, digest, "is gone", now, out);
  rates_.erase(e.node);
  settle(now, out);
}

void core::drop_holder(
    node_id node, const std::string& digest, const std::string& fault, time_point now, std::vector<effect>& out) {
  auto weights = holders_.find(digest);
  if (weights == holders_.end() || weights->second.erase(node) == 0) return;
  if (weights->second.empty()) holders_.erase(weights);
  drop_fed_by(node, digest, fault, now, out);
}

/// Who takes these weights from the node goes elsewhere, unless the node still has or receives them.
void core::drop_fed_by(
    node_id node, const std::string& digest, const std::string& fault, time_point now, std::vector<effect>& out) {
  if (auto weights = holders_.find(digest); weights != holders_.end() && weights->second.count(node) > 0) return;
  if (pull_of(node, digest) != nullptr) return;
  std::vector<instance_id> cut_off;
  for (auto& [id, l] : loads_)
    if (l.from && l.from->holder == node && l.from->digest == digest) cut_off.push_back(id);
  for (auto id : cut_off) {
    auto it = loads_.find(id); // one that was dropped before may have taken others with it
    if (it == loads_.end() || !it->second.from || it->second.from->holder != node) continue;
    drop_source(id, to_string(node) + " " + fault, true, now, out);
  }
}

// ---- what loaders report ----

void core::on(const progress& e, time_point now, std::vector<effect>&) {
  auto* l = current(e.instance, e.attempt);
  if (!l) return;
  if (e.bytes_done > l->bytes_done) l->last_progress = now; // a report without progress is no sign of life
  l->bytes_done = std::max(l->bytes_done, std::min(e.bytes_done, e.bytes_total));
  l->bytes_total = e.bytes_total;
}

void core::on(const loaded& e, time_point now, std::vector<effect>& out) {
  auto* l = current(e.instance, e.attempt);
  if (!l) return;
  auto& wanted = l->want.digest;
  if (e.digest.empty() || (!wanted.empty() && e.digest != wanted)) {
    drop_source(e.instance,
        fmt::format("it holds weights {}, wanted {}", e.digest.empty() ? "without a digest" : e.digest, wanted), false,
        now, out);
    settle(now, out);
    return;
  }
  // Neighbours that waited for this very read of the directory now know what they want.
  for (auto& [id, other] : loads_)
    if (id != e.instance && !other.from && wanted.empty() && other.want.host == l->want.host &&
        same_weights(other.want, l->want))
      other.want.digest = e.digest;
  if (wanted.empty()) remember(l->want, e.digest);
  out.emplace_back(ready{e.instance, l->from->kind, e.digest, now - l->since});
  note_rate(*l, e.bytes, now);
  holders_[e.digest][l->want.node] = {l->want.host, e.endpoints, e.bytes};
  loads_.erase(e.instance);
  settle(now, out);
}

void core::on(const failed& e, time_point now, std::vector<effect>& out) {
  if (!current(e.instance, e.attempt)) return;
  drop_source(e.instance, e.reason, false, now, out);
  settle(now, out);
}

void core::on(const tick&, time_point now, std::vector<effect>& out) {
  if (announced_ && *announced_ <= now) announced_.reset();
  std::vector<instance_id> stalled;
  for (auto& [id, l] : loads_)
    if (l.from && deadline(l) <= now) stalled.push_back(id);
  for (auto id : stalled) {
    auto it = loads_.find(id); // one that was dropped before may have taken others with it
    if (it == loads_.end() || !it->second.from || deadline(it->second) > now) continue;
    auto& l = it->second;
    drop_source(id,
        fmt::format(
            "no progress for {:g} s at {} of {} bytes", to_s(now - l.last_progress), l.bytes_done, l.bytes_total),
        true, now, out);
  }
  settle(now, out);
}

core::load* core::current(instance_id instance, std::uint32_t attempt) {
  auto it = loads_.find(instance);
  return it != loads_.end() && it->second.from && it->second.attempt == attempt ? &it->second : nullptr;
}

// ---- the choice ----

/// Whether another instance of this host reads the same weights right now. They will be there to share.
bool core::neighbour_loads(const load& l) const {
  return std::any_of(loads_.begin(), loads_.end(), [&](const auto& entry) {
    auto& other = entry.second;
    return &other != &l && other.from && other.want.host == l.want.host && same_weights(other.want, l.want);
  });
}

/// They may have the weights on a device, whose memory goes from process to process.
std::vector<std::string> core::neighbours_of(const load& l) const {
  std::vector<std::string> out;
  const auto weights = holders_.find(l.from->digest);
  if (weights == holders_.end()) return out;
  std::size_t told = 0;
  for (auto& [node, h] : weights->second) {
    if (node == l.want.node || h.host != l.want.host || told == opts_.max_neighbours) continue;
    out.insert(out.end(), h.endpoints.begin(), h.endpoints.end());
    ++told;
  }
  return out;
}

/// Gives a waiting instance its next source, lets it go on waiting, or gives it up.
void core::advance(instance_id instance, time_point now, std::vector<effect>& out) {
  auto& l = loads_.at(instance);
  auto next = next_source(l);
  if (!next) {
    std::string reason = "no source of weights is left";
    for (auto& fault : l.faults) reason += "; " + fault;
    out.emplace_back(give_up{instance, std::move(reason)});
    const auto want = l.want;
    loads_.erase(instance);
    drop_fed_by(want.node, want.digest, "does not load any more", now, out);
    return;
  }
  const auto had = l.want;
  if (next->kind == source_kind::disk && std::exchange(l.assumed, false)) {
    l.want.digest.clear();
    next->digest.clear();
  }
  const auto elsewhere = next->kind == source_kind::network || next->kind == source_kind::disk;
  if (elsewhere && neighbour_loads(l) && now < l.since + opts_.max_wait) return;
  l.tried.insert({next->kind, next->holder});
  l.from = std::move(next);
  ++l.attempt;
  l.bytes_done = l.bytes_total = 0;
  l.started = l.last_progress = now;
  l.device_due.reset();
  if (l.pulls() && !l.want.device_kind.empty()) l.device_due = now + opts_.device_window;
  out.emplace_back(load_from{instance, l.attempt, *l.from, neighbours_of(l)});
  // What it has of the weights is of no use to others once it reads the disk instead.
  if (!l.pulls()) drop_fed_by(had.node, had.digest, "went to the disk", now, out);
}

void core::drop_source(
    instance_id instance, const std::string& fault, bool stop, time_point now, std::vector<effect>& out) {
  auto& l = loads_.at(instance);
  l.faults.push_back(fmt::format("{}: {}", describe(*l.from), fault));
  if (stop) out.emplace_back(stop_load{instance, l.attempt});
  l.from.reset();
  l.device_due.reset();
  advance(instance, now, out);
}

/// Ends an event: what changed may be what waiting instances waited for. In order of id: the first may become the load
/// that the others go on waiting for.
void core::settle(time_point now, std::vector<effect>& out) {
  std::vector<instance_id> waiting;
  for (auto& [id, l] : loads_)
    if (!l.from) waiting.push_back(id);
  for (auto id : waiting)
    if (auto it = loads_.find(id); it != loads_.end() && !it->second.from) advance(id, now, out);
  gather_devices(now, out);
  announce(out);
}

// ---- time ----

duration core::stall(source_kind kind) const {
  switch (kind) {
  case source_kind::same_process:
    return opts_.same_process_stall;
  case source_kind::shared_memory:
    return opts_.shared_memory_stall;
  case source_kind::network:
    return opts_.network_stall;
  case source_kind::disk:
    return opts_.disk_stall;
  }
  return opts_.disk_stall;
}

/// When it is to be looked at again.
time_point core::next_look(const load& l) const { return std::min(deadline(l), l.device_due.value_or(deadline(l))); }

time_point core::deadline(const load& l) const {
  return l.from ? l.last_progress + stall(l.from->kind) : l.since + opts_.max_wait;
}

void core::announce(std::vector<effect>& out) {
  std::optional<time_point> due;
  for (auto& [id, l] : loads_)
    if (auto next = next_look(l); !due || next < *due) due = next;
  if (!due || (announced_ && *announced_ <= *due)) return;
  announced_ = due;
  out.emplace_back(wake_at{*due});
}

// ---- accessors ----

std::vector<load_view> core::loads() const {
  std::vector<load_view> all;
  for (auto& [id, l] : loads_)
    all.push_back({id, l.want.node, l.from ? std::optional(l.from->kind) : std::nullopt, l.attempt, l.bytes_done,
        l.bytes_total, l.from ? l.from->holder : node_id{}});
  return all;
}

std::vector<holder_view> core::holders(const std::string& digest) const {
  std::vector<holder_view> all;
  if (auto it = holders_.find(digest); it != holders_.end())
    for (auto& [node, h] : it->second) all.push_back({node, h.host, h.bytes});
  return all;
}

} // namespace hflex::weights
