// How a source's frames reach one sink: over a socket (payload inline, `tcp`), over a socket and a shared ring (`shm`),
// or by a call within the process (`local`). A new way is one class here and one line in dial_lane. I/O thread only.
#pragma once
#include "gpu/transport/connection.hpp"
#include "gpu/transport/endpoint.hpp"
#include "gpu/transport/kv_sink.hpp"
#include "gpu/transport/ring.hpp"

namespace hflex::gpu {

/// What a lane tells its owner; never from inside a call of the owner's. The owner may drop the lane only after the
/// call.
struct lane_events {
  std::function<void()> on_ready;                            ///< the sink answered: transfers may open
  std::function<void()> on_room;                             ///< reserve may give more than it did
  std::function<result<void>(const frame_header&)> on_reply; ///< delivered, failed; an error ends the lane
  std::function<void(error)> on_closed;
};

class lane {
public:
  virtual ~lane() = default;
  virtual std::string_view path() const = 0;
  /// Largest payload that fits one frame.
  virtual std::uint64_t max_chunk() const = 0;
  virtual void send(const frame_header& header) = 0;
  /// Room for a data payload of `min`..`max` bytes, or empty: wait for on_room.
  virtual std::span<std::byte> reserve(std::uint64_t min, std::uint64_t max) = 0;
  /// Sends the first header.payload_bytes bytes of what reserve gave, in which `header` names the rows.
  virtual void send_rows(frame_header header) = 0;
};

/// errc::reroute when there is no such way (any more).
result<std::unique_ptr<lane>> dial_lane(
    event_loop& loop, kv_sink& own_sink, const endpoint& to, std::uint64_t ring_bytes, lane_events events);

} // namespace hflex::gpu
