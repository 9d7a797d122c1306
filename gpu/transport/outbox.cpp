#include "gpu/transport/outbox.hpp"
#include "actors/common/check.hpp"

namespace hflex::gpu {
namespace {

bool fits(const kv_rows& rows, const kv_shape& shape) {
  return rows.layer < shape.layers && rows.count > 0 && rows.count <= shape.tokens &&
         rows.begin <= shape.tokens - rows.count;
}

} // namespace

bool outbox::add(transfer_id id, const kv_shape& shape, const std::string& peer) {
  const std::lock_guard lock{mutex_};
  entry e;
  e.shape = shape;
  e.peer = peer;
  if (!entries_.try_emplace(id, std::move(e)).second) return false;
  ++peers_[peer].users;
  return true;
}

bool outbox::push(transfer_id id, const kv_rows& rows) {
  const std::lock_guard lock{mutex_};
  const auto it = entries_.find(id);
  if (it == entries_.end() || it->second.finished || it->second.wrong) return false;
  entry& e = it->second;
  auto& queued = peers_.at(e.peer).bytes;
  const std::uint64_t bytes = rows.count * e.shape.token_layer_bytes;
  if (!fits(rows, e.shape)) {
    e.wrong = error{errc::reject, fmt::format("pushed rows {}+{} of layer {}: expected {} layers of {} tokens",
                                      rows.begin, rows.count, rows.layer, e.shape.layers, e.shape.tokens)};
  } else if (bytes > max_queued_bytes_ - queued) {
    e.wrong = error{errc::retry, fmt::format("{} bytes wait for this peer: at most {} may", queued, max_queued_bytes_)};
  } else {
    e.rows.push_back(rows);
    queued += bytes;
  }
  return !std::exchange(e.woken, true);
}

std::optional<error> outbox::look(transfer_id id) {
  const std::lock_guard lock{mutex_};
  const auto it = entries_.find(id);
  if (it == entries_.end()) return std::nullopt;
  it->second.woken = false;
  return it->second.wrong;
}

std::optional<kv_rows> outbox::next(transfer_id id) const {
  const std::lock_guard lock{mutex_};
  const auto it = entries_.find(id);
  if (it == entries_.end() || it->second.rows.empty()) return std::nullopt;
  return it->second.rows.front();
}

void outbox::sent(transfer_id id, std::uint32_t tokens, std::string_view path) {
  const std::lock_guard lock{mutex_};
  const auto it = entries_.find(id);
  HFLEX_CHECK(it != entries_.end() && !it->second.rows.empty() && tokens <= it->second.rows.front().count);
  entry& e = it->second;
  kv_rows& rows = e.rows.front();
  rows.begin += tokens;
  rows.count -= tokens;
  if (rows.count == 0) e.rows.pop_front();
  const std::uint64_t bytes = tokens * e.shape.token_layer_bytes;
  peers_.at(e.peer).bytes -= bytes;
  e.stats.bytes_total += bytes;
  e.stats.path = path;
}

void outbox::finish_locked(entry& e) {
  if (e.finished) return;
  e.finished = true;
  const auto peer = peers_.find(e.peer);
  HFLEX_CHECK(peer != peers_.end());
  for (const kv_rows& rows : e.rows) peer->second.bytes -= rows.count * e.shape.token_layer_bytes;
  e.rows = {};
  if (--peer->second.users == 0) peers_.erase(peer);
}

void outbox::finish(transfer_id id) {
  const std::lock_guard lock{mutex_};
  if (const auto it = entries_.find(id); it != entries_.end()) finish_locked(it->second);
}

void outbox::erase(transfer_id id) {
  const std::lock_guard lock{mutex_};
  const auto it = entries_.find(id);
  if (it == entries_.end()) return;
  finish_locked(it->second);
  entries_.erase(it);
}

transfer_stats outbox::stats(transfer_id id) const {
  const std::lock_guard lock{mutex_};
  const auto it = entries_.find(id);
  return it == entries_.end() ? transfer_stats{} : it->second.stats;
}

} // namespace hflex::gpu
