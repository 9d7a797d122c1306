// hyperflexis: as many instances as the load that is forecast for when a start would be ready needs to stay within its
// targets, by the step-time model; one more at once when the scheduler's plan gives requests up that one more would
// save. What was needed lately is held on to for a few times as long as it would take to get it back, a little of it
// for longer. Sections 1 to 3 and 7 of the scheduling design; supply.hpp has the sums.
#include "actors/common/output_tally.hpp"
#include "actors/scaler/forecast.hpp"
#include "actors/scaler/peaks.hpp"
#include "actors/scaler/policy.hpp"
#include "actors/scaler/supply.hpp"
#include <array>
#include <cmath>

namespace hflex::scaler {

namespace {

constexpr std::array hyperflexis_table{
    knob{"hyperflexis.margin", 2.0, 0.0, 10.0, "standard deviations of forecast error and chance to have room for"},
    knob{"hyperflexis.fill", 1.0, 0.1, 1.0, "share of an instance's time for work to plan with"},
    knob{"hyperflexis.hold_leads", 4.0, 0.0, 1000.0, "hold what was needed for so many times a start's lead time"},
    knob{"hyperflexis.hold_least_s", 10.0, 0.0, 86400.0, "and for so many seconds at least"},
    knob{"hyperflexis.slow_leads", 24.0, 0.0, 1000.0, "and a little of it longer: for so many lead times"},
    knob{"hyperflexis.slow_share", 0.2, 0.0, 10.0, "at most so much of what is held the short while, rounded up"},
    knob{"hyperflexis.lasting_share", 0.5, 0.0, 10.0, "share of a lead time that a backlog must last to count"},
    knob{"hyperflexis.least_share", 0.05, 0.0, 1.0, "share of the arrivals from which a class's targets bind"},
    knob{"hyperflexis.memory_s", 120.0, 1.0, 86400.0, "seconds over which what requests are like is averaged"},
    knob{"hyperflexis.first_output", 200.0, 1.0, 1e6, "output tokens of a class of which too few have ended"},
    knob{"hyperflexis.idle_to_zero_s", 300.0, 0.0, 1e6, "idle seconds until the last goes, where none is allowed"},
};

double knob_of(const options& opts, std::string_view name) {
  for (const auto& k : hyperflexis_table)
    if (k.name == name) return k.of(opts);
  return 0;
}

// A fleet of fixed size has no more than so many decode instances for each that the residents need now, and half a one.
// Up to there they get their part of the instances, their work counting for more: where decodes find no room, nothing
// goes on. What is forecast does not count: a role changes in milliseconds, and answers of a minute let the prefill
// side starve for a burst whose decodes are still to come.
constexpr double decode_room = 1.5;
constexpr double decode_spare = 0.5;
constexpr double decode_weight = 1.25;

// A role is not given up for what has not been needed for less than that, however fast a start is: residents have to
// leave, and what chance brings and takes within a second would have instances change all the time.
constexpr duration least_unneeded{std::chrono::seconds{2}};

/// One kind of instance and what it needs.
struct side {
  instance_role role{};
  double need{};       ///< instances, not rounded
  double here{};       ///< of them, for those who are resident now
  double work{};       ///< instances' time for what has come lately, to compare sides by
  std::uint32_t now{}; ///< rounded up: wanted if nothing were held on to
};

class hyperflexis final : public policy {
public:
  explicit hyperflexis(const options& opts)
      : margin_(knob_of(opts, "hyperflexis.margin")), fill_(knob_of(opts, "hyperflexis.fill")),
        hold_leads_(knob_of(opts, "hyperflexis.hold_leads")),
        hold_least_(from_s(knob_of(opts, "hyperflexis.hold_least_s"))),
        slow_leads_(knob_of(opts, "hyperflexis.slow_leads")), slow_share_(knob_of(opts, "hyperflexis.slow_share")),
        lasting_share_(knob_of(opts, "hyperflexis.lasting_share")),
        least_share_(knob_of(opts, "hyperflexis.least_share")), memory_s_(knob_of(opts, "hyperflexis.memory_s")),
        first_output_(knob_of(opts, "hyperflexis.first_output")),
        idle_to_zero_(from_s(knob_of(opts, "hyperflexis.idle_to_zero_s"))) {}

