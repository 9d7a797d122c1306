// oracle: what a scheduler could do that knows how long every answer will be (request_arrived::known_output, which only
// the simulator tells; without it the prediction takes its place). No paper's policy: an upper bound to measure the
// distance to. A heuristic all the same: the best schedule is NP-hard, and the future's arrivals are unknown here too.
//
// Order: earliest deadline first with Moore and Hodgson's demotions (hyperflexis_queue), a request bound to an instance
// only when that can start it within about a step. Place: an instance will do when the request and all residents attain
// to the end of their lives: the decode steps to come are laid out from the known lengths (each resident leaves at its
// last token, contexts grow), the pending prefill is added, and each one's last token must come by its deadline. KV
// memory is reserved to the token. Of those that will do, where the first token comes soonest.
//
// Not yet the upper bound that it is meant to be: on 8 simulated H100 (8B, Azure's 2023 traces with four classes of
// config/sim/slo_paper.yaml, 97 and 169 requests/s) slos_serve attains 0.6 and 0.7 points more when collocated; with
// P/D nothing attained more.
// Swept there: margin 0.95 and 1.3, window 1.2, 2, 4, 1000, the three choices, slack_budget and token_allocation steps.
#include "actors/scheduler/policies/hyperflexis_queue.hpp"
#include "actors/scheduler/policies/placing.hpp"
#include <array>
#include <cmath>

namespace hflex::scheduler {

namespace {

/// What is left of a resident's life.
struct life {
  std::uint64_t tokens{};  ///< to come
  std::uint64_t context{}; ///< now
  double laxity_ms{};      ///< to the deadline of its last token; infinite when nothing binds it
};

/// The least share of its laxity that is left to anybody, when those lives go on together with `busy_ms` of other work;
/// below 0: somebody is late. `lives` by tokens, fewest first.
double least_left(const step_time_model& model, const std::vector<life>& lives, double busy_ms) {
  double left = 1.0, at_ms = busy_ms, context = 0;
  for (const auto& l : lives) context += static_cast<double>(l.context);
  std::uint64_t done = 0;
  for (std::size_t i = 0; i < lives.size(); ++i) {
    const auto steps = static_cast<double>(lives[i].tokens - done);
    const auto seqs = static_cast<double>(lives.size() - i);
    if (steps > 0) {
      step_shape shape;
      shape.decode_seqs = static_cast<std::uint32_t>(lives.size() - i);
      shape.decode_context = context + seqs * steps * 0.5;
      at_ms += steps * to_ms(model.predict(shape));
      context += seqs * steps;
      done = lives[i].tokens;
    }
    context -= static_cast<double>(lives[i].context + lives[i].tokens);
    if (std::isfinite(lives[i].laxity_ms))
      left = std::min(left, (lives[i].laxity_ms - at_ms) / std::max(lives[i].laxity_ms, 1.0));
  }
  return left;
}

class oracle final : public policy {
public:
  static constexpr knob margin{
      "oracle.margin", 1.3, 0.3, 1.5, "share of the time to its last deadline that a life may take"};
  static constexpr knob choose{"oracle.choose", 0, 0, 2,
      "of places that will do: 0 the soonest first token, 1 the least, 2 the most laxity left"};
  static constexpr knob window{"oracle.window", 2.0, 0.5, 1e6, "prefill that may be pending at an instance, in steps"};
  static constexpr std::array knobs{margin, choose, window};

  explicit oracle(const options& opts)
      : opts_(opts), margin_(margin.of(opts)), choose_(choose.of(opts)), window_(window.of(opts)) {}

  void queued(const view& v, const waiting_request& w) override { queue_.add(w, last_start(v, w.request), opts_); }
  void unqueued(const view&, const waiting_request& w) override { queue_.remove(w); }

