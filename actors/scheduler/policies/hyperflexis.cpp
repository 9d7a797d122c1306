// hyperflexis: earliest deadline first over what can still attain (hyperflexis_queue), placed as late as possible on
// the instance that stays within everybody's budget with the least to spare. Sections 3 to 5 of the scheduling design.
#include "actors/scheduler/budget.hpp"
#include "actors/scheduler/policies/deadline_backlog.hpp"
#include "actors/scheduler/policies/hyperflexis_fleet.hpp"
#include "actors/scheduler/policies/hyperflexis_queue.hpp"
#include "actors/scheduler/policy.hpp"
#include <cmath>
#include <span>
#include <tuple>

namespace hflex::scheduler {

namespace {

/// How much a request may ask for.
enum class claim {
  within_budget, ///< all targets of all residents, and its own
  left_over,     ///< all targets of all residents; its own are lost or given up
  by_right,      ///< resumed or aged: if nothing else will do, at the cost of others
};

/// What came of trying to serve a request.
enum class attempt {
  served,
  no_space, ///< some instance would take it now, but it breaks a target or finds no KV blocks: another request may do
  all_busy, ///< every instance has the work that it may have for now: nobody of lower rank may slip in
};

/// Why it is served, for people.
struct band_words {
  std::string_view due;     ///< with one number, ms
  std::string_view planned; ///< with two
};
constexpr band_words resumed{"resumed: due in {:.0f} ms", "resumed: due in {:.0f} ms, planned in {:.0f} ms"};
constexpr band_words aged{"waited longest: due in {:.0f} ms", "waited longest: due in {:.0f} ms, planned in {:.0f} ms"};
constexpr band_words planned{
    "earliest deadline: due in {:.0f} ms", "earliest deadline: due in {:.0f} ms, planned in {:.0f} ms"};
constexpr band_words spare{"best effort: due in {:.0f} ms", "best effort: due in {:.0f} ms, planned in {:.0f} ms"};

/// Where a request could decode.
struct decode_choice {
  const instance_load* at{};
  duration step;                 ///< of its decodes with the request
  bool over{false};              ///< which would break a target
  bool open{false};              ///< not kept for somebody else, and its pool can hold the request
  std::optional<double> cost_ms; ///< its own time to the end, and the time that its neighbours lose by it
};

/// A way to serve a request, and how good it is: the smallest score wins.
struct candidate {
  const instance_load* prefill{};
  const instance_load* decode{};
  duration finish{duration::max()}; ///< planned time to its first token
  std::tuple<int, double, duration, instance_id> score;
};

// How many planned requests in a row may find no place before the plan ends: somebody further back may still fit, but a
// full fleet must not cost a walk through the queue.
constexpr int refusals = 16;

// Prefill left on an instance, in steps, that best effort may join.
constexpr double nearly_done = 0.2;

// In a large fleet: how many places that will do are compared.
constexpr std::uint32_t choices = 4;

// Likewise: requests come and go faster than it is worth to think the whole queue over.
constexpr duration replans_apart = std::chrono::milliseconds{5};

class hyperflexis final : public policy {
public:
  explicit hyperflexis(const options& opts) : opts_(opts), fleet_(opts_) {}

  void queued(const view& v, const waiting_request& w) override { queue_.add(w, last_start(v, w), opts_); }
  void unqueued(const view&, const waiting_request& w) override { queue_.remove(w); }
  void changed(const view& v, const instance_load& at) override {
    fleet_.changed(v, at);
    backlog_.changed(at);
  }
  void gone(const view&, const instance_load& at) override {
    fleet_.gone(at);
    backlog_.gone(at);
  }
  void arrived(const view& v, const waiting_request& w) override { fleet_.arrived(v, w); }
  void finished(const view& v, const placed_request& p, std::uint32_t output_tokens) override {
    fleet_.finished(v, p, output_tokens);
  }
  bool reckons_with_weights() const override { return true; }
  bool mixed_apart() const override { return fleet_.apart(); }
  std::uint64_t looks() const override { return fleet_.looks(); }

