// One framed, non-blocking stream connection: header parsing, inline payloads, passed descriptors, bounded buffers both
// ways. Decides only what is a well-formed frame for this stage; what it means is its owner's. I/O thread only.
//
// Rules of re-entry: `send` and `flush` never call back. `on_closed` comes at most once and from the loop, never from
// inside a call of the owner's; a connection that its owner shuts does not call back at all.
#pragma once
#include "gpu/transport/byte_buffer.hpp"
#include "gpu/transport/event_loop.hpp"
#include "gpu/transport/frame.hpp"
#include <deque>
#include <functional>
#include <memory>
#include <optional>

namespace hflex::gpu {

struct connection_events {
  /// A whole frame, with its inline payload and, for types that may carry one, the descriptor that came with it. An
  /// error ends the connection.
  std::function<result<void>(const frame_header&, std::span<const std::byte> payload, unique_fd fd)> on_frame;
  /// What arrived in one go has been handled, or pending output has drained: the time for answers in bulk.
  std::function<void()> on_idle;
  /// errc::reroute: the peer is gone; errc::reject: the peer broke the protocol.
  std::function<void(error)> on_closed;
};

class connection : public std::enable_shared_from_this<connection> {
public:
  /// `payload_in_ring`: data payloads do not follow their headers.
  static result<std::shared_ptr<connection>> make(
      event_loop& loop, unique_fd socket, bool payload_in_ring, bool connecting, connection_events events);
  ~connection();

  /// Queues a frame without payload and writes what the socket takes. `fd` is passed with it.
  void send(const frame_header& header, unique_fd fd = {});
  /// Queues a frame with a small inline payload; `fd` is passed with it.
  void send(const frame_header& header, std::span<const std::byte> payload, unique_fd fd = {});
  /// Room for a data payload, in place; send_reserved then puts `header` before its first header.payload_bytes bytes.
  std::span<std::byte> reserve(std::size_t bytes) {
    return out_.prepare(frame_header_bytes + bytes).subspan(frame_header_bytes);
  }
  void send_reserved(const frame_header& header);
  std::size_t pending_output() const { return out_.size(); }

  /// Lets frames with an inline payload in (off until the handshake is done: strangers get no memory).
  void allow_payloads() { payloads_allowed_ = true; }
  void shut();
  int socket() const { return socket_.get(); }

private:
  struct passed_fd {
    std::uint64_t position; // in the stream of written bytes
    unique_fd fd;
  };
  connection(event_loop& loop, unique_fd socket, bool payload_in_ring, bool connecting, connection_events events);
  void on_ready(std::uint32_t epoll_events);
  bool read_once();
  bool handle_frames();
  /// Bytes that follow this header in the stream.
  result<std::size_t> inline_bytes(const frame_header& header) const;
  std::size_t wanted_bytes() const;
  void flush();
  void update_interest();
  void end(error why);

  event_loop& loop_;
  unique_fd socket_;
  connection_events events_;
  event_loop::token watch_{0};
  std::uint32_t interest_{0};
  bool payload_in_ring_;
  bool connecting_;
  bool payloads_allowed_{false};
  bool closed_{false};
  bool output_broken_{false};
  byte_buffer in_;
  std::optional<frame_header> next_; // parsed header whose payload has not arrived whole
  unique_fd received_fd_;
  byte_buffer out_;
  std::uint64_t written_{0};
  std::deque<passed_fd> to_pass_;
};

} // namespace hflex::gpu