  bool flips_roles() const override { return true; }

  void told(const fleet_view& v, const demand_report& d, time_point now) override {
    if (!d.instances.empty()) model_ = d.instances.front().model;
    const double kept = std::exp(-to_s(d.span) / memory_s_);
    for (auto& [name, c] : classes_) {
      c.arrivals *= kept, c.prompt_tokens *= kept, c.prompt_squared *= kept;
      c.ended *= kept, c.output_tokens *= kept;
    }
    outputs_.fade(kept);
    outputs_.made += static_cast<double>(d.decoded);
    for (const auto& n : d.classes) outputs_.finished += n.ended, outputs_.outputs += n.output_tokens;
    double prefill = 0, decode = 0, variance = 0, arrivals = 0;
    const bool beside = !v.disaggregated();
    for (const auto& n : d.classes) {
      auto& c = classes_[n.slo_class];
      c.ttft = n.ttft, c.tpot = n.tpot;
      c.arrivals += n.arrivals, c.prompt_tokens += n.prompt_tokens, c.prompt_squared += n.prompt_tokens_squared;
      c.ended += n.ended, c.output_tokens += n.output_tokens;
      if (n.arrivals == 0) continue;
      arrivals += n.arrivals;
      // What requests are like is averaged over longer than how many come: long prompts that happen to come at once
      // would start instances for nothing.
      const double share = n.arrivals / c.arrivals;
      prefill += share * prefill_work(model_, c.prompt_tokens, c.prompt_squared);
      decode += n.arrivals * decode_work(model_, c.mean_prompt(), c.mean_output(first_output_), beside);
      const double each = prefill_work(model_, 1, c.mean_prompt());
      variance += share * each * each * c.prompt_squared;
    }
    if (arrivals > 0 || d.waiting > 0) busy_ = now;
    for (const auto& i : d.instances)
      if (i.decoding + i.promised > 0 || i.pending_prefill > 0) busy_ = now;
    arrivals_.add(now, arrivals);
    prefill_.add(now, prefill);
    decode_.add(now, decode);
    variance_.add(now, variance);
    prefill_.learn(v.lead_time);
    decode_.learn(v.lead_time);
  }

  role_counts wanted(const fleet_view& v, time_point now) override {
    auto counts = v.configured;
    if (!v.demand_at) return counts;
    for (auto* series : {&arrivals_, &prefill_, &decode_, &variance_}) series->add(now, 0);
    targets_ = binding_targets(classes_, least_share_);
    hold_ = std::max(hold_least_, from_s(hold_leads_ * to_s(v.lead_time)));
    slow_hold_ = std::max(hold_, from_s(slow_leads_ * to_s(v.lead_time)));
    numbers_.clear();
    if (v.disaggregated()) {
      auto p = prefill_side(v, instance_role::prefill), d = decode_side(v, instance_role::decode);
      settle(v, p, held_prefill_, now, counts);
      settle(v, d, held_decode_, now, counts);
      trade(v, p, held_prefill_, d, counts);
      trade(v, d, held_decode_, p, counts);
      share_out(v, p, d, now, counts);
    } else {
      side m{instance_role::mixed, mixed_need(v), 0, 0, 0};
      settle(v, m, held_decode_, now, counts);
    }
    return counts;
  }

  reasoning why() const override {
    auto r = reason_;
    r.numbers = numbers_;
    return r;
  }

  std::optional<time_point> next_look(const fleet_view& v, time_point now) const override {
    if (v.running() == 0 || !v.demand_at) return std::nullopt;
    return now + std::chrono::seconds{1};
  }

private:
  // --- what is needed -----------------------------------------------------------------------------------------------

  work_rate rate_of(const rate_forecast& f, duration lead) const { return {f.expected(lead), f.usual_excess(), 0.0}; }

  double prefill_lately() const {
    double work = 0;
    for (const auto& [name, c] : classes_) work += prefill_work(model_, c.prompt_tokens, c.prompt_squared);
    return work;
  }

