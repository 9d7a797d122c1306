// least_loaded: first come, first served, at once, to the instance with the fewest tokens outstanding (prefill to do
// and output to come). A baseline.
#include "actors/scheduler/policy.hpp"

namespace hflex::scheduler {

namespace {

// The less loaded of the two; the lower id when equal, because instances are visited in id order.
const instance_load* lighter(const instance_load* best, const instance_load& other) {
  return !best || other.outstanding_tokens < best->outstanding_tokens ? &other : best;
}

const instance_load* partner(const view& v, const instance_load& p, const request_arrived& r) {
  if (p.is.role == instance_role::mixed) return can_serve(p, p, r, true) ? &p : nullptr;
  const instance_load* best = nullptr;
  for (const auto& [id, d] : v.instances)
    if (has_room(v, d) && can_serve(p, d, r, true)) best = lighter(best, d);
  return best;
}

class least_loaded final : public policy {
public:
  void plan(const view& v, time_point, decisions& d) override {
    for (auto it = v.first_come.begin(); it != v.first_come.end();) {
      const auto key = it->second;
      ++it; // the dispatch takes it out
      const auto& request = v.waiting.at(key).request;
      const instance_load* best = nullptr;
      for (const auto& [id, p] : v.instances)
        if (p.may_prefill() && has_room(v, p) && partner(v, p, request)) best = lighter(best, p);
      if (!best) return; // first come, first served: nobody overtakes
      const auto why = fmt::format("fewest tokens outstanding: {}", best->outstanding_tokens);
      d.dispatch(key, {best->is.instance, partner(v, *best, request)->is.instance, 0, true, why});
    }
  }
};

} // namespace

std::unique_ptr<policy> make_least_loaded(const options&) { return std::make_unique<least_loaded>(); }

} // namespace hflex::scheduler
