// scorpio: Y. Tang, T. Lan, X. Huang, H. Lu, W. Chen, "Scorpio: Serving the Right Requests at the Right Time for
// Heterogeneous SLOs in LLM Inference" (arXiv 2505.23022). A baseline.
//
// What the paper does, for one engine: a TTFT guard (waiting requests in order of least deadline first; one whose TTFT
// cannot be attained any more is rejected) and a TPOT guard. Its share of the iterations is a request's tightest / own
// TPOT target; their sum is the virtual batch size; a request is admitted when the predicted iteration time at the
// grown virtual batch size and its context stays within the tightest target. Credit-based batching: with every
// iteration a request earns its share and decodes when it has a credit of 1.
//
// Here: both guards work on the scheduler's queue; a request is bound to an instance when that has room for its prefill
// within about one step, so the order is that of the whole queue. The credits are the instances' step policy
// (`credits`), whose mixed steps stay within the tightest target too. Of the instances that admit it, the one where the
// first token comes soonest, then the smallest virtual batch. P/D: TTFT guard on the prefill, TPOT guard on the decode
// instance. Predicted output lengths reserve KV memory, as the paper's predictor does.
//
// Left out: nothing known. `reject` = 0 serves lost requests late, behind the others, in place of turning them away.
#include "actors/scheduler/policies/placing.hpp"
#include <array>

namespace hflex::scheduler {

namespace {

constexpr knob reject{"scorpio.reject", 1, 0, 1, "1: turn requests away whose TTFT is lost; 0: serve them late"};
constexpr std::uint32_t assumed_context = 512; // where a chunk starts

class scorpio final : public policy {
public:
  static constexpr knob margin{
      "scorpio.margin", 0.95, 0.3, 1.5, "share of the tightest TPOT target that a step may take"};
  static constexpr knob window{
      "scorpio.window", 0.1, 0.1, 16, "prefill that may be pending at an instance, in full steps"};
  static constexpr knob growth{
      "scorpio.growth", 1.0, 0, 1, "share of the predicted output that KV memory is reserved for"};
  static constexpr std::array knobs{reject, margin, window, growth};

  explicit scorpio(const options& opts)
      : reject_(reject.of(opts) > 0.5), margin_(margin.of(opts)), window_(window.of(opts)), growth_(growth.of(opts)) {}

  void queued(const view&, const waiting_request& w) override { order_.add(w); }
  void unqueued(const view&, const waiting_request& w) override { order_.remove(w); }

  void plan(const view& v, time_point now, decisions& d) override {
    std::vector<request_key> lost;
    bool others_wait = false;
    int failed = 0;
    std::uint32_t looked_at = 0;
    for (auto it = order_.slots.begin(); it != order_.slots.end() && failed < patience;) {
      const auto key = std::get<2>(*it++);
      if (++looked_at > v.opts->plan_depth) break;
      const auto& w = v.waiting.at(key);
      if (is_lost(v, w.request, now)) {
        if (reject_ && w.request.produced == 0)
          d.shed(key, fmt::format("TTFT of {:.0f} ms cannot be attained any more", to_ms(w.request.slo.ttft)));
        else
          lost.push_back(key);
        continue;
      }
      const auto best = best_place(v, w.request, [&](const place& at) { return admit(at, w); });
      failed = best ? 0 : failed + 1;
      others_wait = others_wait || !best;
      if (best) d.dispatch(key, best->with(blocks_of(*best->decode, w), false, "least deadline first"));
    }
    for (auto key : lost) {
      const auto& w = v.waiting.at(key);
      const auto best = place_for_lost(v, w, now, others_wait);
      if (!best) return;
      d.dispatch(key, best->with(blocks_of(*best->decode, w), true, "its targets are lost"));
    }
  }

private:
  std::uint32_t blocks_of(const instance_load& d, const waiting_request& w) const {
    return blocks_with_output(d, w.request, growth_ * output_to_come(w));
  }

  using score = std::tuple<duration, double>;
  std::optional<score> admit(const place& at, const waiting_request& w) const {
    const auto& p = *at.prefill;
    const auto& d = *at.decode;
    if (!has_space(at, w.request, blocks_of(d, w))) return std::nullopt;
    const auto tightest = std::min(w.request.slo.tpot, d.tightest_tpot().value_or(duration::max()));
    const auto batch = virtual_batch(d, tightest) + ratio(tightest, w.request.slo.tpot);
    const double context = static_cast<double>(d.decode_context + w.request.tokens) / (d.sequences() + 1.0);
    if (to_ms(d.model().plan_ahead(shape_of(batch, context))) > margin_ * to_ms(tightest)) return std::nullopt;
    const auto first = first_token(p, w.request.tokens);
    if (!first) return std::nullopt;
    return score{*first, batch};
  }

  // The time of the pending prefill and the request's, in steps that stay within the tightest target; nothing when too
  // much is pending to bind one more.
  std::optional<duration> first_token(const instance_load& p, std::uint32_t tokens) const {
    const auto tightest = p.tightest_tpot();
    auto shape = step_shape{};
    if (tightest && p.sequences() > 0)
      shape = shape_of(virtual_batch(p, *tightest), static_cast<double>(p.decode_context) / p.sequences());
    const auto cap = p.is.max_batched_tokens - std::min(p.is.max_batched_tokens - 1, shape.decode_seqs);
    const auto step = tightest ? max_prefill_tokens(p.model(), *tightest, shape, assumed_context, cap) : cap;
    if (p.pending_prefill > 0 && static_cast<double>(p.pending_prefill) > window_ * step) return std::nullopt;
    const auto work = p.pending_prefill + tokens;
    const auto each = std::min<std::uint64_t>(work, std::max(step, 1U));
    shape.add_prefill(static_cast<std::uint32_t>(each), assumed_context);
    return p.model().plan_ahead(shape) * static_cast<std::int64_t>((work + each - 1) / each);
  }

  // A step of the virtual batch at the mean context of the real one.
  static step_shape shape_of(double batch, double context) {
    step_shape shape;
    shape.decode_seqs = static_cast<std::uint32_t>(batch + 0.999);
    shape.decode_context = context * batch;
    return shape;
  }

  static double ratio(duration tightest, duration own) {
    return static_cast<double>(tightest.count()) / static_cast<double>(std::max(own, duration{1}).count());
  }
  static double virtual_batch(const instance_load& d, duration tightest) {
    double sum = 0, bound = 0;
    for (const auto& [tpot, tier] : d.tiers) {
      sum += tier.members * ratio(tightest, tpot);
      bound += tier.members;
    }
    return sum + std::max(0.0, d.sequences() - bound); // those whose targets are lost share as the tightest do
  }

  bool reject_;
  double margin_;
  double window_;
  double growth_;
  due_order order_;
};

} // namespace

std::span<const knob> scorpio_knobs() { return scorpio::knobs; }
std::unique_ptr<policy> make_scorpio(const options& opts) { return std::make_unique<scorpio>(opts); }

} // namespace hflex::scheduler
