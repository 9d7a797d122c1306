// The work that no policy can avoid. A step with P prefill tokens and D decodes takes (step_time.hpp)
//   c0 + c1*max(0, P+D-m0) + c2*Q + c3*D + c4*K + (c5*K or nothing) >= fixed + slope*(P+D) + c2*Q + c3*D + c4*K
// for slope = min(c1, c0/m0) and fixed = c0 - slope*m0: the line below the knee. As P+D <= max_batched_tokens and
// D <= max_sequences, its fixed part is at least
//   fixed * (s * (P+D)/max_batched_tokens + (1-s) * D/max_sequences)     for any s in [0, 1],
// so that every token can be charged its share, and a step takes no less than its tokens were charged. Q of a prompt is
// the same however it is cut. Each s gives a bound of its own; the least of them holds.
#include "tools/sim/upper_bound.hpp"
#include "tools/sim/fluid_bound.hpp"
#include "tools/sim/random.hpp"
#include <algorithm>
#include <cmath>
#include <optional>
#include <unordered_map>

namespace hflex::sim {

namespace {

constexpr double shares_by_tokens[] = {0.0, 1.0}; ///< what lies between was never the best
constexpr double grains_per_ttft = 200;           ///< windows are widened by less than a grain at each end
constexpr double most_grains = 100'000;           ///< over the whole workload

/// What a step takes at least, in ms, and at most in tokens.
struct step_line {
  explicit step_line(const device_profile& d)
      : c0(d.steps.c0_ms), c2(d.steps.c2_ms), c3(d.steps.c3_ms), c4(d.steps.c4_ms),
        slope(d.steps.m0 == 0 ? d.steps.c1_ms : std::min(d.steps.c1_ms, d.steps.c0_ms / d.steps.m0)),
        fixed(std::max(0.0, c0 - slope * d.steps.m0)), most_tokens(std::max(d.max_batched_tokens, d.max_sequences + 1)),
        most_decodes(std::min(d.max_sequences, d.max_batched_tokens)) {}
  double alone(double steps, double tokens) const { return std::max(c0 * steps, fixed * steps + slope * tokens); }

  double c0, c2, c3, c4, slope, fixed;
  double most_tokens, most_decodes;
};

/// One request's work and the least it takes when nobody else is there, in ms.
struct need {
  double prefill_tokens{};  ///< not cached
  double prefill_context{}; ///< what attention costs for them
  double prefill_alone{};
  double decode_steps{};
  double decode_context{};  ///< sequences' and context's part of all of them
  double longest_context{}; ///< that a decode step of it reads, in tokens
  double decode_alone{};
};

/// How many of each prompt's tokens another request brings before the first token is due.
class shared_prefixes {
public:
  explicit shared_prefixes(const workload& load) : load_(load) {
    for (std::size_t i = 0; i < load.requests.size(); ++i)
      each_block(load.requests[i], [&](std::uint64_t chain, std::uint32_t) {
        const auto [at, fresh] = holders_.try_emplace(chain, holder{i, std::nullopt}); // requests are by arrival
        if (!fresh && !at->second.second) at->second.second = i;
        return true;
      });
  }
  std::uint32_t cached(std::size_t i) const {
    const auto& r = load_.requests[i];
    const auto due = r.arrival + load_.classes[r.slo_class].targets.ttft;
    std::uint32_t tokens = 0;
    each_block(r, [&](std::uint64_t chain, std::uint32_t end) {
      const auto& h = holders_.at(chain);
      const bool other = h.first != i || (h.second && load_.requests[*h.second].arrival <= due);
      if (other) tokens = end;
      return other;
    });
    return tokens;
  }

private:
  struct holder {
    std::size_t first{};
    std::optional<std::size_t> second;
  };
  template <class Function>
  void each_block(const request& r, Function f) const {
    std::uint64_t chain = 0;
    const auto width = load_.prefix_block_tokens;
    for (std::uint32_t b = 0; b < r.prefix_blocks.size() && b * width < r.prompt_tokens; ++b) {
      chain = mix_bits(chain * 0x9e3779b97f4a7c15ULL + r.prefix_blocks[b] + 1);
      if (!f(chain, std::min(r.prompt_tokens, (b + 1) * width))) return;
    }
  }

