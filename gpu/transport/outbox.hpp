// Rows that were pushed and not yet sent, by transfer: the one place where pushing threads and the I/O thread meet.
// Counts queued bytes per peer and enforces their bound; keeps what `stats` tells. Every call may come from any thread
// and only locks briefly; it never calls out.
#pragma once
#include "gpu/transport/transport.hpp"
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <unordered_map>

namespace hflex::gpu {

/// Rows [begin, begin + count) of one layer.
struct kv_rows {
  std::uint32_t layer{};
  std::uint32_t begin{};
  std::uint32_t count{};
};

class outbox {
public:
  explicit outbox(std::uint64_t max_queued_bytes) : max_queued_bytes_{max_queued_bytes} {}

  /// A new transfer to `peer`; false when the id is known (finished ones are known until `erase`).
  bool add(transfer_id id, const kv_shape& shape, const std::string& peer);
  /// Queues rows. True when the I/O thread is to be woken for this transfer: rows or a fault after it last looked.
  bool push(transfer_id id, const kv_rows& rows);

  /// The I/O thread looks at this transfer now: later pushes wake it again. Tells what is wrong with the pushes, if
  /// anything: errc::retry for too many bytes, errc::reject for rows outside the shape.
  std::optional<error> look(transfer_id id);
  /// The oldest queued rows.
  std::optional<kv_rows> next(transfer_id id) const;
  /// The first `tokens` of the oldest rows are sent over `path`.
  void sent(transfer_id id, std::uint32_t tokens, std::string_view path);
  /// The transfer is over: drops its rows, ignores later ones, keeps its stats.
  void finish(transfer_id id);
  void erase(transfer_id id);
  transfer_stats stats(transfer_id id) const;

private:
  struct peer_queue {
    std::uint64_t bytes{};
    std::uint32_t users{};
  };
  struct entry {
    kv_shape shape;
    std::string peer;
    std::deque<kv_rows> rows;
    bool woken{false};
    bool finished{false};
    std::optional<error> wrong;
    transfer_stats stats;
  };
  void finish_locked(entry& e);

  const std::uint64_t max_queued_bytes_;
  mutable std::mutex mutex_;
  std::unordered_map<transfer_id, entry> entries_;
  std::map<std::string, peer_queue> peers_;
};

} // namespace hflex::gpu