  void plan(const view& v, time_point now, decisions& d) override {
    queue_.expire(now, [](request_key) {});
    take_stock(v, now);
    if (queue_.stale() || now >= next_replan_) replan(v, now);
    serve_all(v, queue_.resumed(), now, false, d);
    if (serve_all(v, queue_.planned(), now, false, d)) serve_all(v, queue_.spare(), now, true, d);
    serve_aged(v, now, d);
  }

private:
  static time_point last_start(const view& v, const request_arrived& r) {
    if (is_lost(v, r, due_of(r) - std::chrono::hours{48})) return time_point::min(); // its TPOT target is
    std::optional<duration> fastest;
    for (const auto& [id, at] : v.instances)
      if (can_prefill(at.is.role)) fastest = std::min(fastest.value_or(duration::max()), fastest_prefill(at, r.tokens));
    return due_of(r) - fastest.value_or(duration{0});
  }

  void take_stock(const view& v, time_point now) {
    lives_.clear();
    budgets_.clear();
    for (const auto& [key, p] : v.placed) lives_[p.decode].push_back(life_of(v.instances.at(p.decode), p, now));
    for (auto& [id, lives] : lives_) sort(lives);
  }
  static void sort(std::vector<life>& lives) {
    std::sort(lives.begin(), lives.end(), [](const life& a, const life& b) { return a.tokens < b.tokens; });
  }

  static life life_of(const instance_load& at, const placed_request& p, time_point now) {
    const auto& r = p.request;
    const std::uint64_t whole =
        r.known_output ? (*r.known_output > r.produced ? *r.known_output - r.produced : 1) : p.output_to_come;
    const auto context = context_of(at, p);
    const auto made = context - r.tokens + (p.decodes ? 1 : 0);
    life l{whole > made ? whole - made : 1, context, std::numeric_limits<double>::infinity()};
    const auto rest = r.slo.tpot * static_cast<std::int64_t>(l.tokens);
    // The anchor counts steps: its next token is due one target after the steps that it has made.
    if (p.binds)
      l.laxity_ms = to_ms(p.anchor + r.slo.tpot * static_cast<std::int64_t>(at.decode_steps) + rest - now);
    else if (!p.best_effort)
      l.laxity_ms = to_ms(rest);
    return l;
  }

  void replan(const view& v, time_point now) {
    next_replan_ = now + opts_.replan_every;
    hyperflexis_queue::capacity fleet;
    fleet.beside_decodes = v.fleet.mixed > 0;
    for (const auto& [id, at] : v.instances)
      if (at.may_prefill()) fleet.add(v, at, prefill_rate(at, budget_of(at)), duration{0}, now);
    queue_.replan(now, std::move(fleet), opts_.plan_depth);
  }

  // False when somebody found no place.
  bool serve_all(const view& v, const hyperflexis_queue::band& band, time_point now, bool lost, decisions& d) {
    int failed = 0;
    bool all = true;
    for (auto it = band.begin(); it != band.end() && failed < patience;) {
      const auto& w = v.waiting.at((it++)->key);
      const bool served = lost ? serve_lost(v, w, now, false, d) : serve(v, w, now, d);
      failed = served ? 0 : failed + 1;
      all = all && served;
    }
    return all;
  }

  void serve_aged(const view& v, time_point now, decisions& d) {
    const auto& lost = queue_.spare();
    while (!lost.empty() && lost.begin()->when <= now)
      if (!serve_lost(v, v.waiting.at(lost.begin()->key), now, !queue_.planned().empty(), d)) return;
  }

  bool serve(const view& v, const waiting_request& w, time_point now, decisions& d) {
    using score = std::tuple<int, double, duration>;
    const auto best = best_place(v, w.request, [&](const place& at) -> std::optional<score> {
      const auto& p = *at.prefill;
      if (!has_space(at, w.request, blocks_of(*at.decode, w)) || !takes_now(v, p, w, now)) return std::nullopt;
      const auto first = prefill_by_deadline(v, p, budget_of(p), w.request, now);
      if (!first) return std::nullopt;
      const auto left = left_with(at, w);
      if (left < 1.0 - margin_) return std::nullopt;
      const bool in_time = now + *first <= due_of(w.request);
      const double by = choose_ < 0.5 ? to_ms(*first) : choose_ < 1.5 ? left : -left;
      return score{in_time ? 0 : 1, by, *first};
    });
    if (!best) return false;
    dispatch(w, *best, now, false, "lives to its end in time", d);
    return true;
  }

