#include "gpu/transport/connection.hpp"
#include "gpu/transport/socket.hpp"
#include <algorithm>
#include <cstring>
#include <sys/epoll.h>

namespace hflex::gpu {
namespace {

constexpr std::size_t read_ahead_bytes = 32U << 10U;
constexpr int reads_per_turn = 16; // then other connections get theirs
/// Answers that the peer does not read; one that lets this much pile up is cut off.
constexpr std::size_t max_pending_output = 1U << 20U;

} // namespace

connection::connection(
    event_loop& loop, unique_fd socket, bool payload_in_ring, bool connecting, connection_events events)
    : loop_{loop}, socket_{std::move(socket)}, events_{std::move(events)}, payload_in_ring_{payload_in_ring},
      connecting_{connecting} {}

result<std::shared_ptr<connection>> connection::make(
    event_loop& loop, unique_fd socket, bool payload_in_ring, bool connecting, connection_events events) {
  std::shared_ptr<connection> c{
      new connection{loop, std::move(socket), payload_in_ring, connecting, std::move(events)}};
  c->interest_ = connecting ? EPOLLIN | EPOLLOUT : EPOLLIN;
  auto watch = loop.watch(c->socket(), c->interest_, [weak = std::weak_ptr{c}](std::uint32_t epoll_events) {
    if (const auto self = weak.lock()) self->on_ready(epoll_events); // the lock keeps it alive while it works
  });
  if (!watch) return pass(watch.error());
  c->watch_ = *watch;
  return c;
}

connection::~connection() { shut(); }

void connection::shut() {
  if (closed_) return;
  closed_ = true;
  loop_.unwatch(watch_, socket_.get());
  socket_ = unique_fd{};
}

void connection::end(error why) {
  if (closed_) return;
  shut();
  events_.on_closed(std::move(why));
}

void connection::on_ready(std::uint32_t epoll_events) {
  if (connecting_ && (epoll_events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0) {
    connecting_ = false;
    if (const int code = connect_error(socket_.get()); code != 0)
      return end({errc::reroute, fmt::format("cannot reach peer: {}", std::strerror(code))}); // NOLINT: glibc's is safe
  }
  if ((epoll_events & EPOLLOUT) != 0) flush();
  if ((epoll_events & ~std::uint32_t{EPOLLOUT}) != 0)
    for (int i = 0; i < reads_per_turn && !closed_ && read_once(); ++i) {
    }
  if (!closed_) events_.on_idle();
  if (!closed_) update_interest();
}

std::size_t connection::wanted_bytes() const {
  if (!next_) return read_ahead_bytes;
  const std::size_t frame = frame_header_bytes + next_->payload_bytes;
  return frame > in_.size() ? frame - in_.size() + read_ahead_bytes : read_ahead_bytes;
}

/// False when there is nothing more to read now.
bool connection::read_once() {
  const auto room = in_.prepare(wanted_bytes());
  auto got = read_some(socket_.get(), room);
  if (got.too_many_fds || (got.received_fd && received_fd_)) {
    end({errc::reject, "peer passed more descriptors than frames"});
    return false;
  }
  if (got.received_fd) received_fd_ = std::move(got.received_fd);
  in_.commit(got.bytes);
  if (!handle_frames()) return false;
  if (got.ended) end({errc::reroute, "peer is gone"});
  return got.bytes == room.size();
}

result<std::size_t> connection::inline_bytes(const frame_header& header) const {
  if (header.type == frame_type::data && payload_in_ring_) return std::size_t{0};
  if (header.payload_bytes > 0 && !payloads_allowed_) return fail(errc::reject, "payload before the handshake");
  return static_cast<std::size_t>(header.payload_bytes);
}

/// False when the connection has ended.
bool connection::handle_frames() {
  while (in_.size() >= frame_header_bytes) {
    if (!next_) {
      auto header = decode(in_.data().first<frame_header_bytes>());
      if (!header) return end(header.error()), false;
      next_ = *header;
    }
    const auto payload = inline_bytes(*next_);
    if (!payload) return end(payload.error()), false;
    const std::size_t whole = frame_header_bytes + *payload;
    if (in_.size() < whole) return true;
    const frame_header header = *next_;
    next_.reset();
    unique_fd fd = may_carry_fd(header.type) ? std::exchange(received_fd_, unique_fd{}) : unique_fd{};
    const auto handled = events_.on_frame(header, in_.data().subspan(frame_header_bytes, *payload), std::move(fd));
    if (closed_) return false;
    if (!handled) return end(handled.error()), false;
    in_.consume(whole);
  }
  return true;
}

void connection::send(const frame_header& header, unique_fd fd) {
  if (closed_) return;
  if (fd) to_pass_.push_back({written_ + out_.size(), std::move(fd)});
  encode(header, out_.prepare(frame_header_bytes).first<frame_header_bytes>());
  out_.commit(frame_header_bytes);
  flush();
}

void connection::send(const frame_header& header, std::span<const std::byte> payload, unique_fd fd) {
  if (closed_) return;
  if (fd) to_pass_.push_back({written_ + out_.size(), std::move(fd)});
  std::copy(payload.begin(), payload.end(), reserve(payload.size()).begin());
  send_reserved(header);
}

void connection::send_reserved(const frame_header& header) {
  if (closed_) return;
  const std::size_t whole = frame_header_bytes + header.payload_bytes;
  encode(header, out_.prepare(whole).first<frame_header_bytes>());
  out_.commit(whole);
  flush();
}

void connection::flush() {
  while (!closed_ && !connecting_ && !output_broken_ && !out_.empty()) {
    const bool pass_now = !to_pass_.empty() && to_pass_.front().position == written_;
    std::size_t limit = out_.size();
    if (const std::size_t next = pass_now ? 1 : 0;
        to_pass_.size() > next) // a descriptor goes with its own frame's bytes
      limit = std::min<std::size_t>(limit, to_pass_[next].position - written_);
    const auto done = write_some(socket_.get(), out_.data().first(limit), pass_now ? to_pass_.front().fd.get() : -1);
    output_broken_ = done.ended; // what the peer still had to say is read first; its end of stream closes us
    if (done.bytes == 0) break;
    if (pass_now) to_pass_.pop_front();
    out_.consume(done.bytes);
    written_ += done.bytes;
  }
  if (closed_) return;
  if (output_broken_) {
    out_.clear();
    to_pass_.clear();
  }
  if (out_.size() > max_pending_output)
    loop_.defer([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->end({errc::reject, "peer does not read"});
    });
  update_interest();
}

void connection::update_interest() {
  const bool write = connecting_ || (!out_.empty() && !output_broken_);
  const std::uint32_t interest = write ? EPOLLIN | EPOLLOUT : EPOLLIN;
  if (interest == interest_) return;
  interest_ = interest;
  loop_.change(watch_, socket_.get(), interest);
}

} // namespace hflex::gpu
