#include "actors/scheduler/policies/deadline_backlog.hpp"
#include "actors/common/check.hpp"

namespace hflex::scheduler {

void deadline_backlog::note(const instance_load& at) {
  if (at.slot >= parts_.size()) parts_.resize(at.slot + 1);
  auto& p = parts_[at.slot];
  p.at = &at;
  if (!std::exchange(p.dirty, true)) dirty_.push_back(at.slot);
}

void deadline_backlog::take_out(part& p) {
  for (const auto& [due, tokens] : p.counted) {
    const auto found = tokens_.find(due);
    HFLEX_CHECK(found != tokens_.end() && found->second >= tokens);
    if ((found->second -= tokens) == 0) tokens_.erase(found);
  }
  p.counted.clear();
}

const std::map<time_point, std::uint64_t>& deadline_backlog::bring_up_to_date(const view& v) {
  for (auto slot : dirty_) {
    auto& p = parts_[slot];
    p.dirty = false;
    take_out(p);
    if (!p.at || !p.at->may_prefill()) continue;
    for (auto key : p.at->prefilling) {
      const auto& r = v.placed.at(key);
      if (r.prefill_left == 0 || (r.best_effort && r.request.produced == 0)) continue;
      const auto exact = token_deadline(r.request.arrival, r.request.slo, r.request.produced);
      const time_point due{(exact.time_since_epoch() / grain + 1) * grain};
      p.counted.emplace_back(due, r.prefill_left);
      tokens_[due] += r.prefill_left;
    }
  }
  dirty_.clear();
  return tokens_;
}

} // namespace hflex::scheduler