  bool serve_lost(const view& v, const waiting_request& w, time_point now, bool others_wait, decisions& d) {
    const auto best = place_for_lost(v, w, now, others_wait);
    if (!best) return false;
    dispatch(w, *best, now, true, "best effort", d);
    return true;
  }

  void dispatch(
      const waiting_request& w, const place& at, time_point now, bool best_effort, std::string why, decisions& d) {
    auto& lives = lives_[at.decode->is.instance];
    lives.push_back(life_of_newcomer(w, now));
    sort(lives);
    budgets_.erase(at.prefill->is.instance);
    budgets_.erase(at.decode->is.instance);
    d.dispatch(w.request.key, at.with(blocks_of(*at.decode, w), best_effort, std::move(why)));
  }

  bool takes_now(const view& v, const instance_load& p, const waiting_request& w, time_point now) {
    const auto& budget = budget_of(p);
    return starts_soon(v, p, w.request.tokens, std::max(budget.next_step, budget.steady_step), window_, now);
  }

  static life life_of_newcomer(const waiting_request& w, time_point now) {
    const auto& r = w.request;
    const std::uint64_t tokens = output_to_come(w) - 1;
    const auto rest = r.slo.tpot * static_cast<std::int64_t>(tokens);
    return {tokens, r.tokens, to_ms(r.produced == 0 ? rest : due_of(r) + rest - now)};
  }

  double left_with(const place& at, const waiting_request& w) {
    const auto& d = *at.decode;
    auto lives = lives_[d.is.instance];
    auto mine = life_of_newcomer(w, time_point{});
    if (w.request.produced > 0) mine.laxity_ms = std::numeric_limits<double>::infinity();
    if (mine.tokens > 0) lives.push_back(mine);
    sort(lives);
    return least_left(d.model(), lives, at.together() ? prefill_ms(d, w.request.tokens) : 0.0);
  }

  // What the pending prefill and `tokens` more add to the decode steps that they ride on.
  static double prefill_ms(const instance_load& at, std::uint32_t tokens) {
    const auto decodes = at.decode_shape();
    const auto chunk =
        std::max(1U, at.is.max_batched_tokens - std::min(at.is.max_batched_tokens - 1, decodes.decode_seqs));
    auto mixed = decodes;
    mixed.add_prefill(chunk, 0);
    const double each =
        to_ms(at.model().predict(mixed)) - (decodes.decode_seqs > 0 ? to_ms(at.model().predict(decodes)) : 0.0);
    return each * static_cast<double>(at.pending_prefill + tokens) / chunk;
  }

  const prefill_budget& budget_of(const instance_load& at) {
    auto [found, fresh] = budgets_.try_emplace(at.is.instance);
    if (fresh) found->second = estimate_prefill(at, opts_.lost_after);
    return found->second;
  }
  static std::uint32_t blocks_of(const instance_load& d, const waiting_request& w) {
    return blocks_with_output(d, w.request, output_to_come(w));
  }

  options opts_;
  double margin_;
  double choose_;
  double window_;
  hyperflexis_queue queue_;
  std::map<instance_id, std::vector<life>> lives_; ///< of this plan, fewest tokens first
  std::map<instance_id, prefill_budget> budgets_;  ///< of this plan, as far as asked for
  time_point next_replan_{time_point::min()};
};

} // namespace

std::span<const knob> oracle_knobs() { return oracle::knobs; }
std::unique_ptr<policy> make_oracle(const options& opts) { return std::make_unique<oracle>(opts); }

} // namespace hflex::scheduler
