// The node core's connection to the head: connect, join, heartbeats, and what its loss means.
#include "actors/common/check.hpp"
#include "actors/node/node.hpp"
#include <algorithm>

namespace hflex::node {

std::string_view to_string(head_state s) {
  switch (s) {
  case head_state::disconnected:
    return "disconnected";
  case head_state::connecting:
    return "connecting";
  case head_state::joining:
    return "joining";
  case head_state::joined:
    return "joined";
  }
  return "disconnected";
}

void core::on(const begin&, time_point now, std::vector<effect>& out) {
  if (head_ != head_state::disconnected || ending_) return;
  try_connect(now, out);
  settle(out);
}

void core::on(const opened& e, time_point, std::vector<effect>& out) {
  if (head_ != head_state::connecting) {
    if (head_ == head_state::disconnected) out.emplace_back(hang_up{}); // it came too late
    return;
  }
  HFLEX_CHECK(e.incarnation != 0 && e.incarnation != incarnation_);
  incarnation_ = e.incarnation;
  head_ = head_state::joining;
  join j{incarnation_, {}};
  for (auto& [id, c] : contexts_)
    if (c.ready && !c.user) j.warm.push_back({c.device, c.model});
  out.emplace_back(std::move(j));
}

void core::on(const connect_failed&, time_point now, std::vector<effect>& out) {
  if (head_ != head_state::connecting) return;
  back_off(now);
  settle(out);
}

void core::on(const welcomed& e, time_point now, std::vector<effect>& out) {
  if (head_ != head_state::joining || e.incarnation != incarnation_) return;
  head_ = head_state::joined;
  node_ = e.node;
  failures_ = 0;
  beats_ = 0;
  if (e.heartbeat_interval > duration{0}) heartbeat_interval_ = e.heartbeat_interval;
  beat(now, out);
  settle(out);
}

void core::on(const refused& e, time_point now, std::vector<effect>& out) {
  if (head_ != head_state::joining || e.incarnation != incarnation_) return;
  drop_link(now, out);
  settle(out);
}

void core::on(const head_lost&, time_point now, std::vector<effect>& out) {
  if (head_ == head_state::disconnected) return;
  drop_link(now, out);
  settle(out);
}

/// The retry, deadline or heartbeat that is due.
void core::step_link(time_point now, effects& out) {
  if (!next_step_ || *next_step_ > now) return;
  switch (head_) {
  case head_state::disconnected:
    return try_connect(now, out);
  case head_state::connecting:
  case head_state::joining:
    return drop_link(now, out);
  case head_state::joined:
    return beat(now, out);
  }
}

void core::try_connect(time_point now, effects& out) {
  head_ = head_state::connecting;
  next_step_ = now + opts_.connect_deadline;
  out.emplace_back(connect{});
}

void core::drop_link(time_point now, effects& out) {
  auto was_joined = head_ == head_state::joined;
  out.emplace_back(hang_up{});
  back_off(now);
  if (was_joined) drop_work(now, out);
}

void core::back_off(time_point now) {
  constexpr std::uint32_t max_doublings = 30;
  head_ = head_state::disconnected;
  auto delay = opts_.backoff_min;
  for (std::uint32_t i = 0; i < std::min(failures_, max_doublings) && delay < opts_.backoff_max; ++i) delay *= 2;
  ++failures_;
  next_step_.reset();
  if (!ending_) next_step_ = now + jittered(std::min(delay, opts_.backoff_max));
}

/// Without a head nobody waits for what runs here: the head has it run elsewhere. The contexts stay, to start again
/// quickly.
void core::drop_work(time_point now, effects& out) {
  std::vector<instance_id> ids;
  for (auto& [id, i] : instances_) ids.push_back(id);
  for (auto id : ids) {
    auto& i = instances_.at(id);
    if (i.state == instance_state::waiting_weights || i.state == instance_state::creating_context)
      stop_start(id, report_state::stopped, {}, now, out);
    else if (i.state != instance_state::killing)
      kill(id, i, {}, now, out);
  }
}

void core::beat(time_point now, effects& out) {
  out.emplace_back(heartbeat{node_, incarnation_, ++beats_});
  next_step_ = now + heartbeat_interval_;
}

void core::leave_when_done(effects& out) {
  if (ending_ && head_ == head_state::disconnected) next_step_.reset(); // no way back in
  if (!done() || head_ == head_state::disconnected) return;
  if (head_ == head_state::joined) out.emplace_back(leave{node_, incarnation_});
  out.emplace_back(hang_up{});
  head_ = head_state::disconnected;
  next_step_.reset();
}

/// Only a head that knows this life of the node hears of its instances.
void core::tell(
    instance_id id, report_state state, std::optional<instance_role> role, std::string reason, effects& out) const {
  if (head_ == head_state::joined) out.emplace_back(report{id, state, role, std::move(reason)});
}

/// Takes off up to a quarter, so that the nodes of a cluster do not come back all at once (splitmix64).
duration core::jittered(duration d) {
  random_ += 0x9e3779b97f4a7c15ULL;
  auto x = random_;
  x = (x ^ (x >> 30U)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27U)) * 0x94d049bb133111ebULL;
  constexpr std::int64_t grains = 1024;
  auto share = static_cast<std::int64_t>((x ^ (x >> 31U)) % grains);
  return d - d / (4 * grains) * share;
}

} // namespace hflex::node