  // What is left of the TTFT target when the request's own prefill is taken off, a quarter of it at least.
  duration queue_time() const {
    double tokens = 0, arrivals = 0;
    for (const auto& [name, c] : classes_) tokens += c.prompt_tokens, arrivals += c.arrivals;
    step_shape own;
    own.add_prefill(static_cast<std::uint32_t>(arrivals > 0 ? tokens / arrivals : 0), 0);
    return std::max(targets_.ttft - model_.predict(own), targets_.ttft / 4);
  }

  // By chance, or as they really come where that is more uneven.
  double variance_of_arrivals() const {
    return std::max(variance_.lately(std::chrono::seconds{30}), prefill_.variance(std::chrono::minutes{5}));
  }

  double mixed_need(const fleet_view& v) {
    // Each of them does one thing for now, as if it had that role.
    if (v.demand.mixed_apart)
      return prefill_side(v, instance_role::mixed).need + decode_side(v, instance_role::mixed).need;
    auto w = rate_of(prefill_, v.lead_time);
    const auto decode = rate_of(decode_, v.lead_time);
    w.expected += decode.expected;
    w.excess += decode.excess;
    w.variance = variance_of_arrivals();
    const double share = fill_ * share_for_work(model_, targets_.tpot);
    double need = instances_for(w, share, queue_time(), margin_);
    note_numbers(v, w, share, need);
    need = std::max(need, instances_for_residents(v.demand, model_, targets_.tpot, instance_role::mixed));
    return std::max(need,
        std::max(need_of_the_late(v, instance_role::mixed, w, share), need_of_the_homeless(v, instance_role::mixed)));
  }

  side prefill_side(const fleet_view& v, instance_role role) {
    auto w = rate_of(prefill_, v.lead_time);
    w.variance = variance_of_arrivals();
    // A prefill instance binds nobody's token times: its steps are as long as they may be.
    step_shape full;
    std::uint32_t most = 2048;
    for (const auto& i : v.demand.instances)
      if (i.role == role) most = i.max_batched_tokens;
    full.add_prefill(most, 0);
    const double share = fill_ * share_for_work(model_, std::min(model_.predict(full), queue_time()));
    const double need = instances_for(w, share, queue_time(), margin_);
    note_numbers(v, w, share, need);
    return {role, std::max(need, need_of_the_late(v, role, w, share)), 0, prefill_lately() / share, 0};
  }

  side decode_side(const fleet_view& v, instance_role role) {
    auto w = rate_of(decode_, v.lead_time);
    // Work stays for as long as an answer takes: chance evens out over that.
    double outputs = 0, ended = 0, arrivals = 0, prompts = 0, work = 0, to_the_end = 0;
    // Sides are compared by all that their requests will take, also those that go on.
    const double longer = outputs_.stretch();
    for (const auto& [name, c] : classes_) {
      outputs += c.output_tokens, ended += c.ended, arrivals += c.arrivals, prompts += c.prompt_tokens;
      work += c.arrivals * decode_work(model_, c.mean_prompt(), c.mean_output(first_output_), false);
      to_the_end += c.arrivals * decode_work(model_, c.mean_prompt(), c.mean_output(first_output_) * longer, false);
    }
    const double mean = ended >= 4 ? outputs / ended : first_output_;
    const auto stay = from_s(mean * to_s(targets_.tpot) * 0.7);
    // Requests per second times the square of each one's work, which is averaged over all classes.
    w.variance = arrivals > 0 ? w.expected * work / arrivals : 0;
    const double prompt = arrivals > 0 ? prompts / arrivals : 0;
    const double most = most_sequences(v, prompt + mean);
    const double share = fill_ * decode_share_for_work(model_, targets_.tpot, most, prompt + mean / 2);
    double need = instances_for(w, share, stay, margin_);
    numbers_.push_back({"decode_work", w.expected});
    numbers_.push_back({"decode_share_for_work", share});
    numbers_.push_back({"decode_need", need});
    const double here = instances_for_residents(v.demand, model_, targets_.tpot, instance_role::decode);
    return {role, std::max({need, here, need_of_the_homeless(v, role)}), here, to_the_end / share, 0};
  }

