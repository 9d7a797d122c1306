#include "gpu/transport/weights_exchange.hpp"
#include "gpu/transport/socket.hpp"
#include <fcntl.h>
#include <system_error>

namespace hflex::gpu {
namespace {

constexpr std::size_t max_fetches = 64;

} // namespace

void weights_exchange::offer(region_ptr region) {
  const std::string& digest = region->digest();
  const std::lock_guard lock{offers_mutex_};
  offers_.insert_or_assign(digest, std::move(region));
}

void weights_exchange::withdraw(const std::string& digest) {
  const std::lock_guard lock{offers_mutex_};
  offers_.erase(digest);
}

weights_exchange::region_ptr weights_exchange::offered(const std::string& digest) {
  const std::lock_guard lock{offers_mutex_};
  const auto it = offers_.find(digest);
  return it == offers_.end() ? nullptr : it->second;
}

void weights_exchange::answer(connection& to, std::span<const std::byte> digest) {
  const auto region = offered({reinterpret_cast<const char*>(digest.data()), digest.size()});
  unique_fd copy{region ? ::fcntl(region->fd(), F_DUPFD_CLOEXEC, 0) : -1};
  frame_header h;
  h.type = copy ? frame_type::have : frame_type::failed;
  h.code = static_cast<std::uint32_t>(fault::refused);
  to.send(h, std::move(copy));
}

void weights_exchange::fetch(
    std::vector<endpoint> ways, std::string digest, duration deadline, transport::weights_callback done) {
  const std::uint64_t id = next_fetch_++;
  fetching f;
  f.ways = std::move(ways);
  f.digest = std::move(digest);
  f.done = std::move(done);
  f.deadline = loop_.after(deadline, [this, id] { complete(id, fail(errc::retry, "weights did not come in time")); });
  fetches_.emplace(id, std::move(f));
  if (fetches_.size() > max_fetches) return complete(id, fail(errc::retry, "{} fetches of weights wait", max_fetches));
  try_ways(id);
}

void weights_exchange::try_ways(std::uint64_t id) {
  fetching& f = fetches_.at(id);
  for (; f.way < f.ways.size(); ++f.way) {
    const endpoint& to = f.ways[f.way];
    if (to.kind == path_kind::local)
      if (auto own = offered(f.digest)) return complete(id, std::move(own));
    if (to.kind != path_kind::shm || f.digest.size() > max_digest_bytes) continue;
    if (auto holder = ask(to, id)) {
      f.holder = std::move(*holder);
      return;
    }
  }
  complete(id, fail(errc::reroute, "no holder on this host gives weights {}", f.digest));
}

result<std::shared_ptr<connection>> weights_exchange::ask(const endpoint& holder, std::uint64_t id) {
  auto socket = dial_unix(holder.address);
  if (!socket) return pass(socket.error());
  if (!same_user(socket->get())) return fail(errc::reroute, "holder runs as another user");
  auto c = connection::make(loop_, std::move(*socket), true, false,
      {[this, id](
           const frame_header& h, std::span<const std::byte>, unique_fd fd) { return on_frame(id, h, std::move(fd)); },
          [] {}, [this, id](const error&) { next_way(id); }});
  if (!c) return c;
  frame_header h;
  h.type = frame_type::hello;
  (*c)->send(h);
  const std::string& digest = fetches_.at(id).digest;
  h.type = frame_type::want;
  h.payload_bytes = digest.size();
  (*c)->send(h, std::as_bytes(std::span{digest}));
  return c;
}

result<void> weights_exchange::on_frame(std::uint64_t id, const frame_header& header, unique_fd fd) {
  if (header.type == frame_type::welcome) return {};
  if (header.type == frame_type::failed) {
    next_way(id);
    return {};
  }
  if (header.type != frame_type::have || !fd) return fail(errc::reject, "holder sent no descriptor");
  fetching& f = fetches_.at(id);
  f.holder->shut();
  if (auto queued = map_later({id, std::move(fd), f.digest}); !queued) complete(id, pass(queued.error()));
  return {};
}

void weights_exchange::next_way(std::uint64_t id) {
  fetching& f = fetches_.at(id);
  f.holder->shut();
  ++f.way;
  try_ways(id);
}

void weights_exchange::complete(std::uint64_t id, result<region_ptr> outcome) {
  auto node = fetches_.extract(id);
  if (node.empty()) return; // the deadline was faster than the mapping
  fetching& f = node.mapped();
  loop_.cancel(f.deadline);
  if (f.holder) f.holder->shut();
  completions_.add([done = std::move(f.done), r = std::move(outcome)] {
    if (done) done(r);
  });
}

void weights_exchange::close_all() {
  while (!fetches_.empty()) complete(fetches_.begin()->first, fail(errc::reroute, "transport ends"));
}

// ---- the mapping thread ----

result<void> weights_exchange::map_later(mapping_job job) {
  const std::lock_guard lock{mutex_};
  try {
    if (!mapper_.joinable()) mapper_ = std::thread{[this] { map_all(); }};
  } catch (const std::system_error& e) {
    return fail(errc::fatal, "cannot start a thread to map weights: {}", e.what());
  }
  jobs_.push_back(std::move(job));
  changed_.notify_one();
  return {};
}

void weights_exchange::map_all() {
  std::unique_lock lock{mutex_};
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || !jobs_.empty(); });
    if (ending_) return;
    mapping_job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    auto mapped = map_weights(job.fd.release(), job.digest, trust::head_only);
    loop_.post([this, id = job.fetch, r = std::move(mapped)] { complete(id, r); });
    lock.lock();
  }
}

void weights_exchange::finish_mapping() {
  {
    const std::lock_guard lock{mutex_};
    ending_ = true;
    changed_.notify_one();
  }
  if (mapper_.joinable()) mapper_.join();
}

} // namespace hflex::gpu
