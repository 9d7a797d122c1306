#include "gpu/transport/weights_taker.hpp"
#include "gpu/model/weight_groups.hpp"
#include "gpu/transport/socket.hpp"
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <utility>

namespace hflex::gpu {
namespace {

/// One read: what stays in the second-level cache between the socket and the checksum.
constexpr std::uint64_t read_bytes = 512U << 10U;
constexpr int most_reads = 8; // then others of this thread get theirs
/// A head is believed so much at a time: nobody makes us reserve what he does not send.
constexpr std::uint64_t head_step = 1U << 20U;

} // namespace

weights_taker::~weights_taker() {
  loop_.cancel(lease_);
  if (socket_) loop_.unwatch(watch_, socket_.get());
}

result<void> weights_taker::begin(const endpoint& giver) {
  auto socket = dial_tcp(giver.address, giver.port);
  if (!socket) return pass(socket.error());
  socket_ = std::move(*socket);
  const weights_frame pull{weights_frame_type::pull, 0, 0, order_.key, order_.digest.size()};
  const auto header = encode(pull);
  out_.assign(header.begin(), header.end());
  const auto digest = std::as_bytes(std::span{order_.digest});
  out_.insert(out_.end(), digest.begin(), digest.end());
  auto watch =
      loop_.watch(socket_.get(), EPOLLIN | EPOLLOUT, [this](std::uint32_t epoll_events) { on_ready(epoll_events); });
  if (!watch) {
    socket_ = unique_fd{};
    return pass(watch.error());
  }
  watch_ = *watch;
  lease_ = loop_.after(order_.lease, [this] { finish(fail(errc::retry, "weights did not come in time")); });
  return {};
}

void weights_taker::finish(result<void> outcome) {
  if (!socket_) return;
  loop_.cancel(lease_);
  loop_.unwatch(watch_, socket_.get());
  socket_ = unique_fd{};
  events_.done(std::move(outcome));
}

void weights_taker::on_ready(std::uint32_t epoll_events) {
  if (connecting_ && (epoll_events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0) {
    connecting_ = false;
    if (const int code = connect_error(socket_.get()); code != 0)
      return finish(fail(errc::reroute, "cannot reach the holder: {}", std::strerror(code))); // NOLINT: glibc's is safe
  }
  if ((epoll_events & EPOLLOUT) != 0) flush();
  for (int i = 0; i < most_reads && socket_; ++i)
    if (!(frame_ ? read_payload() : read_header())) return;
}

void weights_taker::flush() {
  const auto done = write_some(socket_.get(), out_, -1);
  out_.erase(out_.begin(), out_.begin() + static_cast<std::ptrdiff_t>(done.bytes));
  loop_.change(watch_, socket_.get(), out_.empty() ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

/// False when there is nothing more to read now, or ever.
bool weights_taker::read_header() {
  const auto got = read_some(socket_.get(), std::span{header_}.subspan(header_bytes_));
  header_bytes_ += got.bytes;
  if (got.ended) return finish(fail(errc::reroute, "the holder is gone")), false;
  if (header_bytes_ < header_.size()) return false;
  header_bytes_ = 0;
  const auto frame = decode_weights_frame(header_);
  if (!frame) return finish(pass(frame.error())), false;
  if (auto ok = on_header(*frame); !ok) return finish(pass(ok.error())), false;
  return true;
}

result<void> weights_taker::on_header(const weights_frame& frame) {
  const auto* weights = shelf_.arriving(order_.digest);
  if (frame.type == weights_frame_type::refuse) return fail(errc::reroute, "the holder refuses");
  if (frame.type == weights_frame_type::head && frame.payload > 0 && !std::exchange(head_came_, true)) {
    head_.clear();
  } else if (frame.type != weights_frame_type::chunk || weights == nullptr || frame.begin >= weights->chunks() ||
             weights->has(frame.begin) || frame.payload != weights->chunk(frame.begin).size()) {
    return fail(errc::reject, "the holder sends what was not asked for");
  }
  frame_ = frame;
  payload_bytes_ = 0;
  return {};
}

bool weights_taker::read_payload() {
  std::span<std::byte> room;
  auto* weights = shelf_.arriving(order_.digest);
  const std::uint64_t left = frame_->payload - payload_bytes_;
  if (frame_->type == weights_frame_type::head) {
    head_.resize(payload_bytes_ + std::min(left, head_step));
    room = std::span{head_}.subspan(payload_bytes_);
  } else {
    auto whole = weights->room(frame_->begin, payload_bytes_);
    if (!whole) return finish(pass(whole.error())), false;
    room = whole->first(std::min(left, read_bytes));
  }
  const auto got = ::recv(socket_.get(), room.data(), room.size(), 0);
  if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
    return finish(fail(errc::reroute, "the holder is gone")), false;
  if (got < 0) return false;
  const auto bytes = static_cast<std::uint64_t>(got);
  if (frame_->type == weights_frame_type::chunk) weights->wrote(room.first(bytes));
  payload_bytes_ += bytes;
  if (payload_bytes_ < frame_->payload) return true;
  if (auto ok = on_payload(); !ok) return finish(pass(ok.error())), false;
  return static_cast<bool>(socket_);
}

result<void> weights_taker::on_payload() {
  const weights_frame frame = *frame_;
  frame_.reset();
  auto* weights = shelf_.arriving(order_.digest);
  if (frame.type == weights_frame_type::head) {
    if (weights == nullptr) {
      auto begun = partial_weights::begin(head_, order_.digest);
      if (!begun) return pass(begun.error());
      weights = &shelf_.arrives(std::move(*begun));
    }
    head_ = {};
    events_.on_head(*weights);
    ask_for_missing(*weights);
  } else if (auto ok = weights->finish(frame.begin); !ok) {
    return ok;
  }
  const bool all = weights->missing() == 0;
  events_.on_chunk();
  if (all) finish({});
  return {};
}

void weights_taker::ask_for_missing(const partial_weights& weights) {
  std::vector<chunk_range> runs; // in the order in which a step reads them
  for (const auto chunk : arrival_order(weights.layout())) {
    if (weights.has(chunk)) continue;
    if (runs.empty() || runs.back().end != chunk) runs.push_back({chunk, chunk});
    runs.back().end = chunk + 1;
  }
  for (const auto& run : runs) {
    const auto frame = encode({weights_frame_type::ask, run.begin, run.end - run.begin});
    out_.insert(out_.end(), frame.begin(), frame.end());
  }
  flush();
}

} // namespace hflex::gpu
