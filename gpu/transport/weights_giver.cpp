#include "gpu/transport/weights_giver.hpp"
#include "gpu/transport/socket.hpp"
#include "gpu/transport/weights_frame.hpp"
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

namespace hflex::gpu {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t max_takers = 64;
constexpr std::size_t max_grants = 4096;
constexpr auto grant_time = 5s;                 // a taker may be here before its grant, which comes another way
constexpr std::uint64_t turn_bytes = 1U << 20U; // then other guests get theirs
constexpr double smallest_write = 64U << 10U;
constexpr double burst_s = 0.01;

} // namespace

// ---- how fast ----

void token_bucket::set_rate(std::uint64_t bytes_per_s, clock::time_point now) {
  refill(now);
  rate_ = static_cast<double>(bytes_per_s);
  tokens_ = std::min(tokens_, std::max(smallest_write, rate_ * burst_s));
}

void token_bucket::refill(clock::time_point now) {
  if (rate_ > 0)
    tokens_ = std::min(
        tokens_ + rate_ * std::chrono::duration<double>(now - at_).count(), std::max(smallest_write, rate_ * burst_s));
  at_ = now;
}

std::uint64_t token_bucket::take(std::uint64_t want, clock::time_point now) {
  if (rate_ <= 0) return want;
  refill(now);
  if (tokens_ < std::min(smallest_write, static_cast<double>(want))) return 0;
  const auto got = std::min(want, static_cast<std::uint64_t>(tokens_));
  tokens_ -= static_cast<double>(got);
  return got;
}

std::chrono::nanoseconds token_bucket::pause(clock::time_point now) const {
  const double have = tokens_ + rate_ * std::chrono::duration<double>(now - at_).count();
  const double left = std::max(0.0, smallest_write - have) / std::max(rate_, 1.0);
  return std::chrono::nanoseconds{static_cast<std::int64_t>(left * 1e9) + 1};
}

// ---- one taker ----

class weights_giver::guest {
public:
  guest(weights_giver& host, std::uint64_t id) : host_{host}, id_{id} {}
  guest(const guest&) = delete;
  guest& operator=(const guest&) = delete;
  ~guest() { shut(); }

  result<void> begin(unique_fd socket, const std::shared_ptr<guest>& self) {
    socket_ = std::move(socket);
    auto watch = host_.loop_.watch(socket_.get(), EPOLLIN, [weak = std::weak_ptr{self}](std::uint32_t events) {
      if (const auto me = weak.lock()) me->on_ready(events);
    });
    if (!watch) return pass(watch.error());
    watch_ = *watch;
    patience_ = host_.loop_.after(grant_time, [this] { refuse(); });
    return {};
  }

  const std::string& digest() const { return digest_; }
  std::uint64_t key() const { return key_; }

  /// Its grant is there, or there is something new on the shelf.
  void look_again() {
    if (!asked_for_ || !socket_) return;
    const auto grant = host_.grants_.find(key_);
    if (!let_in_ && (grant == host_.grants_.end() || grant->second.digest != digest_)) return;
    if (!std::exchange(let_in_, true)) host_.loop_.cancel(patience_);
    if (head_sent_ && host_.shelf_.chunks(digest_) == 0) return refuse(); // withdrawn
    want_to_write(true);
  }

  void refuse() {
    if (!socket_) return;
    const auto frame = encode({weights_frame_type::refuse});
    // Between two frames it can be said; in the middle of one the end of the stream says it.
    if (!sending_) ::send(socket_.get(), frame.data(), frame.size(), MSG_NOSIGNAL);
    leave();
  }

  void resume() {
    if (let_in_) want_to_write(true);
  }

private:
  void leave() {
    shut();
    host_.dismiss(id_);
  }

  void shut() {
    host_.loop_.cancel(patience_);
    if (socket_) host_.loop_.unwatch(watch_, socket_.get());
    socket_ = unique_fd{};
  }

  void on_ready(std::uint32_t events) {
    if ((events & EPOLLOUT) != 0) write();
    if (socket_ && (events & ~std::uint32_t{EPOLLOUT}) != 0) read();
  }

  // ---- what it asks ----

