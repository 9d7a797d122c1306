#include "gpu/transport/reception.hpp"
#include "gpu/transport/ring.hpp"
#include "gpu/transport/socket.hpp"
#include <cerrno>
#include <cstring>
#include <sys/epoll.h>
#include <sys/socket.h>

namespace hflex::gpu {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t max_guests = 256; // per listener, so that strangers on TCP do not lock neighbours out
constexpr auto hello_time = 2s;
constexpr auto silence = 90s;      // well above a source's own, so that it is the source who hangs up
constexpr auto pause_time = 100ms; // out of descriptors: give others time to close some

} // namespace

/// One accepted connection.
class reception::guest final : public source_peer {
public:
  guest(reception& host, listener& door, std::uint64_t id) : host_{host}, door_{door}, id_{id} { ++door_.guests; }
  ~guest() override {
    if (connection_) connection_->shut();
    host_.loop_.cancel(timer_);
    host_.sink_.on_gone(*this, {errc::reroute, "connection closed"});
    --door_.guests;
  }

  result<void> begin(unique_fd socket) {
    auto c = connection::make(host_.loop_, std::move(socket), door_.is_unix, false,
        {[this](const frame_header& h, std::span<const std::byte> p, unique_fd fd) {
           return on_frame(h, p, std::move(fd));
         },
            [this] { give_credit(); }, [this](const error& why) { leave(why); }});
    if (!c) return pass(c.error());
    connection_ = std::move(*c);
    timer_ = host_.loop_.after(hello_time, [this] { leave({errc::reject, "no hello in time"}); });
    return {};
  }

  void send(const frame_header& header) override { connection_->send(header); }

private:
  result<void> on_frame(const frame_header& h, std::span<const std::byte> payload, unique_fd fd) {
    if (!greeted_) return on_hello(h, std::move(fd));
    switch (h.type) {
    case frame_type::open:
    case frame_type::failed:
      host_.sink_.on_frame(*this, h, {}, false);
      return {};
    case frame_type::data:
      return on_data(h, payload);
    case frame_type::want:
      if (!door_.is_unix || std::exchange(has_asked_, true)) break; // one a connection: answers hold descriptors
      host_.weights_.answer(*connection_, h.code, payload);
      return {};
    default:
      break;
    }
    return fail(errc::reject, "frame type {} out of turn", static_cast<int>(h.type));
  }

  result<void> on_hello(const frame_header& h, unique_fd fd) {
    if (h.type != frame_type::hello || static_cast<bool>(fd) != (h.position > 0) || (fd && !door_.is_unix))
      return fail(errc::reject, "expected a hello");
    if (fd) {
      auto ring = ring_reader::map(std::move(fd), h.position);
      if (!ring) return pass(ring.error());
      ring_.emplace(std::move(*ring));
    }
    greeted_ = true;
    connection_->allow_payloads();
    frame_header welcome;
    welcome.type = frame_type::welcome;
    connection_->send(welcome);
    host_.loop_.cancel(timer_);
    watch_idleness();
    return {};
  }

  result<void> on_data(const frame_header& h, std::span<const std::byte> payload) {
    if (!door_.is_unix) {
      host_.sink_.on_frame(*this, h, payload, false);
      return {};
    }
    if (!ring_) return fail(errc::reject, "data without a ring");
    const auto shared = ring_->at(h.position, h.payload_bytes);
    if (!shared) return pass(shared.error());
    std::memcpy(
        host_.scratch_.get(), shared->data(), shared->size()); // checked and used as it is now, whatever the peer does
    ring_->consume(h.position, h.payload_bytes);
    host_.sink_.on_frame(*this, h, {host_.scratch_.get(), shared->size()}, false);
    return {};
  }

  void give_credit() {
    if (!ring_ || ring_->consumed() == credited_) return;
    credited_ = ring_->consumed();
    frame_header credit;
    credit.type = frame_type::credit;
    credit.position = credited_;
    connection_->send(credit);
  }

  /// Whatever it sends: a guest that runs no transfer of ours at two looks in a row has to go.
  void watch_idleness() {
    timer_ = host_.loop_.after(silence / 2, [this] {
      const bool idle = transfers == 0;
      if (idle && std::exchange(was_idle_, idle)) return leave({errc::reroute, "idle"});
      was_idle_ = idle;
      watch_idleness();
    });
  }

  void leave(const error& why) {
    connection_->shut();
    ring_.reset(); // both at once: the object itself goes a little later
    host_.sink_.on_gone(*this, why);
    host_.dismiss(id_);
  }

  reception& host_;
  listener& door_;
  const std::uint64_t id_;
  std::shared_ptr<connection> connection_;
  std::optional<ring_reader> ring_;
  std::uint64_t credited_{0};
  event_loop::token timer_{0};
  bool greeted_{false};
  bool has_asked_{false};
  bool was_idle_{false};
};

reception::~reception() { close_all(); }

result<void> reception::listen(unique_fd socket, bool is_unix) {
  auto l = std::make_unique<listener>();
  l->socket = std::move(socket);
  l->is_unix = is_unix;
  auto watch = loop_.watch(l->socket.get(), EPOLLIN, [this, at = l.get()](std::uint32_t) { accept(*at); });
  if (!watch) return pass(watch.error());
  l->watch = *watch;
  listeners_.push_back(std::move(l));
  return {};
}

void reception::close_all() {
  for (const auto& l : listeners_) {
    loop_.unwatch(l->watch, l->socket.get());
    l->socket = unique_fd{}; // the listener itself stays: guests on their way out still count down
  }
  guests_.clear();
}

void reception::accept(listener& on) {
  unique_fd socket{::accept4(on.socket.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)};
  if (!socket) {
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) pause(on);
    return;
  }
  if (on.guests >= max_guests || (on.is_unix && !same_user(socket.get()))) return;
  if (!on.is_unix) set_no_delay(socket.get());
  const std::uint64_t id = next_guest_++;
  auto g = std::make_shared<guest>(*this, on, id);
  if (g->begin(std::move(socket))) guests_.emplace(id, std::move(g));
}

/// The pending connection would wake us at once again.
void reception::pause(listener& on) {
  loop_.change(on.watch, on.socket.get(), 0);
  loop_.after(pause_time, [this, &on] { loop_.change(on.watch, on.socket.get(), EPOLLIN); });
}

void reception::dismiss(std::uint64_t id) {
  const auto it = guests_.find(id);
  if (it == guests_.end()) return;
  loop_.defer([g = it->second] {}); // it is calling us
  guests_.erase(it);
}

} // namespace hflex::gpu
