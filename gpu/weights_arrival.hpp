// Which chunks of a weight region that is still being received are here: who receives tells, who computes waits. A
// chunk counts from the moment its checksum was found right, so nobody reads a byte that was not verified. It knows
// neither where chunks come from nor whether more will come: that a source is gone is the control plane's affair, which
// names another one or ends the waiter; the waiter's own patience bounds the rest. Any thread.
#pragma once
#include "actors/common/result.hpp"
#include "actors/common/time.hpp"
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

namespace hflex::gpu {

/// Chunks [begin, end).
struct chunk_range {
  std::uint32_t begin{};
  std::uint32_t end{};
  friend bool operator==(const chunk_range&, const chunk_range&) = default;
};

class weights_arrival {
public:
  explicit weights_arrival(std::uint32_t chunks) : here_(chunks), missing_(chunks), whole_(chunks == 0) {}

  /// The chunk is here and right. Once for each; what was written to it is seen by who waited for it.
  void put(std::uint32_t chunk);
  /// Makes waiters look at their `stopped` again.
  void wake();

  bool whole() const { return whole_.load(std::memory_order_acquire); }
  /// Blocks until all of these chunks are here. errc::reroute: `stopped` was set (and wake called); errc::retry:
  /// nothing at all arrived for as long as `patience`.
  result<void> wait(chunk_range chunks, duration patience, const std::atomic<bool>& stopped) const;

private:
  bool has(chunk_range chunks) const;

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<bool> here_;
  std::uint32_t missing_;
  std::atomic<bool> whole_;
};

} // namespace hflex::gpu