  void read() {
    const auto got = read_some(socket_.get(), std::span{in_}.subspan(in_bytes_));
    in_bytes_ += got.bytes;
    std::size_t at = 0;
    while (socket_) {
      const auto left = std::span{in_}.subspan(at, in_bytes_ - at);
      if (left.size() < weights_frame_bytes) break;
      const auto frame = decode_weights_frame(left.first<weights_frame_bytes>());
      if (!frame || frame->payload > max_digest) return leave();
      if (left.size() < weights_frame_bytes + frame->payload) break;
      at += weights_frame_bytes + frame->payload;
      if (!on_frame(*frame, left.subspan(weights_frame_bytes, frame->payload))) return leave();
    }
    if (!socket_) return;
    std::memmove(in_.data(), in_.data() + at, in_bytes_ - at);
    in_bytes_ -= at;
    if (got.ended) leave();
  }

  bool on_frame(const weights_frame& frame, std::span<const std::byte> payload) {
    if (frame.type == weights_frame_type::pull && !asked_for_) {
      asked_for_ = true;
      key_ = frame.key;
      digest_.assign(reinterpret_cast<const char*>(payload.data()), payload.size());
      look_again();
      return true;
    }
    if (frame.type != weights_frame_type::ask || !head_sent_) return false;
    const auto chunks = host_.shelf_.chunks(digest_);
    if (frame.begin >= chunks || frame.count > chunks - frame.begin || asked_.size() + frame.count > chunks)
      return false;
    for (std::uint32_t i = 0; i < frame.count; ++i) asked_.push_back(frame.begin + i);
    want_to_write(true);
    return true;
  }

  // ---- what it gets ----

  void want_to_write(bool yes) {
    if (!socket_) return;
    const std::uint32_t interest = yes ? EPOLLIN | EPOLLOUT : EPOLLIN;
    if (std::exchange(interest_, interest) != interest) host_.loop_.change(watch_, socket_.get(), interest);
  }

  /// Chooses what goes out next: the head, then the first chunk asked for that is here.
  bool choose() {
    if (sending_) return true;
    if (!head_sent_) {
      const auto head = host_.shelf_.head(digest_);
      if (head.empty()) return false;
      return start({weights_frame_type::head, 0, 0, 0, head.size()}, std::nullopt);
    }
    for (auto i = asked_.begin(); i != asked_.end(); ++i) {
      const auto bytes = host_.shelf_.chunk(digest_, *i);
      if (bytes.empty()) continue;
      const auto chunk = *i;
      asked_.erase(i);
      return start({weights_frame_type::chunk, chunk, 0, 0, bytes.size()}, chunk);
    }
    return false;
  }

  bool start(const weights_frame& frame, std::optional<std::uint32_t> chunk) {
    header_ = encode(frame);
    chunk_ = chunk;
    sent_ = 0;
    return sending_ = true;
  }

  void write() {
    for (std::uint64_t turn = 0; turn < turn_bytes;) {
      if (!choose()) return want_to_write(false);
      // Asked anew each time: a region that was sealed since lies elsewhere.
      const auto body = chunk_ ? host_.shelf_.chunk(digest_, *chunk_) : host_.shelf_.head(digest_);
      if (body.empty()) return refuse();
      const std::uint64_t left = header_.size() + body.size() - sent_;
      const auto now = event_loop::clock::now();
      const auto most = host_.bucket_.take(std::min(left, turn_bytes - turn), now);
      if (most == 0) {
        want_to_write(false);
        return host_.resume_later();
      }
      const auto done = send_part(body, most);
      host_.bucket_.give_back(most - done.bytes);
      if (done.ended) return leave();
      if (done.bytes == 0) return;
      sent_ += done.bytes;
      turn += done.bytes;
      host_.bytes_sent_ += done.bytes;
      if (sent_ == header_.size() + body.size()) {
        sending_ = false;
        if (!chunk_) head_sent_ = true;
      }
    }
  }

