#include "gpu/transport/weights_exchange.hpp"
#include "gpu/transport/socket.hpp"
#include <algorithm>
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

device_offer weights_exchange::offer_device(std::string key, shared_device_memory memory) {
  if (key.size() > max_digest_bytes || memory.note.size() > max_note_bytes || !memory.fd) return {};
  const std::lock_guard lock{offers_mutex_};
  const device_offer made{++last_device_offer_};
  device_offers_[made] = {std::move(key), std::move(memory)};
  return made;
}

void weights_exchange::withdraw_device(device_offer offer) {
  const std::lock_guard lock{offers_mutex_};
  device_offers_.erase(offer);
}

std::optional<shared_device_memory> weights_exchange::offered_device(const std::string& key) {
  const std::lock_guard lock{offers_mutex_};
  const auto latest =
      std::find_if(device_offers_.rbegin(), device_offers_.rend(), [&](const auto& o) { return o.second.key == key; });
  return latest == device_offers_.rend() ? std::nullopt : std::optional{latest->second.memory};
}

void weights_exchange::answer(connection& to, std::uint32_t code, std::span<const std::byte> key) {
  const std::string name{reinterpret_cast<const char*>(key.data()), key.size()};
  unique_fd copy;
  std::vector<std::byte> note;
  if (code == want_device_memory) {
    if (auto memory = offered_device(name)) {
      copy = unique_fd{::fcntl(memory->fd->get(), F_DUPFD_CLOEXEC, 0)};
      note = std::move(memory->note);
    }
  } else if (const auto region = offered(name)) {
    copy = unique_fd{::fcntl(region->fd(), F_DUPFD_CLOEXEC, 0)};
  }
  frame_header h;
  h.type = copy ? frame_type::have : frame_type::failed;
  h.code = static_cast<std::uint32_t>(fault::refused);
  if (copy) h.payload_bytes = note.size();
  to.send(h, std::span{note}.first(h.payload_bytes), std::move(copy));
}

void weights_exchange::fetch(
    std::vector<endpoint> ways, std::string digest, duration deadline, transport::weights_callback done) {
  fetching f;
  f.ways = std::move(ways);
  f.key = std::move(digest);
  f.done = std::move(done);
  begin(std::move(f), deadline);
}

void weights_exchange::fetch_device(
    std::vector<endpoint> ways, std::string key, duration deadline, transport::device_weights_callback done) {
  fetching f;
  f.ways = std::move(ways);
  f.what = want_device_memory;
  f.key = std::move(key);
  f.device_done = std::move(done);
  begin(std::move(f), deadline);
}

void weights_exchange::begin(fetching f, duration deadline) {
  const std::uint64_t id = next_fetch_++;
  f.deadline = loop_.after(deadline, [this, id] { give_up(id, {errc::retry, "weights did not come in time"}); });
  fetches_.emplace(id, std::move(f));
  if (fetches_.size() > max_fetches)
    return give_up(id, {errc::retry, fmt::format("{} fetches of weights wait", max_fetches)});
  try_ways(id);
}

void weights_exchange::try_ways(std::uint64_t id) {
  fetching& f = fetches_.at(id);
  for (; f.way < f.ways.size(); ++f.way) {
    const endpoint& to = f.ways[f.way];
    if (to.kind == path_kind::local && f.what == want_region)
      if (auto own = offered(f.key)) return complete(id, std::move(own));
    if (to.kind != path_kind::shm || f.key.size() > max_digest_bytes) continue;
    if (auto holder = ask(to, id)) {
      f.holder = std::move(*holder);
      return;
    }
  }
  give_up(id, {errc::reroute, fmt::format("no holder on this host gives weights {}", f.key)});
}

result<std::shared_ptr<connection>> weights_exchange::ask(const endpoint& holder, std::uint64_t id) {
  auto socket = dial_unix(holder.address);
  if (!socket) return pass(socket.error());
  if (!same_user(socket->get())) return fail(errc::reroute, "holder runs as another user");
  auto c = connection::make(loop_, std::move(*socket), true, false,
      {[this, id](const frame_header& h, std::span<const std::byte> payload, unique_fd fd) {
         return on_frame(id, h, payload, std::move(fd));
       },
          [] {}, [this, id](const error&) { next_way(id); }});
  if (!c) return c;
  frame_header h;
  h.type = frame_type::hello;
  (*c)->send(h);
  const fetching& f = fetches_.at(id);
  h.type = frame_type::want;
  h.code = f.what;
  h.payload_bytes = f.key.size();
  (*c)->send(h, std::as_bytes(std::span{f.key}));
  return c;
}

result<void> weights_exchange::on_frame(
    std::uint64_t id, const frame_header& header, std::span<const std::byte> payload, unique_fd fd) {
  fetching& f = fetches_.at(id);
  if (header.type == frame_type::welcome) {
    f.holder->allow_payloads();
    return {};
  }
  if (header.type == frame_type::failed) {
    next_way(id);
    return {};
  }
  if (header.type != frame_type::have || !fd) return fail(errc::reject, "holder sent no descriptor");
  f.holder->shut();
  if (f.what == want_device_memory) {
    complete(id, shared_device_memory{{payload.begin(), payload.end()}, std::make_shared<unique_fd>(std::move(fd))});
  } else if (auto queued = map_later({id, std::move(fd), f.key}); !queued) {
    give_up(id, queued.error());
  }
  return {};
}

void weights_exchange::next_way(std::uint64_t id) {
  fetching& f = fetches_.at(id);
  f.holder->shut();
  ++f.way;
  try_ways(id);
}

std::optional<weights_exchange::fetching> weights_exchange::end(std::uint64_t id) {
  auto node = fetches_.extract(id);
  if (node.empty()) return std::nullopt; // the deadline was faster than the mapping
  fetching& f = node.mapped();
  loop_.cancel(f.deadline);
  if (f.holder) f.holder->shut();
  return std::move(f);
}

void weights_exchange::complete(std::uint64_t id, result<region_ptr> outcome) {
  auto f = end(id);
  if (!f || !f->done) return;
  completions_.add([done = std::move(f->done), r = std::move(outcome)] { done(r); });
}

void weights_exchange::complete(std::uint64_t id, result<shared_device_memory> outcome) {
  auto f = end(id);
  if (!f || !f->device_done) return;
  completions_.add([done = std::move(f->device_done), r = std::move(outcome)] { done(r); });
}

void weights_exchange::give_up(std::uint64_t id, const error& why) {
  const auto it = fetches_.find(id);
  if (it == fetches_.end()) return;
  if (it->second.what == want_device_memory)
    complete(id, result<shared_device_memory>{pass(why)});
  else
    complete(id, result<region_ptr>{pass(why)});
}

void weights_exchange::close_all() {
  while (!fetches_.empty()) give_up(fetches_.begin()->first, {errc::reroute, "transport ends"});
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
