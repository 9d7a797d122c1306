// aladdin: C. Nie, R. Fonseca, Z. Liu, "Aladdin: Joint Placement and Scaling for SLO-Aware LLM Serving" (arXiv
// 2405.06856). A baseline.
//
// What the paper does: models the time of prefills and of decode iterations, and places each request by best-fit
// multi-dimensional bin packing: instances are bins, and one will do when (a) the first token comes within S1, (b) the
// decode iteration of the grown batch, at contexts of input + gamma * output, stays within the average token generation
// time S2, (c) the prefills do not push a running request over it: their time fits into what the one worst off has
// saved, (d) the KV cache holds input + gamma * output of all. Of those that will do, the fullest. When none will, an
// instance is added. Wrong predictions of output lengths are made good in later placements; nothing ever moves.
//
// Here: (a) and (c) are for chunked prefill in a fixed budget, the engine's default of today: a stall is what its mixed
// steps take beyond S2. (d) reserves the blocks. Adding instances is the scaler's; in a full fleet a request waits, in
// order of arrival, until it fits, and is served for its own sake (place_for_lost) when its targets are lost. P/D, the
// paper's split-phase mode: (a) on the prefill instance, (b) and (d) on the decode instance, both packed best-fit; a
// request is bound when its prefill is about to start, because the paper packs decodes after the prefill.
//
// Left out: choosing the number of GPUs of an instance (all are alike here). The re-balancing of prediction errors
// comes with the accounts: what was placed before counts with what it really holds.
#include "actors/scheduler/policies/placing.hpp"
#include <array>

namespace hflex::scheduler {

namespace {

class aladdin final : public policy {
public:
  static constexpr knob gamma_knob{
      "aladdin.gamma", 1.0, 0, 1, "share of the predicted output that a request is packed with"};
  static constexpr knob theta{
      "aladdin.theta", 0.95, 0.5, 1.5, "share of the targets that the predicted times may take"};
  static constexpr knob window{
      "aladdin.window", 1.5, 1, 1e6, "P/D: prefill that may be pending at an instance, in full steps"};
  static constexpr std::array knobs{gamma_knob, theta, window};

  explicit aladdin(const options& opts)
      : gamma_(gamma_knob.of(opts)), theta_(theta.of(opts)), window_(window.of(opts)), lost_after_(opts.lost_after) {}

  void plan(const view& v, time_point now, decisions& d) override {
    std::vector<request_key> lost;
    bool others_wait = false;
    int failed = 0;
    std::uint32_t looked_at = 0;
    for (auto it = v.first_come.begin(); it != v.first_come.end() && failed < patience;) {
      const auto key = (it++)->second;
      if (++looked_at > v.opts->plan_depth) break;
      const auto& w = v.waiting.at(key);
      if (is_lost(v, w.request, now)) {
        lost.push_back(key);
        continue;
      }
      const auto best = best_place(v, w.request, [&](const place& at) { return fullness(v, at, w, now); });
      failed = best ? 0 : failed + 1;
      others_wait = others_wait || !best;
      if (best) d.dispatch(key, best->with(blocks_of(*best->decode, w), false, "best fit: the fullest that will do"));
    }
    for (auto key : lost) {
      const auto& w = v.waiting.at(key);
      const auto best = place_for_lost(v, w, now, others_wait);
      if (!best) return;
      d.dispatch(key, best->with(blocks_of(*best->decode, w), true, "its targets are lost"));
    }
  }

private:
  double output_of(const waiting_request& w) const { return gamma_ * output_to_come(w); }
  std::uint32_t blocks_of(const instance_load& d, const waiting_request& w) const {
    return blocks_with_output(d, w.request, output_of(w));
  }
  duration share(duration target) const {
    return duration{static_cast<std::int64_t>(theta_ * static_cast<double>(target.count()))};
  }

  // Smallest for the fullest bin; nothing when it does not fit.
  std::optional<double> fullness(const view& v, const place& at, const waiting_request& w, time_point now) const {
    const auto& p = *at.prefill;
    const auto& d = *at.decode;
    const auto& r = w.request;
    const auto blocks = blocks_of(d, w);
    if (!has_space(at, r, blocks)) return std::nullopt;
    if (!at.together() && !starts_soon(v, p, r.tokens, p.is.max_batched_tokens, window_, now)) return std::nullopt;
    const auto prefill = fixed_prefill_time(p, r.tokens);
    if (now + prefill > r.arrival + (r.produced == 0 ? share(r.slo.ttft) : due_of(r) - r.arrival)) return std::nullopt;
    const auto tightest = d.tightest_tpot();
    const auto limit = share(std::min(r.slo.tpot, tightest.value_or(duration::max())));
    const auto step = decode_step_with(d, r.tokens + static_cast<std::uint32_t>(output_of(w)));
    if (step > limit) return std::nullopt;
    if (at.together() && tightest && stall(p, r.tokens) > saved(p, *tightest)) return std::nullopt;
    // The fuller of its dimensions says how full a bin is.
    const double memory = static_cast<double>(d.is.kv_blocks - d.free_blocks() + blocks) / d.is.kv_blocks;
    const double time = to_ms(step) / std::max(to_ms(limit), 1e-9);
    return -(std::max(memory, time) + (at.together() ? 0.0 : to_ms(prefill) / std::max(to_ms(r.slo.ttft), 1e-9)));
  }

  // What the pending prefill and `tokens` more make the residents wait beyond their tightest target.
  static duration stall(const instance_load& at, std::uint32_t tokens) {
    const auto work = at.pending_prefill + tokens;
    const auto steps = static_cast<std::int64_t>((work + at.is.max_batched_tokens - 1) / at.is.max_batched_tokens);
    const auto over = fixed_step(at, work) - *at.tightest_tpot();
    return std::max(over, duration{0}) * steps;
  }
  // What the resident worst off can wait for its next token beyond one target.
  duration saved(const instance_load& at, duration tightest) const {
    const auto slack = at.slack(lost_after_);
    return slack ? std::max(*slack - tightest, duration{0}) : duration::max();
  }

  double gamma_;
  double theta_;
  double window_;
  double lost_after_;
};

} // namespace

std::span<const knob> aladdin_knobs() { return aladdin::knobs; }
std::unique_ptr<policy> make_aladdin(const options& opts) { return std::make_unique<aladdin>(opts); }

} // namespace hflex::scheduler
