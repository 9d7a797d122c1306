#include "actors/scheduler/evacuate.hpp"
#include "actors/scheduler/budget.hpp"
#include <algorithm>

namespace hflex::scheduler {

namespace {

constexpr duration retry_after{std::chrono::milliseconds{500}};
// Under way from one leaver at a time: they share its link, and each holds blocks on both sides.
constexpr std::uint32_t moves_at_once = 8;
// What ends sooner than that by itself is not worth a move: half of it is over before the rows are there.
constexpr std::uint32_t least_to_come = 16;

struct resident {
  request_key key;
  const placed_request* is{};
  std::uint32_t to_come{}; ///< predicted tokens left
};

std::uint32_t left_of(const instance_load& at, const placed_request& p) {
  const auto made = at.decode_steps - p.steps_before;
  return made >= p.output_to_come ? 0 : p.output_to_come - static_cast<std::uint32_t>(made);
}

/// The fullest of those that keep everybody's targets with it.
const instance_load* destination(const view& v, const instance_load& from, const resident& r) {
  const instance_load* best = nullptr;
  const auto context = context_of(from, *r.is);
  for (const auto& [id, d] : v.instances) {
    if (id == from.is.instance || !d.may_take_over() || !has_room(v, d) || d.sequences() >= d.is.max_sequences)
      continue;
    const auto tokens = std::max<std::uint64_t>(context + 1, r.is->request.tokens + r.is->output_to_come);
    if (blocks_for(d, tokens) > d.free_blocks()) continue;
    auto limit = d.tightest_tpot();
    if (!r.is->best_effort) limit = std::min(limit.value_or(duration::max()), r.is->request.slo.tpot);
    if (limit && decode_step_with(d, static_cast<std::uint32_t>(context)) > *limit) continue;
    if (!best || d.decode_context > best->decode_context) best = &d;
  }
  return best;
}

} // namespace

void evacuation::move_out(const view& v, time_point now, decisions& d) {
  if (v.fleet.draining == 0 || now < next_try_) return; // at every event: the fleet is not walked for nothing
  const bool any_leaves = std::any_of(
      v.instances.begin(), v.instances.end(), [](const auto& i) { return i.second.draining && i.second.decoding > 0; });
  if (!any_leaves) return;
  std::map<instance_id, std::vector<resident>> leavers;
  std::map<instance_id, std::uint32_t> under_way;
  for (const auto& [key, p] : v.placed) {
    const auto at = v.instances.find(p.decode);
    if (at == v.instances.end() || !at->second.draining || !p.decodes) continue;
    if (p.moving_to)
      ++under_way[p.decode];
    else if (const auto left = left_of(at->second, p); left >= least_to_come)
      leavers[p.decode].push_back({key, &p, left});
  }
  next_try_ = now + retry_after;
  for (auto& [id, residents] : leavers) {
    const auto& from = v.instances.at(id);
    std::stable_sort(
        residents.begin(), residents.end(), [](const auto& a, const auto& b) { return a.to_come > b.to_come; });
    for (const auto& r : residents) {
      if (under_way[id] >= moves_at_once) break;
      const auto* to = destination(v, from, r);
      if (!to) continue;
      ++under_way[id];
      d.migrate(r.key, to->is.instance, {"its instance drains; about {} tokens to come", r.to_come});
    }
  }
  d.wake(next_try_);
}

} // namespace hflex::scheduler
