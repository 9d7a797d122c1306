#include "actors/scheduler/demand.hpp"
#include "actors/scheduler/budget.hpp"
#include <algorithm>
#include <queue>
#include <utility>

namespace hflex::scheduler {

namespace {

// How many waiting requests are tried on every instance: the answer is "some" or "none", not a count to rely on.
constexpr std::uint32_t tried_for_room = 16;

instance_demand describe(const instance_load& at) {
  instance_demand d;
  d.instance = at.is.instance;
  d.role = at.is.role;
  d.draining = at.draining;
  d.decoding = at.decoding;
  d.promised = at.promised;
  d.decode_context = at.decode_context;
  d.pending_prefill = at.pending_prefill;
  d.kv_blocks = at.is.kv_blocks;
  d.kv_blocks_taken = at.is.kv_blocks - at.free_blocks();
  d.block_size = at.is.block_size;
  d.max_batched_tokens = at.is.max_batched_tokens;
  d.max_sequences = at.is.max_sequences;
  d.model = at.model();
  if (const auto tightest = at.tightest_tpot())
    d.tpot_headroom = 1.0 - to_ms(at.model().plan_ahead(at.decode_shape())) / std::max(to_ms(*tightest), 1e-6);
  return d;
}

/// Prefill work that is due at some time; what is dispatched already cannot be given up.
struct job {
  time_point due;
  double tokens{};
  bool waits{false};
  friend bool operator<(const job& a, const job& b) { return a.due < b.due; }
};

struct lateness {
  std::uint32_t count{};
  duration latest{};
};

/// Moore and Hodgson's rule: in the order of deadlines, and whenever one would be late, the costliest so far is given
/// up. `jobs` are sorted.
lateness planned_lateness(const std::vector<job>& jobs, double tokens_per_s, time_point now) {
  lateness result;
  std::priority_queue<double> planned; // of those that may be given up
  double tokens = 0;
  for (const auto& j : jobs) {
    tokens += j.tokens;
    if (j.waits) planned.push(j.tokens);
    const auto over = [&] {
      return tokens_per_s > 0 ? now + from_s(std::min(tokens / tokens_per_s, 1e6)) - j.due : duration::max();
    };
    const auto late_by = over();
    if (late_by > duration{0} && !planned.empty())
      result.latest = std::max(result.latest, std::min<duration>(late_by, std::chrono::hours{1}));
    while (!planned.empty() && over() > duration{0}) {
      tokens -= planned.top();
      planned.pop();
      ++result.count;
    }
  }
  return result;
}

bool has_place(const view& v, const waiting_request& w) {
  return std::any_of(v.instances.begin(), v.instances.end(), [&](const auto& entry) {
    const instance_load& d = entry.second;
    if (!d.may_decode() || !has_room(v, d) || d.sequences() >= d.is.max_sequences) return false;
    if (blocks_for(d, std::uint64_t{w.request.tokens} + w.output_to_come) > d.free_blocks()) return false;
    const auto limit = std::min(d.tightest_tpot().value_or(duration::max()), w.request.slo.tpot);
    return decode_step_with(d, w.request.tokens) <= limit;
  });
}

/// The first by deadline of those that can still attain; `overdue` counts the rest.
std::vector<const waiting_request*> first_due(const view& v, time_point now, demand_report& out) {
  std::vector<std::pair<time_point, const waiting_request*>> by_deadline;
  by_deadline.reserve(v.waiting.size());
  for (const auto& [key, w] : v.waiting) {
    out.waiting_tokens += w.request.tokens;
    const auto due = token_deadline(w.request.arrival, w.request.slo, w.request.produced);
    if (due < now)
      ++out.overdue;
    else
      by_deadline.emplace_back(due, &w);
  }
  const auto depth = std::min<std::size_t>(by_deadline.size(), v.opts->plan_depth);
  const auto end = by_deadline.begin() + static_cast<std::ptrdiff_t>(depth);
  std::partial_sort(by_deadline.begin(), end, by_deadline.end(), [](const auto& a, const auto& b) {
    return std::tie(a.first, a.second->order) < std::tie(b.first, b.second->order);
  });
  std::vector<const waiting_request*> first;
  for (auto it = by_deadline.begin(); it != end; ++it) first.push_back(it->second);
  return first;
}

} // namespace

demand_report describe_demand(const view& v, time_point now) {
  demand_report out;
  out.waiting = static_cast<std::uint32_t>(v.waiting.size());
  std::vector<job> jobs;
  double tokens_per_s = 0;
  std::uint32_t prefilling = 0;
  for (const auto& [id, at] : v.instances) {
    out.instances.push_back(describe(at));
    if (!at.may_prefill()) continue;
    tokens_per_s += prefill_rate(at, estimate_prefill(at, v.opts->lost_after));
    ++prefilling;
    for (auto key : at.prefilling) {
      const auto& p = v.placed.at(key);
      jobs.push_back({token_deadline(p.request.arrival, p.request.slo, p.request.produced),
          static_cast<double>(p.prefill_left), false});
    }
  }
  const auto first = first_due(v, now, out);
  out.looked_at = static_cast<std::uint32_t>(first.size());
  for (const auto* w : first) {
    const auto& r = w->request;
    jobs.push_back({token_deadline(r.arrival, r.slo, r.produced), static_cast<double>(r.tokens), true});
  }
  std::stable_sort(jobs.begin(), jobs.end());
  const auto now_late = planned_lateness(jobs, tokens_per_s, now);
  out.late = now_late.count;
  out.latest_by = now_late.latest;
  if (prefilling > 0) {
    const double one_more = tokens_per_s * (prefilling + 1) / prefilling;
    out.late_with_one_more = planned_lateness(jobs, one_more, now).count;
  }
  for (std::size_t i = 0; i < std::min<std::size_t>(first.size(), tried_for_room); ++i)
    out.without_room += has_place(v, *first[i]) ? 0 : 1;
  return out;
}

class_demand& demand_meter::of(const std::string& name) {
  auto& c = classes_[name];
  c.slo_class = name;
  return c;
}

void demand_meter::arrived(const request_arrived& e) {
  if (e.key.attempt > 1) return;
  auto& c = of(e.slo_class);
  c.ttft = e.slo.ttft;
  c.tpot = e.slo.tpot;
  ++c.arrivals;
  c.prompt_tokens += e.tokens;
  c.prompt_tokens_squared += static_cast<double>(e.tokens) * e.tokens;
}

void demand_meter::ended(const view& v, const request_ended& e) {
  const auto* found = v.placed.get(e.key);
  if (!e.output_tokens || !found) return;
  const auto& r = found->request;
  auto& c = of(r.slo_class);
  c.ttft = r.slo.ttft;
  c.tpot = r.slo.tpot;
  ++c.ended;
  c.output_tokens += *e.output_tokens;
}

std::optional<time_point> demand_meter::due() const {
  if (classes_.empty()) return std::nullopt;
  return since_ + every;
}

demand_report demand_meter::take(const view& v, time_point now) {
  auto report = describe_demand(v, now);
  report.span = now - since_;
  since_ = now;
  report.decoded = v.decoded - std::exchange(decoded_, v.decoded);
  for (auto& [name, c] : classes_) report.classes.push_back(std::move(c));
  classes_.clear();
  return report;
}

} // namespace hflex::scheduler
