#include "gpu/transport/lane.hpp"
#include "actors/common/check.hpp"
#include "gpu/transport/socket.hpp"
#include <algorithm>

namespace hflex::gpu {
namespace {

constexpr std::size_t tcp_high_water = max_payload_bytes; // unsent bytes at which a lane waits for its socket
constexpr std::size_t shm_high_water = 64U << 10U;        // the same for bare headers

class wire_lane final : public lane {
public:
  static result<std::unique_ptr<lane>> dial(
      event_loop& loop, const endpoint& to, std::uint64_t ring_bytes, lane_events events) {
    const bool shm = to.kind == path_kind::shm;
    auto socket = shm ? dial_unix(to.address) : dial_tcp(to.address, to.port);
    if (!socket) return pass(socket.error());
    if (shm && !same_user(socket->get())) return fail(errc::reroute, "shm peer runs as another user");
    std::unique_ptr<wire_lane> l{new wire_lane{std::move(events)}};
    frame_header hello;
    hello.type = frame_type::hello;
    unique_fd ring_fd;
    if (shm) {
      auto ring = ring_writer::create(ring_bytes);
      if (!ring) return pass(ring.error());
      l->ring_.emplace(std::move(ring->first));
      ring_fd = std::move(ring->second);
      hello.position = ring_bytes;
    }
    auto c = connection::make(loop, std::move(*socket), shm, !shm, l->handlers());
    if (!c) return pass(c.error());
    l->connection_ = std::move(*c);
    l->connection_->send(hello, std::move(ring_fd));
    return l;
  }
  ~wire_lane() override {
    if (connection_) connection_->shut();
  }

  std::string_view path() const override { return ring_ ? "shm" : "tcp"; }
  std::uint64_t max_chunk() const override {
    return ring_ ? std::min(max_payload_bytes, ring_->bytes() / 4) : max_payload_bytes;
  }
  void send(const frame_header& header) override { connection_->send(header); }

  std::span<std::byte> reserve(std::uint64_t min, std::uint64_t max) override {
    if (connection_->pending_output() >= (ring_ ? shm_high_water : tcp_high_water)) return {};
    reserved_ = ring_ ? ring_->reserve(min, max) : connection_->reserve(max);
    return reserved_;
  }

  void send_rows(frame_header header) override {
    header.checksum = payload_checksum(reserved_.first(header.payload_bytes));
    if (!ring_) return connection_->send_reserved(header);
    header.position = ring_->commit(header.payload_bytes);
    connection_->send(header);
  }

private:
  explicit wire_lane(lane_events events) : events_{std::move(events)} {}

  connection_events handlers() {
    return {[this](const frame_header& h, std::span<const std::byte>, unique_fd) { return on_frame(h); },
        [this] {
          if (welcome_) events_.on_room();
        },
        [this](error why) { events_.on_closed(std::move(why)); }};
  }

  result<void> on_frame(const frame_header& h) {
    if (h.type == frame_type::welcome && !welcome_) {
      welcome_ = true;
      events_.on_ready();
      return {};
    }
    if (welcome_ && h.type == frame_type::credit && ring_ && ring_->credit(h.position))
      return {}; // on_idle gives the room
    if (welcome_ && (h.type == frame_type::delivered || h.type == frame_type::failed)) return events_.on_reply(h);
    return fail(errc::reject, "sink sent frame type {} out of turn", static_cast<int>(h.type));
  }

  lane_events events_;
  std::optional<ring_writer> ring_;
  std::shared_ptr<connection> connection_;
  std::span<std::byte> reserved_;
  bool welcome_{false};
};

/// Both ends in one process: the sink is called, its answers come back later in the turn.
class local_lane final : public lane {
public:
  local_lane(event_loop& loop, kv_sink& sink, lane_events events)
      : sink_{sink}, events_{std::make_shared<lane_events>(std::move(events))}, answers_{loop, events_},
        scratch_{new std::byte[max_payload_bytes]} {
    loop.defer([weak = std::weak_ptr{events_}] {
      if (const auto e = weak.lock()) e->on_ready();
    });
  }
  ~local_lane() override { sink_.on_gone(answers_, {errc::reroute, "source is gone"}); }

  std::string_view path() const override { return "local"; }
  std::uint64_t max_chunk() const override { return max_payload_bytes; }
  void send(const frame_header& header) override { sink_.on_frame(answers_, header, {}, true); }
  std::span<std::byte> reserve(std::uint64_t, std::uint64_t max) override { return {scratch_.get(), max}; }
  void send_rows(frame_header header) override {
    sink_.on_frame(answers_, header, {scratch_.get(), header.payload_bytes}, true);
  }

private:
  class answers final : public source_peer {
  public:
    answers(event_loop& loop, std::weak_ptr<lane_events> events) : loop_{loop}, events_{std::move(events)} {}
    void send(const frame_header& header) override {
      loop_.defer([weak = events_, header] {
        if (const auto e = weak.lock()) HFLEX_CHECK(e->on_reply(header));
      });
    }

  private:
    event_loop& loop_;
    std::weak_ptr<lane_events> events_;
  };

  kv_sink& sink_;
  std::shared_ptr<lane_events> events_;
  answers answers_;
  std::unique_ptr<std::byte[]> scratch_;
};

} // namespace

result<std::unique_ptr<lane>> dial_lane(
    event_loop& loop, kv_sink& own_sink, const endpoint& to, std::uint64_t ring_bytes, lane_events events) {
  if (to.kind == path_kind::local) return std::make_unique<local_lane>(loop, own_sink, std::move(events));
  return wire_lane::dial(loop, to, ring_bytes, std::move(events));
}

} // namespace hflex::gpu
