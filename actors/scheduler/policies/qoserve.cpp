// qoserve: K. Goel, J. Mohan, N. Kwatra, R. S. Anupindi, R. Ramjee, "QoServe: Breaking the Silos of LLM Inference
// Serving" (ASPLOS 2026; first as "Niyama", arXiv 2503.22562). A baseline.
//
// What the paper does, inside one instance: dynamic chunking (the prefill chunk is the largest that keeps the least
// slack of the decodes, deadlines being D(i) = arrival + S1 + i * S2), hybrid prioritisation (prefills by arrival + S1
// + alpha * remaining prefill: earliest deadline first turns into shortest remaining first as alpha grows, and prefills
// give way between chunks), eager relegation (whoever cannot be in time any more goes behind all others).
//
// Here: all of that is the instances' step policy, hybrid_priority (actors/instance/batcher_plan.cpp); alpha is the
// knob below. The paper leaves the choice among instances to a load balancer; this one sends each request at once to
// the instance with the least prefill pending, then the fewest tokens outstanding, which is more than it asks for. P/D:
// the prefill instance by pending prefill, the decode instance by outstanding tokens; the same step policy on both
// sides.
//
// Left out: relegating requests that an application marks as less important before they are late (no such hint is part
// of a request), and deadlines for the whole answer (the classes here have TTFT and TPOT).
#include "actors/scheduler/policies/placing.hpp"
#include <array>

namespace hflex::scheduler {

namespace {

class qoserve final : public policy {
public:
  static constexpr knob alpha{"qoserve.alpha_ms", 0.2, 0, 10, "what a remaining prefill token adds to a deadline, ms"};
  static constexpr std::array knobs{alpha};

  void plan(const view& v, time_point, decisions& d) override {
    for (auto it = v.first_come.begin(); it != v.first_come.end();) {
      const auto key = it->second;
      ++it; // the dispatch takes it out
      using score = std::tuple<std::uint64_t, std::uint64_t>;
      const auto best = best_place(v, v.waiting.at(key).request, [](const place& at) -> std::optional<score> {
        return score{at.prefill->pending_prefill, at.decode->outstanding_tokens};
      });
      if (!best) return;
      d.dispatch(
          key, best->with(0, true, fmt::format("least prefill pending: {} tokens", best->prefill->pending_prefill)));
    }
  }
};

} // namespace

std::span<const knob> qoserve_knobs() { return qoserve::knobs; }
std::unique_ptr<policy> make_qoserve(const options&) { return std::make_unique<qoserve>(); }
duration prefill_weight_of(const options& opts) {
  // Of the others that weigh it: swept for hyperflexis over 24 points from 0 to 0.2 ms, this is the best by a hair.
  constexpr double usual_ms = 0.008;
  return from_ms(opts.policy == "qoserve" ? qoserve::alpha.of(opts) : usual_ms);
}

} // namespace hflex::scheduler