  // That a decode instance holds, by its limit and by its memory, with some room for what comes next.
  static double most_sequences(const fleet_view& v, double tokens_each) {
    constexpr double filled = 0.9;
    double most = 1;
    for (const auto& i : v.demand.instances) {
      if (!can_decode(i.role)) continue;
      const double tokens = static_cast<double>(i.kv_blocks) * i.block_size;
      most = std::max(most, filled * std::min<double>(i.max_sequences, tokens / std::max(tokens_each, 1.0)));
    }
    return most;
  }

  // The scheduler gives requests up that one more instance would save: if it were there in time. What is worked off
  // before a start could be ready is a burst that no start helps; beyond that, enough to work it off within a lead
  // time.
  double need_of_the_late(const fleet_view& v, instance_role role, const work_rate& w, double share) {
    const auto& d = v.demand;
    if (d.late <= d.late_with_one_more) return 0;
    double tokens = static_cast<double>(d.waiting_tokens);
    for (const auto& i : d.instances) tokens += static_cast<double>(i.pending_prefill);
    const double lead_s = std::max(to_s(v.lead_time), 0.1);
    const double backlog = prefill_work(model_, tokens, 0);
    if (backlog < v.ready(role) * share * lead_s * lasting_share_) return 0;
    numbers_.push_back({"planned_demotions", static_cast<double>(d.late)});
    numbers_.push_back({"backlog_work", backlog});
    return std::max((w.expected + backlog / lead_s) / share, v.ready(role) + 1.0);
  }

  // No instance has room for what waits: so for half a lead time, or a second, and it is no accident.
  double need_of_the_homeless(const fleet_view& v, instance_role role) {
    if (v.demand.without_room == 0) homeless_since_.reset();
    if (v.demand.without_room == 0 || v.ready(role) == 0) return v.demand.waiting > 0 && v.running(role) == 0 ? 1 : 0;
    if (!homeless_since_) homeless_since_ = v.demand_at;
    if (*v.demand_at - *homeless_since_ < std::min<duration>(v.lead_time / 2, std::chrono::seconds{1})) return 0;
    numbers_.push_back({"without_room", static_cast<double>(v.demand.without_room)});
    return v.ready(role) + 1.0;
  }

  // --- what is wanted -----------------------------------------------------------------------------------------------

  // Nothing is stopped before what was needed in the hold time would fit into what is left, and the last few only when
  // they have not been needed for longer: a load that stays about the same would start them again and again.
  void settle(const fleet_view& v, side& s, peaks& held, time_point now, role_counts& counts) {
    s.now = static_cast<std::uint32_t>(std::clamp(std::ceil(s.need - 0.02), 1.0, 1e6));
    if (v.min_instances == 0 && now - busy_ > idle_to_zero_ && v.demand.waiting == 0) s.now = 0;
    held.add(now, s.now);
    const auto lately = held.over(hold_, slow_hold_), before = held.over(slow_hold_, slow_hold_);
    const auto most = static_cast<std::uint32_t>(std::min(before, lately + std::ceil(lately * slow_share_)));
    const auto running = v.running(s.role);
    auto& count = counts[s.role];
    count = s.now;
    if (s.now < running) count = held.covers(hold_) ? std::min(running, std::max(most, s.now)) : running;
    numbers_.push_back({s.role == instance_role::prefill ? "prefill_held" : "held", static_cast<double>(most)});
  }

  static duration unneeded(const fleet_view& v) { return std::max(v.lead_time, least_unneeded); }

  // A side that lacks instances gets those of the other side that it has not needed for a lead time.
  void trade(const fleet_view& v, const side& giver, peaks& held, const side& taker, role_counts& counts) {
    const auto missing = static_cast<std::int64_t>(counts[taker.role]) - v.running(taker.role);
    const auto lately = static_cast<std::int64_t>(held.over(unneeded(v), slow_hold_));
    const auto spare = static_cast<std::int64_t>(counts[giver.role]) - std::max<std::int64_t>({lately, giver.now, 1});
    if (missing > 0 && spare > 0) counts[giver.role] -= static_cast<std::uint32_t>(std::min(missing, spare));
  }

