// round_robin: first come, first served, to each instance in turn, at once. What an engine behind a plain load balancer
// does; nothing is reserved, the instances queue by themselves. A baseline.
#include "actors/scheduler/policy.hpp"
#include <algorithm>

namespace hflex::scheduler {

namespace {

class round_robin final : public policy {
public:
  void plan(const view& v, time_point, decisions& d) override {
    for (auto it = v.first_come.begin(); it != v.first_come.end();) {
      const auto key = it->second;
      ++it; // the dispatch takes it out
      const auto& request = v.waiting.at(key).request;
      const auto* p = next(v, last_prefill_, [&](const instance_load& at) { return prefills(v, at, request); });
      if (!p) return; // first come, first served: nobody overtakes
      const auto* to = partner(v, *p, request);
      if (!to) return;
      last_prefill_ = p->is.instance;
      if (to != p) last_decode_ = to->is.instance;
      d.dispatch(key, {p->is.instance, to->is.instance, 0, true, "next in turn"});
    }
  }

private:
  // The first that will do, counted from the one after `last`; nothing when none will.
  template <class Predicate>
  static const instance_load* next(const view& v, instance_id last, Predicate will_do) {
    auto it = v.instances.upper_bound(last);
    for (std::size_t tried = 0; tried < v.instances.size(); ++tried) {
      if (it == v.instances.end()) it = v.instances.begin();
      if (will_do(it->second)) return &it->second;
      ++it;
    }
    return nullptr;
  }

  bool prefills(const view& v, const instance_load& at, const request_arrived& r) const {
    return at.may_prefill() && has_room(v, at) && partner(v, at, r) != nullptr;
  }

  const instance_load* partner(const view& v, const instance_load& p, const request_arrived& r) const {
    if (p.is.role == instance_role::mixed) return can_serve(p, p, r, true) ? &p : nullptr;
    return next(v, last_decode_, [&](const instance_load& d) { return has_room(v, d) && can_serve(p, d, r, true); });
  }

  instance_id last_prefill_;
  instance_id last_decode_;
};

} // namespace

std::unique_ptr<policy> make_round_robin(const options&) { return std::make_unique<round_robin>(); }

} // namespace hflex::scheduler
