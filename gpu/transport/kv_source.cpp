#include "gpu/transport/kv_source.hpp"
#include "actors/common/check.hpp"
#include <algorithm>

namespace hflex::gpu {
namespace {

using namespace std::chrono_literals;

constexpr auto handshake_time = 2s;
constexpr auto idle_time = 30s;
constexpr std::uint64_t bytes_per_turn = 4U << 20U;     // then the loop looks after others
constexpr std::uint64_t small_chunk_bytes = 64U << 10U; // better to wait for credit than to send in smaller pieces

std::string outbound(transfer_id id) { return fmt::format("outbound KV transfer {}", id.value); }

std::uint64_t whole_tokens(std::uint64_t bytes, std::uint64_t token_bytes) { return bytes / token_bytes * token_bytes; }

frame_header open_frame(const source_spec& spec) {
  frame_header h;
  h.type = frame_type::open;
  h.transfer = spec.id;
  h.key = spec.key;
  h.layer = spec.shape.layers;
  h.count = spec.shape.tokens;
  h.code = static_cast<std::uint32_t>(spec.shape.element);
  h.position = spec.shape.token_layer_bytes;
  return h;
}

} // namespace

void kv_source::admit() {
  for (auto& [spec, possible] : opened_.take_all()) {
    if (possible)
      admit_one(std::move(spec));
    else
      completions_.add(transfer_side::source, spec.id, std::move(spec.done), possible);
  }
}

void kv_source::admit_one(source_spec spec) {
  const transfer_id id = spec.id;
  const auto lease = spec.lease;
  HFLEX_CHECK(entries_.count(id) == 0);
  const auto it = entries_.emplace(id, entry{std::move(spec), 0, 0, 0, 0}).first;
  if (entries_.size() > options_.max_transfers)
    return complete(it, fail(errc::retry, "{} transfers are open", options_.max_transfers));
  it->second.lease = loop_.after(
      lease, [this, it] { give_up(it, fault::lease_ended, describe(fault::lease_ended, outbound(it->first))); });
  join(it);
}

void kv_source::wake(transfer_id id) {
  const auto it = entries_.find(id);
  if (it == entries_.end()) return;
  if (auto wrong = pushed_.look(id)) {
    const fault cause = wrong->code == errc::retry ? fault::queue_full : fault::closed;
    return give_up(it, cause, {wrong->code, outbound(id) + ": " + wrong->message});
  }
  if (it->second.via != 0) pump(it->second.via);
}

void kv_source::close(transfer_id id) {
  admit();
  completions_.withdraw(transfer_side::source, id);
  if (const auto it = entries_.find(id); it != entries_.end()) {
    it->second.spec.done = nullptr;
    give_up(it, fault::closed, describe(fault::closed, outbound(id)));
  }
  pushed_.erase(id);
}

void kv_source::close_all() {
  admit();
  while (!entries_.empty())
    give_up(entries_.begin(), fault::closed, {errc::reroute, outbound(entries_.begin()->first) + ": transport ends"});
  for (auto& [name, l] : links_) answer(l, fail(errc::reroute, "transport ends"));
  links_.clear();
  routes_.clear();
}

// ---- ways ----

/// Takes the first way, from entry.way on, that can be begun; completes with errc::reroute when none is left.
void kv_source::join(entries::iterator it) {
  entry& e = it->second;
  std::string last = "no endpoint of the sink can be used from here";
  for (; e.way < e.spec.ways.size(); ++e.way) {
    const auto id = route_to(e.spec.ways[e.way]);
    if (!id) {
      last = id.error().message;
      continue;
    }
    route& r = routes_.at(*id);
    if (e.spec.shape.token_layer_bytes > r.way->max_chunk()) continue; // a ring this small takes no whole token
    e.via = *id;
    r.members.push_back(it->first);
    if (!r.ready) return;
    loop_.cancel(std::exchange(r.timer, 0));
    r.way->send(open_frame(e.spec));
    return pump(*id);
  }
  complete(it, fail(errc::reroute, "{}: {}", outbound(it->first), last));
}

result<kv_source::route_id> kv_source::route_to(const endpoint& to) {
  for (const auto& [id, r] : routes_)
    if (r.to.text == to.text) return id;
  const route_id id = next_route_++;
  auto way = dial_lane(loop_, own_sink_, to, options_.ring_bytes,
      {[this, id] { on_ready(id); }, [this, id] { on_room(id); },
          [this, id](const frame_header& h) { return on_reply(id, h); },
          [this, id](const error& why) { on_closed(id, why); }});
  if (!way) return pass(way.error());
  route r;
  r.to = to;
  r.way = std::move(*way);
  r.timer = loop_.after(handshake_time, [this, id] { on_closed(id, {errc::reroute, "sink does not answer"}); });
  routes_.emplace(id, std::move(r));
  return id;
}

void kv_source::leave(entries::iterator it) {
  const auto r = routes_.find(std::exchange(it->second.via, 0));
  if (r == routes_.end()) return;
  std::erase(r->second.members, it->first);
  rest_if_unused(r->first);
}

/// A way that nobody uses or keeps open is closed after a while.
void kv_source::rest_if_unused(route_id id) {
  route& r = routes_.at(id);
  if (!r.ready || !r.members.empty() || !r.links.empty() || r.timer != 0) return;
  r.timer = loop_.after(idle_time, [this, id] { on_closed(id, {errc::reroute, "idle"}); });
}

// ---- links ----

void kv_source::link(const std::string& name, std::vector<endpoint> ways, link_callback done) {
  held_link& l = links_[name];
  ++l.users;
  l.waiting.push_back(std::move(done));
  const auto open = routes_.find(l.via);
  if (open != routes_.end()) {
    if (open->second.ready) answer(l, std::string(open->second.way->path()));
    return;
  }
  l.ways = std::move(ways);
  l.way = 0;
  open_link(name);
}

void kv_source::unlink(const std::string& name) {
  const auto it = links_.find(name);
  if (it == links_.end() || --it->second.users > 0) return;
  const auto r = routes_.find(it->second.via);
  answer(it->second, fail(errc::reroute, "no longer wanted"));
  links_.erase(it);
  if (r == routes_.end()) return;
  r->second.links.erase(name);
  rest_if_unused(r->first);
}

/// Takes the first way, from held_link::way on, that can be begun.
void kv_source::open_link(const std::string& name) {
  held_link& l = links_.at(name);
  std::string last = "no endpoint of the peer can be used from here";
  for (; l.way < l.ways.size(); ++l.way) {
    const auto id = route_to(l.ways[l.way]);
    if (!id) {
      last = id.error().message;
      continue;
    }
    route& r = routes_.at(*id);
    l.via = *id;
    r.links.insert(name);
    if (!r.ready) return;
    loop_.cancel(std::exchange(r.timer, 0));
    return answer(l, std::string(r.way->path()));
  }
  answer(l, fail(errc::reroute, "{}", last));
}

void kv_source::answer(held_link& l, const result<std::string>& path) {
  for (auto& done : std::exchange(l.waiting, {}))
    if (done) completions_.add([f = std::move(done), path] { f(path); });
}

// ---- what lanes tell ----

void kv_source::on_ready(route_id id) {
  const auto it = routes_.find(id);
  if (it == routes_.end()) return;
  route& r = it->second;
  r.ready = true;
  loop_.cancel(std::exchange(r.timer, 0));
  for (const frame_header& h : std::exchange(r.farewells, {})) r.way->send(h);
  for (const transfer_id member : r.members) r.way->send(open_frame(entries_.at(member).spec));
  for (const auto& name : r.links) answer(links_.at(name), std::string(r.way->path()));
  rest_if_unused(id); // all gave up meanwhile
  pump(id);
}

void kv_source::on_room(route_id id) { pump(id); }

result<void> kv_source::on_reply(route_id id, const frame_header& header) {
  const auto it = entries_.find(header.transfer);
  if (it == entries_.end() || it->second.via != id) return {}; // over, or another sink's: not this one's to end
  const entry& e = it->second;
  if (header.type == frame_type::failed) {
    complete(it, pass(describe(fault_of(header), outbound(it->first) + " by its sink")));
  } else if (e.rows_sent != std::uint64_t{e.spec.shape.layers} * e.spec.shape.tokens) {
    give_up(it, fault::protocol, {errc::reject, outbound(it->first) + ": acknowledged before everything was sent"});
  } else {
    complete(it, {});
  }
  return {};
}

void kv_source::on_closed(route_id id, const error& why) {
  auto node = routes_.extract(id);
  if (node.empty()) return;
  route& r = node.mapped();
  loop_.cancel(r.timer);
  loop_.defer([way = r.way] {}); // it may be calling us
  for (const auto& name : r.links) {
    held_link& l = links_.at(name);
    l.via = 0;
    if (r.ready) continue; // broken: the next transfer dials again
    ++l.way;
    open_link(name);
  }
  for (const transfer_id member : r.members) {
    const auto it = entries_.find(member);
    it->second.via = 0;
    if (r.ready) {
      complete(it, fail(why.code, "{}: {}", outbound(member), why.message));
    } else {
      ++it->second.way;
      join(it);
    }
  }
}

// ---- bytes ----

void kv_source::pump(route_id id) {
  const auto it = routes_.find(id);
  if (it == routes_.end() || !it->second.ready) return;
  route& r = it->second;
  std::uint64_t budget = bytes_per_turn / max_payload_bytes;
  std::size_t quiet = 0; // members in a row that had nothing to send
  while (quiet < r.members.size()) {
    r.turn = (r.turn + 1) % r.members.size();
    switch (send_chunk(r, r.members[r.turn])) {
    case step::nothing:
      ++quiet;
      break;
    case step::full:
      return;
    case step::sent:
    case step::failed:
      quiet = 0;
      break;
    }
    if (quiet != 0 || --budget > 0) continue;
    if (!std::exchange(r.pump_later, true))
      loop_.defer([this, id] {
        if (const auto again = routes_.find(id); again != routes_.end()) {
          again->second.pump_later = false;
          pump(id);
        }
      });
    return;
  }
}

/// Moves the next rows of one transfer, as many as one frame takes, from its device into the lane.
kv_source::step kv_source::send_chunk(route& r, transfer_id id) {
  const auto it = entries_.find(id);
  entry& e = it->second;
  const auto rows = pushed_.next(id);
  if (!rows) return step::nothing;
  const std::uint64_t token_bytes = e.spec.shape.token_layer_bytes;
  const std::uint64_t most = std::min(rows->count * token_bytes, whole_tokens(r.way->max_chunk(), token_bytes));
  const std::uint64_t least = std::clamp(whole_tokens(small_chunk_bytes, token_bytes), token_bytes, most);
  const auto room = r.way->reserve(least, most);
  if (room.empty()) return step::full;
  frame_header h;
  h.type = frame_type::data;
  h.transfer = id;
  h.layer = rows->layer;
  h.begin = rows->begin;
  h.count = static_cast<std::uint32_t>(room.size() / token_bytes);
  h.payload_bytes = h.count * token_bytes;
  if (auto read = e.spec.context->read_kv(h.layer, e.spec.table, h.begin, h.count, room.first(h.payload_bytes));
      !read) {
    give_up(it, fault::device, read.error());
    return step::failed;
  }
  pushed_.sent(id, h.count, r.way->path());
  e.rows_sent += h.count;
  r.way->send_rows(h);
  return step::sent;
}

// ---- ends ----

void kv_source::give_up(entries::iterator it, fault cause, error why) {
  if (const auto r = routes_.find(it->second.via); r != routes_.end()) {
    const frame_header failed = failed_frame(it->first, cause);
    auto& farewells = r->second.farewells;
    if (r->second.ready)
      r->second.way->send(failed);
    else if (farewells.size() < options_.max_transfers)
      farewells.insert(farewells.end(), {open_frame(it->second.spec), failed});
  }
  complete(it, pass(std::move(why)));
}

void kv_source::complete(entries::iterator it, result<void> outcome) {
  loop_.cancel(it->second.lease);
  leave(it);
  pushed_.finish(it->first);
  if (it->second.spec.done)
    completions_.add(transfer_side::source, it->first, std::move(it->second.spec.done), std::move(outcome));
  entries_.erase(it);
}

} // namespace hflex::gpu
