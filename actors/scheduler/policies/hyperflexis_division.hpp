// When instances of role mixed had better not do both. Where the fixed cost of a step is large beside the tightest TPOT
// target, steps beside decodes can hold little prefill; if all decodes of the fleet are gathered on a few instances,
// the hosts, the others prefill in full steps. Who prefills and who decodes where is settled request by request (a
// hand-over, as between roles), so that nothing has to be drained and the number of hosts follows the load at once.
// Over links that take too long for that, it stops.
//
//   request_mix    what requests have been like lately: what the fleet has to do for one, by TPOT target
//   mixed_duties   from that, and from who decodes where, what each mixed instance is used for now
//
// Used by hyperflexis only. Pure; time comes with the calls.
#pragma once
#include "actors/common/output_tally.hpp"
#include "actors/scheduler/view.hpp"
#include <array>
#include <span>

namespace hflex::scheduler {

/// Sums over requests, the older the less they count. O(1) each.
class request_mix {
public:
  /// Those whose TPOT targets are about the same.
  struct tier {
    double requests{}; ///< that have come
    double tpot_ms{};  ///< sums over them, as all that follows
    double prompt{};   ///< tokens
    double work{};     ///< of those, to be computed
    double pairs{};    ///< query-key pairs of that
    double finished{}; ///< requests
    double outputs{};  ///< tokens of those
  };

  /// A request has come, of which so many tokens are to be computed.
  void add(const request_arrived& r, std::uint32_t prefill_work);
  void finished(const request_arrived& r, std::uint32_t output_tokens);
  /// Output tokens after the first ones that were made since the call before, whosever they are.
  void made(std::uint64_t tokens) { all_.made += static_cast<double>(tokens); }

  double requests() const { return requests_; }
  /// Output tokens of one request of a tier, and the context that one of them reads, as expected. `lean`: -1 as few as
  /// there may be, 0 between, 1 as many as there may be.
  double output_of(const tier& t, double lean = 0) const;
  double context_of(const tier& t, double lean = 0) const { return t.prompt / t.requests + output_of(t, lean) / 2; }
  /// Calls f(tier) for those that have any, the tightest first.
  template <class F>
  void each_tier(F f) const {
    for (const auto& t : tiers_)
      if (t.requests > 0) f(t);
  }

private:
  std::array<tier, 32> tiers_{};
  double requests_{};
  output_tally all_;
  std::uint32_t since_decay_{};
};

/// Requests per second that instances serve within their targets, by the step-time model.
struct division_yield {
  double together{};     ///< each does both
  double apart{};        ///< some gather the decodes: as many as is best
  std::uint32_t hosts{}; ///< so many
};
/// For two instances or more like `typical`, and a mix with requests in it whose outputs are as long as `lean` says.
division_yield estimate_division(
    const request_mix& mix, const instance_load& typical, std::uint32_t instances, double lean = 0);

/// How many of these, the first ones, are needed to gather what all of them decode now: within the tightest target and
/// each one's sequences and memory, with some room for what comes next. At least 1, at most all but one; two or more
/// are asked about.
std::uint32_t hosts_needed(std::span<const instance_load* const> ordered);

class mixed_duties {
public:
  explicit mixed_duties(const options& opts);

  void arrived(const waiting_request& w) {
    if (w.request.produced == 0) mix_.add(w.request, least_prefill_work(w));
  }
  void finished(const placed_request& p, std::uint32_t output_tokens) { mix_.finished(p.request, output_tokens); }
  /// A request found no place to decode: one more instance should gather decodes.
  void want_host() {
    wanted_ = true;
    next_review_ = time_point::min();
  }
  /// That instance is about to go; its slot will be another's.
  void gone(const instance_load& at) {
    if (at.slot < duties_.size()) duties_[at.slot] = instance_role::mixed;
  }

  /// Before a plan; looks at the fleet now and then. Calls on_change(instance) for each whose duty is another one now.
  template <class OnChange>
  void review(const view& v, time_point now, OnChange on_change) {
    if (now < next_review_) return;
    decide(v, now);
    for (const auto* at : changed_) on_change(*at);
  }

  /// Its role, but what a mixed one is used for now.
  instance_role of(const instance_load& at) const {
    return at.is.role == instance_role::mixed && at.slot < duties_.size() ? duties_[at.slot] : at.is.role;
  }
  /// Whether what others prefill may decode there.
  bool takes_decodes(const instance_load& at) const {
    const auto duty = of(at);
    return duty == instance_role::decode || (gathering_ && duty == at.is.role && duty == instance_role::mixed);
  }
  bool divided() const { return divided_; }
  /// Whether mixed instances do one thing each.
  bool apart() const { return divided_ && !gathering_; }

private:
  void decide(const view& v, time_point now);
  bool divide(time_point now);
  bool hand_over_in_time(time_point now) const;
  bool pays(const instance_load& typical, std::uint32_t instances) const;
  void assign(bool one_more_host);
  void set(const instance_load& at, instance_role duty);

  double gain_;
  request_mix mix_;
  std::uint64_t decoded_{};                   ///< of the fleet, when last looked at
  std::vector<instance_role> duties_;         ///< by slot
  std::vector<const instance_load*> usable_;  ///< in one review: mixed ones that take requests
  std::vector<const instance_load*> changed_; ///< by one review
  bool divided_{false};
  bool gathering_{false}; ///< divided, but the hosts do both until what decodes elsewhere has ended
  bool wanted_{false};
  std::uint32_t hosts_{};
  time_point next_review_{time_point::min()};
  time_point next_mind_{time_point::min()}; ///< before that it stays divided, or together
};

} // namespace hflex::scheduler