  const workload& load_;
  std::unordered_map<std::uint64_t, holder> holders_;
};

need need_of(
    const step_line& line, const device_profile& d, std::uint32_t block_size, const request& r, std::uint32_t cached) {
  const auto kv = std::min<std::uint64_t>(d.max_context, d.kv_tokens / block_size * block_size);
  const double prompt = std::max(r.prompt_tokens, 1U);
  const double room = std::max(1.0, static_cast<double>(kv) - prompt); // an answer ends where the context is full
  const double begin = std::min<double>(cached, prompt - 1);           // the last token is always computed
  need n;
  n.prefill_tokens = prompt - begin;
  // A last token that is computed by itself costs what a decode costs, if that is less.
  const auto pairs = [](double tokens) { return tokens * tokens / 2; };
  n.prefill_context =
      line.c2 * (pairs(prompt - 1) - pairs(begin)) + std::min(line.c2 * (prompt - 0.5), line.c3 + line.c4 * prompt);
  n.prefill_alone = line.alone(std::ceil(n.prefill_tokens / line.most_tokens), n.prefill_tokens) + n.prefill_context;
  n.decode_steps = std::min<double>(std::max(r.output_tokens, 1U), room) - 1;
  // Step k reads prompt + k tokens.
  n.longest_context = prompt + n.decode_steps;
  n.decode_context = n.decode_steps * (line.c3 + line.c4 * (prompt + (n.decode_steps + 1) / 2));
  n.decode_alone = line.alone(n.decode_steps, n.decode_steps) + n.decode_context;
  return n;
}

/// How likely it is that steps of `expected` together take no more than `limit`. More than one step vary less in sum
/// than one does, and one that has less time than it is expected to take is then the likelier to make it.
double chance(double expected_ms, double limit_ms, double deviation) {
  if (expected_ms <= limit_ms) return 1;
  if (deviation <= 0 || limit_ms <= 0) return 0;
  const double variance = std::log1p(deviation * deviation);
  return 0.5 * std::erfc(-(std::log(limit_ms / expected_ms) + variance / 2) / std::sqrt(2 * variance));
}

/// How much faster than expected steps may be, by chance: four deviations; luck that is rarer is not counted.
double luck(double deviation) { return std::exp(4 * std::sqrt(std::log1p(deviation * deviation))); }

/// A request's jobs when a prefill token is charged `per_prefill` ms and a decode `per_decode`, context apart.
std::vector<fluid_job> jobs_of(const step_line& line, const need& n, double begin_ms, double due_ms, double end_ms,
    double per_prefill, double per_decode, double luck, std::uint32_t decode_pool) {
  // Work is charged over the whole of the steps that it is done in, so it takes as long as these at least.
  const auto rate = [luck](double charged, double takes) {
    return luck * (takes > 0 ? std::min(1.0, charged / takes) : 1.0);
  };
  const double chunk = std::min(n.prefill_tokens, line.most_tokens);
  const double pairs = line.c2 * (n.longest_context - n.decode_steps);
  std::vector<fluid_job> jobs;
  jobs.push_back({0, begin_ms / 1e3, due_ms / 1e3, (per_prefill * n.prefill_tokens + n.prefill_context) / 1e3,
      rate(per_prefill + pairs, line.alone(1, chunk) / chunk + pairs)});
  if (n.decode_steps > 0) {
    const double read = line.c3 + line.c4 * n.longest_context;
    // After the prefill; where that leaves no time, chance has to help, and when it would is not asked.
    const double first_ms = begin_ms + n.prefill_alone / luck;
    jobs.push_back({decode_pool, (first_ms < std::min(due_ms, end_ms) ? first_ms : begin_ms) / 1e3, end_ms / 1e3,
        (per_decode * n.decode_steps + n.decode_context) / 1e3, rate(per_decode + read, line.alone(1, 1) + read)});
  }
  return jobs;
}

struct candidate {
  need needs;
  double begin_ms{}, due_ms{}, end_ms{};
  double chance{}; ///< of attaining on an idle fleet
  double weight{};
};

std::vector<candidate> candidates_of(
    const cluster& hardware, const workload& load, bool prefix_cache, bool noisy, const step_line& line) {
  const shared_prefixes shared(load);
  const double deviation = noisy ? hardware.device.step_noise : 0;
  const double message = to_ms(hardware.control_latency);
  std::vector<candidate> out;
  out.reserve(load.requests.size());
  for (std::size_t i = 0; i < load.requests.size(); ++i) {
    const auto& r = load.requests[i];
    const auto& slo = load.classes[r.slo_class].targets;
    candidate c;
    c.needs = need_of(line, hardware.device, hardware.block_size, r, prefix_cache ? shared.cached(i) : 0);
    // One message brings the request to its instance, one brings each token back.
    // A mean is cut to whole nanoseconds before it is judged.
    const double answer = to_ms(slo.tpot + duration{1}) * c.needs.decode_steps;
    c.begin_ms = to_ms(r.arrival) + message;
    c.due_ms = to_ms(r.arrival + slo.ttft) - message;
    c.end_ms = c.due_ms + answer;
    if (slo.e2e) c.end_ms = std::min(c.end_ms, to_ms(r.arrival + *slo.e2e) - message);
    c.due_ms = std::min(c.due_ms, c.end_ms);
    c.weight = slo.weight;
    c.chance = std::min({chance(c.needs.prefill_alone, c.due_ms - c.begin_ms, deviation),
        c.needs.decode_steps > 0 ? chance(c.needs.decode_alone, answer, deviation) : 1.0,
        chance(c.needs.prefill_alone + c.needs.decode_alone, c.end_ms - c.begin_ms, deviation)});
    out.push_back(c);
  }
  return out;
}

} // namespace

attainment_bound upper_bound(
    const cluster& hardware, const workload& load, std::span<const fleet_group> fleet, bool prefix_cache, bool noisy) {
  double instances = 0, prefills = 0, decodes = 0;
  for (const auto& g : fleet) {
    instances += g.count;
    prefills += g.role == instance_role::prefill ? g.count : 0;
    decodes += g.role == instance_role::decode ? g.count : 0;
  }
  const bool apart = prefills + decodes == instances;
  const step_line line(hardware.device);
  const auto candidates = candidates_of(hardware, load, prefix_cache, noisy, line);
  attainment_bound best{0, 0, 0};
  double weights = 0, longest_ms = 0, tightest_ms = 1e12;
  for (const auto& c : candidates) {
    best.alone += c.chance;
    best.attainment += 1;
    weights += c.weight;
    longest_ms = std::max(longest_ms, c.end_ms);
    tightest_ms = std::min(tightest_ms, std::max(c.due_ms - c.begin_ms, 0.0));
  }
  best.weighted_attainment = weights;
  const bool same_weights = std::all_of(
      candidates.begin(), candidates.end(), [&](const candidate& c) { return c.weight == candidates.front().weight; });
  const double grain_s = std::max(tightest_ms / grains_per_ttft, longest_ms / most_grains) / 1e3;

  const double lucky = noisy ? luck(hardware.device.step_noise) : 1;
  const auto pools = apart ? std::vector{prefills, decodes} : std::vector{instances};
  const auto consider = [&](double per_prefill, double per_decode) {
    for (bool weighted : {false, true}) {
      if (weighted && same_weights) continue;
      std::vector<fluid_request> requests;
      for (const auto& c : candidates)
        if (c.chance > 0)
          requests.push_back({c.chance * (weighted ? c.weight : 1),
              jobs_of(line, c.needs, c.begin_ms, c.due_ms, c.end_ms, per_prefill, per_decode, lucky, apart ? 1 : 0)});
      auto& bound = weighted ? best.weighted_attainment : best.attainment;
      bound = std::min(bound, fluid_bound(requests, pools, grain_s));
    }
  };
  const double by_tokens = line.fixed / line.most_tokens, by_decodes = line.fixed / line.most_decodes;
  if (apart)
    consider(line.slope + by_tokens, line.slope + by_decodes);
  else
    for (double s : shares_by_tokens)
      consider(line.slope + s * by_tokens, line.slope + s * by_tokens + (1 - s) * by_decodes);

  const auto all = static_cast<double>(candidates.size());
  if (same_weights) best.weighted_attainment = all > 0 ? best.attainment * weights / all : 0;
  best.attainment = all > 0 ? best.attainment / all : 0;
  best.alone = all > 0 ? best.alone / all : 0;
  best.weighted_attainment = weights > 0 ? best.weighted_attainment / weights : 0;
  return best;
}

} // namespace hflex::sim