  void place_newcomer(const view& v, const waiting_request& w, time_point now, decisions& d) override {
    fleet_.review(v, now, d);
    if (w.request.produced > 0 || !surely_in_time(v, w, now)) return;
    held_for_right_.reset();
    if (serve(v, w, now, claim::within_budget, planned, d) != attempt::served) return;
    aged_credit_ = 0;
    newcomer_placed_ = true;
  }

  // What an event has changed is worked out after it. An admission, which somebody waits for, leaves it to the next.
  void balance(const view&, time_point now, decisions&) override {
    if (!std::exchange(newcomer_placed_, false)) fleet_.refresh(now);
  }

  void plan(const view& v, time_point now, decisions& d) override {
    fleet_.review(v, now, d);
    if (!hyperflexis_fleet::is_small(v)) backlog_.bring_up_to_date(v); // bit by bit, so that no replan has it all to do
    turn_away_the_late(v, now, d);
    held_for_right_.reset();
    if (now >= next_replan_ || (queue_.stale() && now >= replan_allowed_)) replan(v, now, d);
    serve_resumed(v, now, d);
    serve_aged(v, now, d);
    serve_planned(v, now, d);
    serve_spare(v, now, d);
  }

  standing explain(const view& v, request_key key, time_point now) override {
    const auto& w = v.waiting.at(key);
    const auto at = queue_.find(key);
    standing s;
    s.band = at.band;
    s.position = at.position;
    s.of = at.of;
    s.due = token_deadline(w.request.arrival, w.request.slo, w.request.produced);
    s.latest_start = at.last_start;
    const auto how = at.band == "resumed"   ? claim::by_right
                     : at.band == "planned" ? claim::within_budget
                                            : claim::left_over;
    held_for_right_.reset();
    s.ask_each(v, [&](const instance_load& p) { return obstacle_at(v, p, w, now, how); });
    return s;
  }

private:
  // --- who ----------------------------------------------------------------------------------------------------------

  // Later than that, no instance can bring the first token in time. An instance whose model is a guess proves nothing.
  time_point last_start(const view& v, const waiting_request& w) {
    const auto& r = w.request;
    const auto due = token_deadline(r.arrival, r.slo, 0);
    step_shape alone;
    alone.add_decode(r.tokens);
    if (!hyperflexis_fleet::is_small(v)) {
      const auto& best = fleet_.best_case(v, w.queued_at);
      if (best.guess) return due;
      if (best.decodes && best.at_decode.predict(alone) > r.slo.tpot && r.max_output_tokens > 1)
        return time_point::min();
      if (!best.prefills) return due;
      return due - fastest_prefill(best.at_prefill, best.max_batched_tokens, least_prefill_work(w));
    }
    std::optional<duration> prefill, step;
    bool guess = false;
    for (const auto& [id, at] : v.instances) {
      if (!at.measured) guess = true;
      if (can_prefill(at.is.role))
        prefill = std::min(prefill.value_or(duration::max()), fastest_prefill(at, prefill_work(w, id)));
      if (can_decode(at.is.role)) step = std::min(step.value_or(duration::max()), at.model().predict(alone));
    }
    if (guess) return due;
    if (step && *step > r.slo.tpot && r.max_output_tokens > 1) return time_point::min();
    return due - prefill.value_or(duration{0});
  }

  // Whether the plan would not think of giving up a newcomer that nobody waits beside: whatever is pending goes before
  // it, and one instance, not even the best, still brings its first token in time.
  bool surely_in_time(const view& v, const waiting_request& w, time_point now) {
    const auto& r = w.request;
    const auto* p = fleet_.some_prefill();
    const auto* d = fleet_.some_decode(v);
    const auto rate = fleet_.tokens_per_s();
    if (!p || !d || !(rate > 0) || p->weights_at) return false;
    step_shape alone;
    alone.add_decode(r.tokens);
    if (r.max_output_tokens > 1 && d->model().predict(alone) > r.slo.tpot) return false;
    const auto left = token_deadline(r.arrival, r.slo, 0) - now;
    const double tokens = static_cast<double>(fleet_.pending_prefill()) + r.tokens;
    const double itself = r.tokens * (1.0 / fleet_.best_tokens_per_s() - 1.0 / rate);
    return fastest_prefill(*p, r.tokens) <= left && from_s(tokens / rate + std::max(0.0, itself)) <= left;
  }

