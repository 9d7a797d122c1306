#include "actors/cluster/linking.hpp"
#include <algorithm>

namespace hflex::cluster {

std::string_view to_string(link_state s) {
  switch (s) {
  case link_state::opening:
    return "opening";
  case link_state::open:
    return "open";
  case link_state::failed:
    return "failed";
  case link_state::closed:
    break;
  }
  return "closed";
}

template <class Keep>
void linking::drop_links(instance_id id, const Keep& keep, effects& out) {
  for (auto it = links_.begin(); it != links_.end();) {
    const auto& [from, to] = it->first;
    if ((from != id && to != id) || keep(it->first)) {
      ++it;
      continue;
    }
    out.emplace_back(show_link{from, to, link_state::closed, {}});
    it = links_.erase(it);
  }
}

void linking::on(const newcomer& e, time_point now, std::vector<link_effect>& out) {
  const auto ways = e.same_home ? open_ways(e.instance) : std::set<way>{};
  ends_[e.instance] = {e.role, false, false, now};
  const auto stays = [&](const way& w) {
    return ways.count(w) > 0 && wants_kv_link(ends_.at(w.first).role, ends_.at(w.second).role);
  };
  drop_links(e.instance, stays, out);
  for (const auto& [other, is] : ends_) {
    if (other == e.instance) continue;
    const bool there = wants_kv_link(e.role, is.role), here = wants_kv_link(is.role, e.role);
    if (!there && !here) continue;
    ++last_round_;
    out.emplace_back(introduce{e.instance, other, there, last_round_});
    out.emplace_back(introduce{other, e.instance, here, last_round_});
    if (there) open(e.instance, other, stays({e.instance, other}), out);
    if (here) open(other, e.instance, stays({other, e.instance}), out);
  }
  settle(now, out);
}

void linking::open(instance_id from, instance_id to, bool is_open, effects& out) {
  links_[{from, to}] = {last_round_, is_open ? link_state::open : link_state::opening};
  if (!is_open) out.emplace_back(show_link{from, to, link_state::opening, {}});
}

std::set<linking::way> linking::open_ways(instance_id id) const {
  std::set<way> ways;
  for (const auto& [w, l] : links_)
    if (l.is == link_state::open && (w.first == id || w.second == id)) ways.insert(w);
  return ways;
}

void linking::set(const way& between, link_state is, std::string detail, effects& out) {
  links_.at(between).is = is;
  out.emplace_back(show_link{between.first, between.second, is, std::move(detail)});
}

void linking::on(const link_answer& e, time_point now, std::vector<link_effect>& out) {
  const auto found = links_.find({e.from, e.to});
  if (found == links_.end() || found->second.round != e.round) return;
  const auto is = e.open ? link_state::open : link_state::failed;
  if (found->second.is != is) set(found->first, is, e.open ? e.transport : e.reason, out); // better late than never
  settle(now, out);
}

void linking::on(const link_draining& e, time_point now, std::vector<link_effect>& out) {
  if (const auto found = ends_.find(e.instance); found != ends_.end()) found->second.draining = true;
  settle(now, out);
}

void linking::on(const link_end_gone& e, time_point now, std::vector<link_effect>& out) {
  if (ends_.erase(e.instance) == 0) return;
  drop_links(
      e.instance, [](const way&) { return false; }, out);
  settle(now, out);
}

void linking::on(const link_tick&, time_point now, std::vector<link_effect>& out) {
  if (announced_ && *announced_ <= now) announced_.reset();
  const auto late = [&](instance_id id) {
    const auto& is = ends_.at(id);
    return !is.admitted && is.since + options_.deadline <= now;
  };
  for (const auto& [between, l] : links_)
    if (l.is == link_state::opening && (late(between.first) || late(between.second)))
      set(between, link_state::failed, "it did not open in time", out);
  settle(now, out);
}

bool linking::admitted(instance_id id) const {
  const auto found = ends_.find(id);
  return found != ends_.end() && found->second.admitted;
}

/// For a link of its own, or to it, whose other end stays.
bool linking::waits(instance_id id) const {
  return std::any_of(links_.begin(), links_.end(), [&](const auto& l) {
    const auto& [from, to] = l.first;
    if (l.second.is != link_state::opening || (from != id && to != id)) return false;
    return !ends_.at(from == id ? to : from).draining;
  });
}

/// Every event ends here: admits whom nothing keeps any more, and asks to be woken for the others.
void linking::settle(time_point now, effects& out) {
  std::optional<time_point> due;
  for (auto& [id, is] : ends_) {
    if (is.admitted) continue;
    if (is.draining || waits(id)) {
      const auto last = is.since + options_.deadline;
      if (!is.draining && (!due || last < *due)) due = last;
      continue;
    }
    is.admitted = true;
    out.emplace_back(admit{id, now - is.since});
  }
  if (!due || (announced_ && *announced_ <= *due)) return;
  announced_ = due;
  out.emplace_back(link_wake_at{*due});
}

} // namespace hflex::cluster
