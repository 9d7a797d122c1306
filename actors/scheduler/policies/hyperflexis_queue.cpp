#include "actors/scheduler/policies/hyperflexis_queue.hpp"
#include "actors/common/check.hpp"
#include "actors/scheduler/budget.hpp"
#include <algorithm>
#include <queue>

namespace hflex::scheduler {

void hyperflexis_queue::add(const waiting_request& w, time_point last_start, const options& opts) {
  const auto& r = w.request;
  const auto grace = std::max(opts.ageing_floor,
      duration{static_cast<std::int64_t>(opts.ageing_factor * static_cast<double>(r.slo.ttft.count()))});
  auto& e = entries_.add(r.key, {});
  e.due = {token_deadline(r.arrival, r.slo, r.produced), w.order, r.key, &e};
  e.ages = {r.arrival + grace, w.order, r.key, &e};
  e.tokens = least_prefill_work(w);
  e.weight = std::max(r.slo.weight, 1e-6);
  e.is_resumed = r.produced > 0;
  if (e.is_resumed) {
    e.in_band = resumed_.insert(e.due).first;
    resumed_tokens_ += e.tokens;
  } else {
    e.in_band = planned_.insert(e.due).first;
    e.in_hopeful = hopeful_.insert(e.due).first;
    starts_.push_back({last_start, w.order, r.key});
    std::push_heap(starts_.begin(), starts_.end(), later);
    forget_old_starts();
  }
  ++changes_;
}

void hyperflexis_queue::remove(const waiting_request& w) {
  auto& e = entries_.at(w.request.key);
  if (e.is_resumed) {
    resumed_.erase(e.in_band);
    resumed_tokens_ -= e.tokens;
  } else {
    if (e.is_demoted)
      leave_spare(e);
    else
      planned_.erase(e.in_band);
    if (!e.is_lost) hopeful_.erase(e.in_hopeful);
  }
  entries_.remove(w.request.key);
  ++changes_;
}

// Those that have left are dropped when they come up, or when they are the most.
void hyperflexis_queue::forget_old_starts() {
  if (starts_.size() <= 2 * hopeful_.size() + 64) return;
  std::erase_if(starts_, [this](const start& s) {
    const auto* e = entries_.get(s.key);
    return !e || e->due.order != s.order || e->is_lost;
  });
  std::make_heap(starts_.begin(), starts_.end(), later);
}

void hyperflexis_queue::give_up(entry& e) {
  e.is_lost = true;
  set_demoted(e, true);
  hopeful_.erase(e.in_hopeful);
  ++changes_;
}

void hyperflexis_queue::set_demoted(entry& e, bool demoted) {
  if (e.is_demoted == demoted) return;
  e.is_demoted = demoted;
  if (demoted) {
    planned_.erase(e.in_band);
    e.in_band = spare_.insert(e.ages).first;
    e.in_sizes = spare_by_size_.insert({e.tokens, e.ages.order, e.ages.key}).first;
  } else {
    leave_spare(e);
    e.in_band = planned_.insert(e.due).first;
  }
}

void hyperflexis_queue::leave_spare(const entry& e) {
  spare_.erase(e.in_band);
  spare_by_size_.erase(e.in_sizes);
}

// A small queue is planned anew at every change; a long one after an eighth of it has changed, which keeps the cost per
// event constant on average.
bool hyperflexis_queue::stale() const { return changes_ > hopeful_.size() / 8; }

time_point goes_last_after(const instance_load& at, const placed_request& p) {
  if (p.request.produced > 0) return time_point::max();
  if (p.best_effort) return time_point::min();
  return token_deadline(p.request.arrival, p.request.slo, 0) - fastest_prefill(at, std::max(p.prefill_left, 1U));
}

void hyperflexis_queue::capacity::add(
    const view& v, const instance_load& at, double rate, duration rest, time_point now) {
  if (!(rate > 0)) return;
  best_tokens_per_s = std::max(best_tokens_per_s, rate);
  for (auto key : at.prefilling) {
    const auto& p = v.placed.at(key);
    const auto due = token_deadline(p.request.arrival, p.request.slo, p.request.produced);
    if (p.prefill_left > 0 && now <= goes_last_after(at, p)) backlog.push_back({due, p.prefill_left, lanes.size()});
  }
  lanes.push_back({rate, to_s(rest)});
}

double hyperflexis_queue::capacity::tokens_per_s() const {
  double sum = 0;
  for (const auto& l : lanes) sum += l.tokens_per_s;
  return sum;
}

void hyperflexis_queue::replan(time_point now, capacity fleet, std::uint32_t depth) {
  changes_ = 0;
  demotions_.clear();
  if (!(fleet.tokens_per_s() > 0)) return;
  // Where decodes share the steps, rates are safe ones, without the slack that residents have banked. Who is given up
  // should be judged by what is likely. Swept on Azure's traces (ARCHITECTURE.md, "What decides attainment"): 1, 1.1,
  // 1.2, 1.3.
  constexpr double likely_over_safe = 1.1;
  if (fleet.beside_decodes) {
    for (auto& l : fleet.lanes) l.tokens_per_s *= likely_over_safe;
    fleet.best_tokens_per_s *= likely_over_safe;
  }
  const double resumed_s = resumed_tokens_ / fleet.tokens_per_s();
  for (auto& l : fleet.lanes) l.busy_s += resumed_s;
  struct job {
    double cost;
    std::uint64_t order;
    entry* e;
    bool operator<(const job& other) const { return std::tie(cost, order) < std::tie(other.cost, other.order); }
  };
  std::vector<job> room;
  room.reserve(std::min<std::size_t>(depth, hopeful_.size()));
  std::priority_queue<job> taken({}, std::move(room)); // costliest on top
  if (!std::is_sorted(fleet.backlog.begin(), fleet.backlog.end()))
    std::sort(fleet.backlog.begin(), fleet.backlog.end());
  // A lane may stand for many instances, but a request runs on one: its own part is no faster than there.
  const auto done_s = [&](const capacity::lane& l, double tokens) {
    return l.busy_s + tokens / std::min(l.tokens_per_s, fleet.best_tokens_per_s);
  };
  const auto first_free = [&](double tokens) {
    return std::min_element(fleet.lanes.begin(), fleet.lanes.end(),
        [&](const auto& a, const auto& b) { return done_s(a, tokens) < done_s(b, tokens); });
  };
  auto dispatched = fleet.backlog.begin();
  std::uint32_t looked_at = 0;
  for (const auto& due : hopeful_) {
    if (++looked_at > depth) break;
    auto& e = *due.of;
    for (; dispatched != fleet.backlog.end() && dispatched->due <= due.when; ++dispatched) {
      auto& l = fleet.lanes[dispatched->lane];
      l.busy_s += static_cast<double>(dispatched->tokens) / l.tokens_per_s;
    }
    e.was_demoted = e.is_demoted;
    set_demoted(e, false); // hopeful_ is another set: this loop goes on undisturbed
    auto at = first_free(e.tokens);
    taken.push({e.tokens / e.weight, due.order, &e});
    while (now + from_s(done_s(*at, e.tokens)) > due.when) {
      auto& costliest = *taken.top().e;
      taken.pop();
      set_demoted(costliest, true);
      if (!costliest.was_demoted) demotions_.push_back({costliest.due.key, costliest.tokens, due.when});
      if (&costliest == &e) break;
      auto& freed = fleet.lanes[costliest.lane];
      freed.busy_s -= costliest.tokens / freed.tokens_per_s;
      at = first_free(e.tokens);
    }
    if (e.is_demoted) continue;
    e.lane = static_cast<std::size_t>(at - fleet.lanes.begin());
    at->busy_s += e.tokens / at->tokens_per_s;
  }
}

hyperflexis_queue::whereabouts hyperflexis_queue::find(request_key key) const {
  const auto& e = entries_.at(key);
  std::optional<time_point> last_start;
  for (const auto& s : starts_)
    if (s.key == key && s.order == e.due.order && s.when > time_point::min()) last_start = s.when;
  const auto in = [&](std::string_view name, const band& b, const slot& s) {
    return whereabouts{name, static_cast<std::uint32_t>(std::distance(b.begin(), b.upper_bound(s))),
        static_cast<std::uint32_t>(b.size()), last_start};
  };
  if (e.is_resumed) return in("resumed", resumed_, e.due);
  if (e.is_lost) return in("lost", spare_, e.ages);
  return e.is_demoted ? in("demoted", spare_, e.ages) : in("planned", planned_, e.due);
}

} // namespace hflex::scheduler