  void turn_away_the_late(const view& v, time_point now, decisions& d) {
    std::vector<request_key> late;
    queue_.expire(now, [&](request_key key) {
      if (v.waiting.at(key).request.slo.when_late == late_action::shed)
        late.push_back(key);
      else
        d.demoted(key, "its targets cannot be met any more: it is served with what others leave over");
    });
    for (auto key : late) {
      const auto& r = v.waiting.at(key).request;
      d.shed(key,
          fmt::format("targets cannot be met any more: TTFT {:.0f} ms, of which {:.0f} ms have passed, TPOT {:.0f} ms",
              to_ms(r.slo.ttft), to_ms(now - r.arrival), to_ms(r.slo.tpot)));
    }
  }

  void replan(const view& v, time_point now, decisions& d) {
    next_replan_ = now + opts_.replan_every;
    replan_allowed_ = now + (hyperflexis_fleet::is_small(v) ? duration{0} : replans_apart);
    hyperflexis_queue::capacity fleet;
    fleet.beside_decodes = fleet_.some_do_both(v);
    if (hyperflexis_fleet::is_small(v)) {
      for (const auto& [id, at] : v.instances)
        if (fleet_.prefills(at)) fleet.add(v, at, prefill_rate(at, budget_of(at)), fleet_.rest_of_step(at, now), now);
    } else {
      fleet.lanes.push_back({fleet_.tokens_per_s()});
      fleet.best_tokens_per_s = fleet_.best_tokens_per_s();
      const auto& backlog = backlog_.bring_up_to_date(v);
      // What is overdue goes last on its instance and delays nobody here.
      for (auto it = backlog.lower_bound(now); it != backlog.end(); ++it)
        fleet.backlog.push_back({it->first, it->second, 0});
    }
    queue_.replan(now, std::move(fleet), opts_.plan_depth);
    for (const auto& out : queue_.demoted())
      d.demoted(
          out.key, {"the plan was full: without its {:.0f} prefill tokens, the most for their weight, the request "
                    "due in {:.0f} ms can be in time",
                       out.tokens, to_ms(out.for_due - now)});
  }

  void serve_resumed(const view& v, time_point now, decisions& d) {
    for (auto it = queue_.resumed().begin(); it != queue_.resumed().end();) {
      const auto key = (it++)->key;
      if (serve(v, v.waiting.at(key), now, claim::by_right, resumed, d) != attempt::served)
        return hold_for(v, v.waiting.at(key));
    }
  }

  // Those that waited too long have a right to a share of the work, whatever the plan would rather do.
  void serve_aged(const view& v, time_point now, decisions& d) {
    while (!queue_.spare().empty() && queue_.spare().begin()->when <= now) {
      const auto& w = v.waiting.at(queue_.spare().begin()->key);
      const double tokens = w.request.tokens;
      if (aged_credit_ < tokens && !queue_.planned().empty()) return;
      if (serve(v, w, now, claim::by_right, aged, d) != attempt::served) return hold_for(v, w);
      aged_credit_ = std::max(0.0, aged_credit_ - tokens);
    }
  }

  void serve_planned(const view& v, time_point now, decisions& d) {
    int failed = 0;
    for (auto it = queue_.planned().begin(); it != queue_.planned().end() && failed < refusals;) {
      const auto& w = v.waiting.at((it++)->key);
      const double tokens = w.request.tokens;
      const auto result = serve(v, w, now, claim::within_budget, planned, d);
      if (result == attempt::all_busy) return;
      failed = result == attempt::served ? 0 : failed + 1;
      if (result != attempt::served) continue;
      const bool someone_aged = !queue_.spare().empty() && queue_.spare().begin()->when <= now;
      aged_credit_ =
          someone_aged ? aged_credit_ + tokens * opts_.ageing_share / (1.0 - opts_.ageing_share + 1e-9) : 0.0;
    }
  }

  // What the plan leaves over: nobody with a chance waits for it. The shortest first.
  void serve_spare(const view& v, time_point now, decisions& d) {
    int failed = 0;
    if (!queue_.resumed().empty() || !queue_.planned().empty()) return;
    for (auto it = queue_.spare_by_size().begin(); it != queue_.spare_by_size().end() && failed < refusals;)
      switch (serve(v, v.waiting.at((it++)->key), now, claim::left_over, spare, d)) {
      case attempt::served:
        failed = 0;
        break;
      case attempt::no_space:
        ++failed;
        break;
      case attempt::all_busy:
        return;
      }
  }