  // Where the limits say how many there are: the decode side gets what it needs, with room, or its part of what both
  // do when that is less; the prefill side gets the rest, for its first tokens come the sooner the more are idle. A
  // role is not changed for less than a quarter of an instance.
  void share_out(const fleet_view& v, const side& p, const side& d, time_point now, role_counts& counts) {
    const auto wanted = counts[p.role] + counts[d.role];
    const auto total = std::clamp(wanted, std::max(v.min_instances, 2U), std::max(v.max_instances, 2U));
    if (total == wanted && v.min_instances != v.max_instances) return;
    if (!(p.work > 0 && d.work > 0)) return keep(v, p, d, total, counts);
    const auto relief = [&](std::uint32_t decodes) {
      return std::min((total - decodes) / p.work, decodes / (decode_weight * d.work));
    };
    std::uint32_t decodes = 1;
    while (decodes + 1 < total && relief(decodes + 1) > relief(decodes)) ++decodes;
    const double enough = decode_room * d.here + decode_spare;
    numbers_.push_back({"decode_part", total * d.work / (p.work + d.work)});
    numbers_.push_back({"decode_enough", enough});
    decodes = std::min(decodes, static_cast<std::uint32_t>(std::clamp<double>(std::ceil(enough - 0.25), 1, total - 1)));
    const auto running = v.running(d.role);
    shared_decode_.add(now, decodes);
    // What decodes has to end before it can do anything else: it goes only when it was not needed for a while.
    if (decodes < running)
      decodes = shared_decode_.covers(unneeded(v))
                    ? std::min(running, static_cast<std::uint32_t>(shared_decode_.over(unneeded(v), unneeded(v))))
                    : running;
    counts[d.role] = std::clamp(decodes, 1U, total - 1);
    counts[p.role] = total - counts[d.role];
  }

  static void keep(const fleet_view& v, const side& p, const side& d, std::uint32_t total, role_counts& counts) {
    counts[p.role] = std::clamp(v.running(p.role), 1U, total - 1);
    counts[d.role] = total - counts[p.role];
  }

  void note_numbers(const fleet_view& v, const work_rate& w, double share, double need) {
    const double rate = arrivals_.lately(std::max<duration>(v.lead_time, std::chrono::seconds{3}));
    reason_.why =
        fmt::format("{:.1f} requests/s, {:.2f} instances' work expected in {:.1f} s, {:.2f} in doubt, {:.0f} % "
                    "of the time for work",
            rate, w.expected, to_s(v.lead_time), w.excess, share * 100);
    numbers_.push_back({"arrivals_rps", rate});
    numbers_.push_back({"work_expected", w.expected});
    numbers_.push_back({"work_excess", w.excess});
    numbers_.push_back({"work_variance", w.variance});
    numbers_.push_back({"share_for_work", share});
    numbers_.push_back({"need", need});
    numbers_.push_back({"lead_time_s", to_s(v.lead_time)});
    numbers_.push_back({"hold_s", to_s(hold_)});
    numbers_.push_back({"waiting", static_cast<double>(v.demand.waiting)});
  }

  double margin_, fill_, hold_leads_;
  duration hold_least_;
  double slow_leads_, slow_share_, lasting_share_, least_share_, memory_s_, first_output_;
  duration idle_to_zero_;
  mix classes_;
  output_tally outputs_; ///< of all classes
  step_time_model model_{unmeasured_step_time};
  rate_forecast arrivals_, prefill_, decode_, variance_;
  binding targets_;
  duration hold_{}, slow_hold_{};
  peaks held_prefill_, held_decode_;
  peaks shared_decode_; ///< of a fleet of fixed size
  time_point busy_;
  std::optional<time_point> homeless_since_; ///< since when requests without room have been reported
  reasoning reason_;
  std::vector<basis> numbers_;
};

} // namespace

std::span<const knob> hyperflexis_knobs() { return hyperflexis_table; }
std::unique_ptr<policy> make_hyperflexis(const options& opts) { return std::make_unique<hyperflexis>(opts); }

} // namespace hflex::scaler
