#include "actors/scheduler/policies/hyperflexis_division.hpp"
#include "actors/common/step_capacity.hpp"
#include "actors/scheduler/policy.hpp"
#include <algorithm>
#include <cmath>
#include <tuple>

namespace hflex::scheduler {

namespace {

// 1.03 to 1.06 were tried on the paper's points: up to 1.04, 8B with code requests is divided, and attains up to a
// point less.
constexpr knob divide_gain{"hyperflexis.divide_gain", 1.05, 0.5, 1000,
    "times the requests that a mixed fleet has to serve with its decodes on some of its instances, by the step-time "
    "model, for them to be gathered there; 1000: never"};
constexpr std::array division_knobs{divide_gain};

// Once divided, a fleet stays so until the estimate says that much less. A fleet that has been divided from the start
// is 1 to 2 points worse off than one that is together where that is better; one that changes its mind under way, up
// to 6.
constexpr double hysteresis = 0.10;

// Outputs are known that well, once as many have finished as go on. The number of hosts is whole: what a division is
// worth goes up and down by 8 % as the expected output does, so that one estimate alone says little.
constexpr double spread_of_outputs = 1.25;

// A change of mind costs what residents on the wrong instances cost until they have ended.
constexpr duration minds_apart = std::chrono::seconds{30};
// Links that were too slow for hand-overs are tried again after that long.
constexpr duration handovers_remembered = std::chrono::hours{1};

// Estimates are made so often; of a mix that is young, at each review: the first requests decide where all begin.
constexpr duration estimates_apart = std::chrono::milliseconds{250};
constexpr double young_requests = 256;

// Requests after which the mix is believed, and after how many an old one counts 1/e.
constexpr double enough_requests = 16;
constexpr double remembered = 1024;
constexpr std::uint32_t decay_every = 64;

// Output tokens of a request, and how many have to finish until what they say counts as much.
constexpr double usual_output = 200;
constexpr double usual_weight = 32;

// Requests of the tightest targets bind every instance when they are that share.
constexpr double binding_share = 0.05;

// What gathered decodes may take of a host, so that there is room for those to come.
constexpr double share_of_step = 0.9;
constexpr double share_of_sequences = 0.9;
constexpr double share_of_memory = 0.8;

// As long as more than that part of the gathered ones still decodes elsewhere, those instances cannot make full steps
// yet, and the hosts go on with prefill as well.
constexpr double straggling = 0.1;

// About a step: less often would leave newcomers without a host.
constexpr duration review_every = std::chrono::milliseconds{5};
constexpr duration review_large_every = std::chrono::milliseconds{20};

/// Two tiers per octave, the lowest for 62 us and less.
std::size_t tier_of(double tpot_ms) {
  return static_cast<std::size_t>(std::clamp(2 * std::log2(std::max(tpot_ms, 1e-3)) + 8, 0.0, 31.0));
}

/// What one request of the mix costs an instance.
struct request_cost {
  double prefill_ms{};  ///< of its steps
  double decode_ms{};   ///< in steps that prefill as well
  double outputs{};     ///< tokens
  double context{};     ///< that one output token reads
  double tightest_ms{}; ///< TPOT target that binds
  double own_tier_ms{}; ///< of the instance's time for all of it, if each tier had instances of its own
  double tiers{};       ///< how many there are, small ones counting for less (inverse Simpson index of the work)
};

duration full_step(const instance_load& at) {
  step_shape full;
  full.add_prefill(at.is.max_batched_tokens, 0);
  return at.model().plan_ahead(full);
}

request_cost cost_of(const request_mix& mix, const instance_load& at, double lean = 0) {
  const auto& m = at.model();
  const double n = mix.requests();
  const auto longest = full_step(at);
  request_cost c;
  double seen = 0, read = 0, work = 0, squares = 0;
  mix.each_tier([&](const request_mix::tier& t) {
    const double tpot = t.tpot_ms / t.requests;
    if (seen < binding_share * n) c.tightest_ms = tpot;
    seen += t.requests;
    const double outputs = t.requests * mix.output_of(t, lean), context = outputs * mix.context_of(t, lean);
    const double prefill = m.c1_ms * t.work + m.c2_ms * t.pairs;
    const double decode = (m.c1_ms + m.c3_ms) * outputs + (m.c4_ms + m.c5_ms) * context;
    const double both = prefill + decode;
    c.prefill_ms += prefill / n;
    c.decode_ms += decode / n;
    c.outputs += outputs / n;
    c.own_tier_ms += both / share_for_work(m, std::min(from_ms(tpot), longest)) / n;
    read += context / n;
    work += both;
    squares += both * both;
  });
  c.context = read / std::max(c.outputs, 1e-9);
  c.tiers = work * work / std::max(squares, 1e-9);
  return c;
}

/// Output tokens per ms of an instance that only decodes, as full as it may be.
double host_rate(const instance_load& at, const request_cost& c) {
  const auto& m = at.model();
  const double memory = share_of_memory * at.is.kv_blocks * at.is.block_size / std::max(c.context, 1.0);
  const double most = std::min(share_of_sequences * at.is.max_sequences, memory);
  const auto n = most_decodes(m, from_ms(share_of_step * c.tightest_ms), most, c.context);
  return n / to_ms(m.predict(decode_step(n, c.context)));
}

} // namespace

std::span<const knob> hyperflexis_knobs() { return division_knobs; }

// --- what requests are like -----------------------------------------------------------------------------------------

void request_mix::add(const request_arrived& r, std::uint32_t prefill_work) {
  if (++since_decay_ >= decay_every) {
    since_decay_ = 0;
    constexpr double left = 1 - decay_every / remembered;
    for (auto& t : tiers_)
      for (auto* sum : {&t.requests, &t.tpot_ms, &t.prompt, &t.work, &t.pairs, &t.finished, &t.outputs}) *sum *= left;
    requests_ *= left;
    all_.fade(left);
  }
  const double tpot_ms = to_ms(r.slo.tpot), prompt = r.prompt_tokens, work = prefill_work;
  auto& t = tiers_[tier_of(tpot_ms)];
  t.requests += 1;
  t.tpot_ms += tpot_ms;
  t.prompt += prompt;
  t.work += work;
  t.pairs += work * (prompt - work / 2);
  requests_ += 1;
}

void request_mix::finished(const request_arrived& r, std::uint32_t output_tokens) {
  auto& t = tiers_[tier_of(to_ms(r.slo.tpot))];
  t.finished += 1;
  t.outputs += output_tokens;
  all_.finished += 1;
  all_.outputs += output_tokens;
}

// As output_tally::stretch() does, with a usual answer to begin with. How tiers compare, the finished say.
double request_mix::output_of(const tier& t, double lean) const {
  const auto mean = [](double outputs, double requests, double before) {
    return (usual_weight * before + outputs) / (usual_weight + requests);
  };
  const double least = mean(all_.outputs, all_.finished, usual_output);
  const double most = mean(all_.made + all_.finished, all_.finished, usual_output);
  const double all = std::sqrt(least * most) * std::pow(std::sqrt(most / least) * spread_of_outputs, lean);
  return mean(t.outputs, t.finished, least) / least * all;
}

// --- what a division brings -----------------------------------------------------------------------------------------

division_yield estimate_division(
    const request_mix& mix, const instance_load& typical, std::uint32_t instances, double lean) {
  const auto& m = typical.model();
  const auto c = cost_of(mix, typical, lean);
  const auto longest = full_step(typical);
  const double all_tight =
      share_for_work(m, std::min(from_ms(c.tightest_ms), longest)) / std::max(c.prefill_ms + c.decode_ms, 1e-9);
  const double own_tier = 1 / std::max(c.own_tier_ms, 1e-9);
  // Two tiers keep apart by themselves, as placement goes by what others lose; more have to share instances.
  const double separate = 1 / std::max(1.0, c.tiers - 1);
  division_yield y;
  y.together = instances * 1e3 * (all_tight + separate * (own_tier - all_tight));
  const double prefills = 1e3 * share_for_work(m, longest) / std::max(c.prefill_ms, 1e-9); // requests/s of one instance
  const double decodes = 1e3 * host_rate(typical, c) / std::max(c.outputs, 1e-9);
  const auto balanced = static_cast<std::uint32_t>(instances * prefills / (prefills + decodes));
  for (auto hosts : {balanced, balanced + 1}) {
    hosts = std::clamp(hosts, 1U, instances - 1);
    const double served = std::min((instances - hosts) * prefills, hosts * decodes);
    if (served <= y.apart) continue;
    y.apart = served;
    y.hosts = hosts;
  }
  return y;
}

std::uint32_t hosts_needed(std::span<const instance_load* const> ordered) {
  double sequences = 0, context = 0, blocks = 0;
  auto tightest = duration::max();
  for (const auto* at : ordered) {
    sequences += at->sequences();
    context += static_cast<double>(at->decode_context);
    blocks += static_cast<double>(at->reserved_blocks) + at->overshoot_blocks;
    tightest = std::min(tightest, at->tightest_tpot().value_or(duration::max()));
  }
  const auto& one = *ordered.front();
  const auto enough = [&](std::uint32_t hosts) {
    step_shape step;
    step.decode_seqs = static_cast<std::uint32_t>(sequences / hosts) + 1;
    step.decode_context = context / hosts;
    return blocks <= share_of_memory * hosts * one.is.kv_blocks &&
           step.decode_seqs <= share_of_sequences * one.is.max_sequences &&
           (tightest == duration::max() || to_ms(one.model().plan_ahead(step)) <= share_of_step * to_ms(tightest));
  };
  std::uint32_t least = 1, most = static_cast<std::uint32_t>(ordered.size()) - 1;
  while (least < most) {
    const auto middle = (least + most) / 2;
    if (enough(middle))
      most = middle;
    else
      least = middle + 1;
  }
  return least;
}

// --- who does what --------------------------------------------------------------------------------------------------

mixed_duties::mixed_duties(const options& opts) : gain_(divide_gain.of(opts)) {}

void mixed_duties::decide(const view& v, time_point now) {
  changed_.clear();
  next_review_ = now + estimates_apart;
  const bool one_more = std::exchange(wanted_, false);
  mix_.made(v.decoded - std::exchange(decoded_, v.decoded));
  if (v.fleet.mixed < 2 && !divided_) return;
  usable_.clear();
  for (const auto& [id, at] : v.instances) {
    if (at.is.role != instance_role::mixed) continue;
    if (at.closed() || at.weights_at)
      set(at, instance_role::mixed);
    else
      usable_.push_back(&at);
  }
  divided_ = divide(now);
  const bool often = divided_ || mix_.requests() < young_requests;
  const auto soon = v.instances.size() > v.opts->walk_all_up_to ? review_large_every : review_every;
  next_review_ = now + (often ? soon : estimates_apart);
  if (divided_) return assign(one_more);
  gathering_ = false;
  hosts_ = 0;
  for (const auto* at : usable_) set(*at, instance_role::mixed);
}

bool mixed_duties::divide(time_point now) {
  // A model that is a guess proves nothing.
  if (usable_.size() < 2 || std::any_of(usable_.begin(), usable_.end(), [](const auto* at) { return !at->measured; }))
    return false;
  if (mix_.requests() < enough_requests || !hand_over_in_time(now)) return false;
  if (now < next_mind_) return divided_;
  const bool now_divided = pays(*usable_.front(), static_cast<std::uint32_t>(usable_.size()));
  if (now_divided != divided_)
    next_mind_ = now + minds_apart;
  else if (mix_.requests() >= young_requests)
    next_mind_ = now + estimates_apart;
  return now_divided;
}

// What a host leaves of the target, token by token, is what the second token may come late by.
bool mixed_duties::hand_over_in_time(time_point now) const {
  duration sum{0};
  int asked = 0;
  for (const auto* at : usable_)
    if (at->handover_wait > duration{0} && now - at->handed_over_at < handovers_remembered)
      sum += at->handover_wait, ++asked;
  if (asked == 0) return true;
  const auto c = cost_of(mix_, *usable_.front());
  return to_ms(sum) / asked <= (1 - share_of_step) * c.tightest_ms * c.outputs;
}

bool mixed_duties::pays(const instance_load& typical, std::uint32_t instances) const {
  double gain = 0;
  for (const double lean : {-1, 0, 1}) {
    const auto y = estimate_division(mix_, typical, instances, lean);
    gain += y.apart / std::max(y.together, 1e-9) / 3;
  }
  return gain >= gain_ - (divided_ ? hysteresis : 0);
}

// Whoever has most of the decodes goes on with them: what another one still has ends there.
void mixed_duties::assign(bool one_more_host) {
  std::sort(usable_.begin(), usable_.end(), [](const auto* a, const auto* b) {
    return std::tuple(b->sequences(), a->pending_prefill, a->is.instance) <
           std::tuple(a->sequences(), b->pending_prefill, b->is.instance);
  });
  const auto count = static_cast<std::uint32_t>(usable_.size());
  const auto needed = hosts_needed(usable_);
  hosts_ = one_more_host ? std::min(std::max(needed, hosts_ + 1), count - 1) : needed;
  std::uint64_t gathered = 0, elsewhere = 0;
  for (std::uint32_t i = 0; i < count; ++i) (i < hosts_ ? gathered : elsewhere) += usable_[i]->sequences();
  gathering_ = static_cast<double>(elsewhere) > straggling * static_cast<double>(gathered);
  const auto host = gathering_ ? instance_role::mixed : instance_role::decode;
  for (std::uint32_t i = 0; i < count; ++i) set(*usable_[i], i < hosts_ ? host : instance_role::prefill);
}

void mixed_duties::set(const instance_load& at, instance_role duty) {
  if (at.slot >= duties_.size()) duties_.resize(at.slot + 1, instance_role::mixed);
  if (std::exchange(duties_[at.slot], duty) != duty) changed_.push_back(&at);
}

} // namespace hflex::scheduler