  io_outcome send_part(std::span<const std::byte> body, std::uint64_t most) {
    std::array<iovec, 2> parts{};
    std::size_t count = 0;
    std::uint64_t skip = sent_;
    for (const auto part : {std::span<const std::byte>{header_}, body}) {
      const auto begin = std::min<std::uint64_t>(skip, part.size());
      skip -= begin;
      const auto size = std::min<std::uint64_t>(part.size() - begin, most);
      most -= size;
      if (size > 0) parts[count++] = {const_cast<std::byte*>(part.data()) + begin, size};
    }
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = count;
    const auto n = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
    io_outcome out;
    if (n < 0)
      out.ended = errno != EAGAIN && errno != EINTR;
    else
      out.bytes = static_cast<std::size_t>(n);
    return out;
  }

  static constexpr std::size_t max_digest = 256;

  weights_giver& host_;
  const std::uint64_t id_;
  unique_fd socket_;
  event_loop::token watch_{0};
  std::uint32_t interest_{EPOLLIN};
  event_loop::token patience_{0};
  std::array<std::byte, 4096> in_{};
  std::size_t in_bytes_{0};
  bool asked_for_{false}; ///< it said what it wants
  bool let_in_{false};    ///< and has a grant for it
  bool head_sent_{false};
  std::uint64_t key_{0};
  std::string digest_;
  std::deque<std::uint32_t> asked_;
  bool sending_{false};
  std::optional<std::uint32_t> chunk_; ///< on its way; none: the head
  std::array<std::byte, weights_frame_bytes> header_{};
  std::uint64_t sent_{0}; ///< of header and payload
};

// ---- all of them ----

weights_giver::~weights_giver() { close_all(); }

result<void> weights_giver::listen(unique_fd socket) {
  socket_ = std::move(socket);
  auto watch = loop_.watch(socket_.get(), EPOLLIN, [this](std::uint32_t) { accept(); });
  if (!watch) return pass(watch.error());
  watch_ = *watch;
  return {};
}

void weights_giver::accept() {
  unique_fd socket{::accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)};
  if (!socket) {
    if (errno != EMFILE && errno != ENFILE && errno != ENOMEM && errno != ENOBUFS) return;
    loop_.change(watch_, socket_.get(), 0); // the pending connection would wake us at once again
    loop_.after(100ms, [this] {
      if (socket_) loop_.change(watch_, socket_.get(), EPOLLIN);
    });
    return;
  }
  if (guests_.size() >= max_takers) return;
  set_no_delay(socket.get());
  const auto id = next_guest_++;
  auto g = std::make_shared<guest>(*this, id);
  if (g->begin(std::move(socket), g)) guests_.emplace(id, std::move(g));
}

void weights_giver::dismiss(std::uint64_t id) {
  auto node = guests_.extract(id);
  if (!node.empty()) loop_.defer([g = std::move(node.mapped())] {}); // it is calling us
}

void weights_giver::grant(std::string digest, std::uint64_t key, std::chrono::nanoseconds lease) {
  if (grants_.size() >= max_grants && grants_.count(key) == 0) return; // its taker is refused and goes elsewhere
  auto& entry = grants_[key];
  loop_.cancel(entry.lease);
  entry.digest = std::move(digest);
  entry.lease = loop_.after(lease, [this, key] {
    grants_.erase(key);
    const auto guests = guests_;
    for (const auto& [id, g] : guests)
      if (g->key() == key) g->refuse();
  });
  const auto guests = guests_;
  for (const auto& [id, g] : guests)
    if (g->key() == key) g->look_again();
}

void weights_giver::limit(std::uint64_t bytes_per_s) {
  bucket_.set_rate(bytes_per_s, event_loop::clock::now());
  resume_later();
}

void weights_giver::changed(const std::string& digest) {
  const auto guests = guests_; // one of them may leave
  for (const auto& [id, g] : guests)
    if (g->digest() == digest) g->look_again();
}

void weights_giver::resume_later() {
  if (resume_ != 0) return;
  resume_ = loop_.after(bucket_.pause(event_loop::clock::now()), [this] {
    resume_ = 0;
    for (const auto& [id, g] : guests_) g->resume();
  });
}

void weights_giver::close_all() {
  if (socket_) loop_.unwatch(watch_, socket_.get());
  socket_ = unique_fd{};
  loop_.cancel(resume_);
  for (const auto& [key, entry] : grants_) loop_.cancel(entry.lease);
  grants_.clear();
  guests_.clear();
}

} // namespace hflex::gpu