  // --- where --------------------------------------------------------------------------------------------------------

  const prefill_budget& budget_of(const instance_load& at) { return fleet_.budget_of(at); }

  // Prefill there that goes before a request.
  std::uint64_t ahead_of(const instance_load& p, const waiting_request& w, time_point now, claim how) {
    if (how == claim::left_over) return p.pending_prefill;
    const auto due = token_deadline(w.request.arrival, w.request.slo, w.request.produced);
    return fleet_.ahead_of(p, due, now, how == claim::by_right);
  }

  // Late binding: an instance has in hand what fills its next steps and no more, so that the rest can still go
  // elsewhere. Best effort goes only where nothing waits, not even for weights: it would stand in the way of those who
  // come next. An instance that has gone silent is believed to be done; the ledger lets one request through per
  // report_timeout.
  bool takes_now(const view& v, const instance_load& p, const waiting_request& w, time_point now, claim how) {
    if (p.is_silent(now, opts_.report_timeout)) return true;
    const auto& budget = budget_of(p);
    const auto step = std::max(budget.next_step, budget.steady_step);
    if (step == 0) return how == claim::by_right && p.pending_prefill == 0;
    if (how == claim::left_over)
      return (!p.weights_at || v.fleet.all_load()) && static_cast<double>(p.pending_prefill) <= nearly_done * step;
    return static_cast<double>(ahead_of(p, w, now, how) + std::min(prefill_work(w, p.is.instance), step)) <=
           fleet_.steps_ahead(p, w.request.slo.ttft) * step;
  }

  static std::uint32_t blocks_wanted(const instance_load& d, const waiting_request& w) {
    return blocks_for(d, std::uint64_t{w.request.tokens} + w.output_to_come);
  }

  // Whoever comes finds room for all that it may well need; what is promised to it is what many like it hold at a time.
  static std::uint32_t blocks_kept(const instance_load& d, const waiting_request& w) {
    return blocks_for(d, std::uint64_t{w.request.tokens} + w.output_hold);
  }

  static bool has_space(const view& v, const instance_load& d, const waiting_request& w) {
    return has_room(v, d) && d.sequences() < d.is.max_sequences && blocks_wanted(d, w) <= d.free_blocks();
  }

  // The context that the newcomer will have half way through its output.
  static duration step_with(const instance_load& d, const waiting_request& w) {
    return decode_step_with(d, w.request.tokens + w.output_to_come / 2);
  }

  // The tightest target that its decode step must keep once the request is there; nothing when none binds.
  static std::optional<duration> step_limit(const instance_load& d, const waiting_request& w, claim how) {
    auto limit = d.tightest_tpot();
    if (how == claim::within_budget) limit = std::min(limit.value_or(duration::max()), w.request.slo.tpot);
    return limit;
  }

  attempt serve(
      const view& v, const waiting_request& w, time_point now, claim how, const band_words& why, decisions& d) {
    std::optional<candidate> in_time, soonest;
    bool all_busy = true;
    bool hopeful = true;
    const auto due = token_deadline(w.request.arrival, w.request.slo, w.request.produced);
    decode_choices_.clear();
    chosen_decodes_ = false;
    std::uint32_t found = 0;
    const auto look = [&](const instance_load& p) {
      if (!fleet_.prefills(p) || !has_room(v, p) || !takes_now(v, p, w, now, how)) return true;
      all_busy = false;
      // Wherever else its prefill could run, nobody would decode it either.
      if (!fleet_.some_do_both(v) && fleet_.orders_are_fresh() && decodes_for(v, w, how).empty()) {
        fleet_.want_host();
        return hopeful = false;
      }
      const auto c = best_with(v, p, w, now, how);
      if (!c) return true;
      const bool meets = c->finish < duration::max() && now + c->finish <= due;
      if (p.weights_at && !meets && how != claim::by_right && !v.fleet.all_load())
        return true; // somebody may be sooner
      if (meets && (!in_time || c->score < in_time->score)) in_time = c;
      if (!soonest || c->finish < soonest->finish) soonest = c;
      found += meets || how != claim::within_budget ? 1 : 0;
      return found < choices || hyperflexis_fleet::is_small(v);
    };
    const double output = w.output_to_come;
    if (!hyperflexis_fleet::is_small(v)) fleet_.walk_where_cached(v, w, choices, look);
    fleet_.walk_prefill(v, output, how != claim::within_budget, due, look);
    // Late on all that are cheap: then the soonest.
    if (how == claim::within_budget && !in_time && hopeful && !hyperflexis_fleet::is_small(v))
      fleet_.walk_prefill_again(v, output, due, look);
    // Late everywhere by the safe estimate, but not beyond hope: the soonest, rather than to let time go by.
    const auto& chosen = in_time && how == claim::within_budget ? in_time : soonest;
    if (!chosen) return all_busy ? attempt::all_busy : attempt::no_space;
    place(w, *chosen, now, how, why, d);
    return attempt::served;
  }

  std::optional<candidate> best_with(
      const view& v, const instance_load& p, const waiting_request& w, time_point now, claim how) {
    if (fleet_.duty_of(p) == instance_role::mixed) {
      auto itself = as_decode(v, p, w, how);
      return itself ? best_of({&*itself, 1}, p, w, now, how) : std::nullopt;
    }
    if (blocks_for(p, w.request.tokens) > p.free_blocks()) return std::nullopt;
    return best_of(decodes_for(v, w, how), p, w, now, how);
  }

  /// Why it is not there: the checks of serve() and best_with() once more, in words.
  std::string obstacle_at(const view& v, const instance_load& p, const waiting_request& w, time_point now, claim how) {
    if (const auto reason = closed(v, p)) return *reason;
    if (p.is.role == instance_role::mixed && !fleet_.prefills(p))
      return "decodes for the others for now: so the fleet serves more";
    decode_choices_.clear();
    chosen_decodes_ = false;
    if (!takes_now(v, p, w, now, how))
      return fmt::format("has {} prefill tokens that go before it, and a step of {}: it binds late",
          ahead_of(p, w, now, how), std::max(budget_of(p).next_step, budget_of(p).steady_step));
    if (best_with(v, p, w, now, how)) return "could take it: others go first";
    if (fleet_.duty_of(p) == instance_role::prefill) return "no decode instance has room within everybody's targets";
    if (!has_space(v, p, w))
      return fmt::format("has {} of the {} KV blocks that it needs, and decodes {} of at most {} sequences",
          p.free_blocks(), blocks_wanted(p, w), p.sequences(), p.is.max_sequences);
    const auto limit = step_limit(p, w, how);
    return fmt::format("its decode step would take {:.1f} ms; the tightest target allows {:.1f}",
        to_ms(step_with(p, w)), limit ? to_ms(*limit) : 0.0);
  }

  // Where it could decode: in a small fleet anywhere, in a large one the cheapest few that have the space. Worked out
  // once for each request that is tried.
  std::vector<decode_choice>& decodes_for(const view& v, const waiting_request& w, claim how) {
    if (std::exchange(chosen_decodes_, true)) return decode_choices_;
    const bool all = hyperflexis_fleet::is_small(v);
    fleet_.walk_decode(v, w.output_to_come, [&](const instance_load& d) {
      if (!fleet_.takes_decodes(d)) return true;
      if (const auto c = as_decode(v, d, w, how)) decode_choices_.push_back(*c);
      return all || decode_choices_.size() < choices;
    });
    return decode_choices_;
  }

  // Nothing when it has no room for the request.
  std::optional<decode_choice> as_decode(const view& v, const instance_load& d, const waiting_request& w, claim how) {
    if (!fleet_.decodes(d) || !has_space(v, d, w)) return std::nullopt;
    const auto step = step_with(d, w);
    const auto limit = step_limit(d, w, how);
    const bool over = limit && step > *limit;
    if (over && how != claim::by_right) return std::nullopt;
    const bool open = held_for_right_ != d.is.instance && blocks_at_most(d, w.request) <= d.is.kv_blocks;
    return decode_choice{&d, step, over, open, {}};
  }

  double cost_of(decode_choice& d, const waiting_request& w) {
    if (d.cost_ms) return *d.cost_ms;
    const double own = w.output_to_come * to_ms(d.step);
    const double slower = to_ms(d.step - fleet_.decode_step_of(*d.at));
    const double others = d.at->sequences() * slower * w.output_to_come;
    return d.cost_ms.emplace(own + others);
  }

  // Which of them costs least beside that prefill, in ms.
  std::optional<candidate> best_of(
      std::span<decode_choice> decodes, const instance_load& p, const waiting_request& w, time_point now, claim how) {
    if (std::none_of(decodes.begin(), decodes.end(), [](const auto& d) { return d.open; })) return std::nullopt;
    const auto work = prefill_work(w, p.is.instance);
    const auto cached = w.request.tokens - work;
    auto finish = duration::max();
    if (const auto alone = work_time(p, budget_of(p), ahead_of(p, w, now, how) + work, cached + work / 2))
      finish = *alone + fleet_.rest_of_step(p, now);
    const double wait = finish < duration::max() ? to_ms(finish) : 1e9;
    // What need not be computed holds nobody up; the request itself gains by its planned time.
    const double spared =
        cached > 0 ? to_ms(fastest_prefill(p, w.request.tokens) - fastest_prefill(p, work)) * p.sequences() : 0.0;
    std::optional<candidate> best;
    for (auto& d : decodes) {
      if (!d.open) continue;
      const double far = p.is.node == d.at->is.node ? 0.0 : 0.5;
      const int last = d.over ? 1 : 0; // by right, but only when nobody has room
      const candidate c{&p, d.at, finish, {last, cost_of(d, w) + wait + far - spared, finish, d.at->is.instance}};
      if (!best || c.score < best->score) best = c;
    }
    return best;
  }

  void place(
      const waiting_request& w, const candidate& c, time_point now, claim how, const band_words& words, decisions& d) {
    const auto due_ms = to_ms(token_deadline(w.request.arrival, w.request.slo, w.request.produced) - now);
    const auto why = c.finish < duration::max() ? explanation(words.planned, due_ms, to_ms(c.finish))
                                                : explanation(words.due, due_ms);
    const bool best_effort = how == claim::left_over || (how == claim::by_right && w.request.produced == 0);
    d.dispatch(
        w.request.key, {c.prefill->is.instance, c.decode->is.instance, blocks_kept(*c.decode, w), best_effort, why});
  }

  // A request with a right that fits nowhere now: the instance closest to having the space is kept for it.
  void hold_for(const view& v, const waiting_request& w) {
    if (held_for_right_) return;
    const instance_load* roomiest = nullptr;
    fleet_.walk_roomy(v, [&](const instance_load& d) {
      if (fleet_.decodes(d) && (!roomiest || d.free_blocks() > roomiest->free_blocks()) &&
          somebody_prefills_for(v, d, w))
        roomiest = &d;
      return true;
    });
    if (roomiest && !has_space(v, *roomiest, w)) held_for_right_ = roomiest->is.instance;
  }

  bool somebody_prefills_for(const view& v, const instance_load& d, const waiting_request& w) {
    if (fleet_.duty_of(d) == instance_role::mixed) return can_serve(d, d, w.request, true);
    return std::any_of(v.instances.begin(), v.instances.end(), [&](const auto& p) {
      return &p.second != &d && fleet_.prefills(p.second) && can_serve(p.second, d, w.request, true);
    });
  }

  options opts_;
  hyperflexis_queue queue_;
  hyperflexis_fleet fleet_;
  deadline_backlog backlog_;
  std::vector<decode_choice> decode_choices_; ///< for the request that is tried
  bool chosen_decodes_{false};                ///< they are
  std::optional<instance_id> held_for_right_; ///< in this plan
  bool newcomer_placed_{false};               ///< by this event
  time_point next_replan_{time_point::min()};
  time_point replan_allowed_{time_point::min()}; ///< before that changes of the queue do not bring a new one about
  double aged_credit_{};                         ///< prefill tokens that the aged may claim
};

} // namespace

std::unique_ptr<policy> make_hyperflexis(const options& opts) { return std::make_unique<hyperflexis>(opts); }

} // namespace hflex::scheduler
