// A fleet of simulated instances in virtual time under the real scheduler core: for tests that compare policies. An
// instance runs steps whose time a step_time_model gives; its batcher is a plain one, which knows fixed_budget and
// takes every other step policy for slack_budget. No clock, no threads; the same inputs give the same records.
// (tools/sim is the full simulator; this one fits a test.)
#pragma once
#include "actors/common/metrics.hpp"
#include "actors/scheduler/policy.hpp"
#include "tests/support/catch.hpp"
#include <algorithm>
#include <deque>
#include <functional>
#include <map>

namespace hflex::test {

/// A request as the trace has it: how long its answer will be is known to the instance only.
struct trace_request {
  scheduler::request_arrived request;
  std::uint32_t output_tokens{1};
};

class virtual_fleet {
public:
  virtual_fleet(const scheduler::options& opts, const step_time_model& truth)
      : core_(make(opts)), steps_(scheduler::find_policy(opts.policy)->steps), truth_(truth) {}

  void add_instance(scheduler::instance_ready ready) {
    instances_.emplace(ready.instance, simulated{ready, {}, {}, {}, {}, ready.kv_blocks, false});
    send(ready);
  }

  /// Runs the trace (by arrival) until everything is answered; the records are in the order of the trace.
  std::vector<request_record> run(const std::vector<trace_request>& trace) {
    for (const auto& t : trace) {
      sequences_.emplace(t.request.key, sequence{t, {}, 0, {}, 0, {}});
      auto r = t.request;
      r.known_output = t.output_tokens; // for the oracle
      at(r.arrival, [this, r] { send(r); });
    }
    for (std::uint64_t n = 0; !events_.empty(); ++n) {
      REQUIRE(n < 20'000'000); // a policy that wakes up for ever
      now_ = events_.begin()->first.first;
      const auto work = std::move(events_.begin()->second);
      events_.erase(events_.begin());
      work();
    }
    std::vector<request_record> records;
    for (const auto& t : trace) records.push_back(record_of(sequences_.at(t.request.key)));
    return records;
  }

private:
  struct sequence {
    trace_request spec;
    std::vector<time_point> tokens;
    std::uint32_t prefilled{};
    std::optional<outcome> result;
    std::uint32_t blocks{}; ///< held where it is now
    instance_id decode;
  };
  struct simulated {
    scheduler::instance_ready is;
    std::deque<request_key> waiting; ///< for blocks, then for prefill
    std::vector<request_key> decoding;
    std::vector<std::pair<request_key, std::uint32_t>> chunks; ///< of the running step
    std::vector<request_key> decodes;                          ///< of the running step
    std::uint32_t free_blocks{};
    bool busy{false};
  };

  static scheduler::core make(const scheduler::options& opts) {
    auto made = scheduler::core::make(opts);
    REQUIRE(made);
    return std::move(*made);
  }

  template <class Work>
  void at(time_point when, Work work) {
    events_.emplace(std::pair{when, next_event_++}, std::move(work));
  }

  // --- the scheduler's side -----------------------------------------------------------------------------------------

  template <class Event>
  void send(const Event& e) {
    std::vector<scheduler::effect> out;
    core_.on(e, now_, out);
    for (const auto& x : out) std::visit([this](const auto& y) { this->perform(y); }, x);
  }
  void perform(const scheduler::dispatch& d) {
    sequences_.at(d.key).decode = d.decode;
    // A message takes its time: an instance that is fed at the last moment runs dry.
    at(now_ + std::chrono::microseconds{300}, [this, d] {
      auto& i = instances_.at(d.prefill);
      i.waiting.push_back(d.key);
      start_step(i);
    });
  }
  void perform(const scheduler::shed& s) { sequences_.at(s.key).result = outcome::shed; }
  // Moves come to nothing here: tools/sim has instances that can.
  void perform(const scheduler::migrate& m) {
    at(now_, [this, m] { send(scheduler::moved{m.key, m.from}); });
  }
  static void perform(const scheduler::used_for&) {}
  void perform(const scheduler::wake_at& w) {
    at(w.when, [this] { send(scheduler::tick{}); });
  }

  // --- an instance --------------------------------------------------------------------------------------------------

  void start_step(simulated& i) {
    if (i.busy) return;
    i.decodes = i.decoding;
    step_shape shape;
    for (auto key : i.decodes) shape.add_decode(context_of(sequences_.at(key)));
    const auto decode_only = shape;
    auto budget = token_budget(i, decode_only);
    i.chunks.clear();
    for (auto key : prefill_order(i)) {
      auto& s = sequences_.at(key);
      if (budget == 0 || (s.blocks == 0 && !take_blocks(i, s))) break;
      const auto n = std::min(budget, s.spec.request.tokens - s.prefilled);
      shape.add_prefill(n, s.prefilled);
      i.chunks.emplace_back(key, n);
      budget -= n;
    }
    if (shape == step_shape{}) return;
    i.busy = true;
    const auto took = truth_.predict(shape);
    at(now_ + took, [this, &i, shape, took] { finish_step(i, shape, took); });
  }

  std::uint32_t token_budget(const simulated& i, const step_shape& decodes) const {
    const auto cap = i.is.max_batched_tokens - std::min(i.is.max_batched_tokens, decodes.decode_seqs);
    if (steps_ == step_policy::fixed_budget) return cap;
    std::optional<duration> tau;
    for (auto key : i.decodes) {
      const auto& s = sequences_.at(key);
      const auto& slo = s.spec.request.slo;
      const auto due = s.tokens.front() + slo.tpot * static_cast<std::int64_t>(s.tokens.size());
      const bool lost = s.tokens.front() > s.spec.request.arrival + slo.ttft || due < now_ - 8 * slo.tpot;
      if (!lost) tau = std::min(tau.value_or(duration::max()), due - now_);
    }
    if (!tau) return cap;
    // A step that ends on the deadline to the nanosecond is a miss by rounding: leave a little.
    const auto aim = *tau - *tau / 50;
    return max_prefill_tokens(truth_, aim, decodes, 512, cap);
  }

  std::vector<request_key> prefill_order(const simulated& i) const {
    std::vector<request_key> order(i.waiting.begin(), i.waiting.end());
    if (steps_ != step_policy::fixed_budget)
      std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return due(a) < due(b); });
    return order;
  }
  time_point due(request_key key) const {
    const auto& r = sequences_.at(key).spec.request;
    const auto first = token_deadline(r.arrival, r.slo, 0);
    return first < now_ ? first + std::chrono::hours{1} : first; // late ones after those with a chance
  }

  static std::uint32_t blocks_of(const simulated& i, const sequence& s) {
    return (s.spec.request.tokens + s.spec.output_tokens + i.is.block_size - 1) / i.is.block_size;
  }
  bool take_blocks(simulated& i, sequence& s) {
    const auto wanted = blocks_of(i, s);
    if (wanted > i.free_blocks || i.decoding.size() >= i.is.max_sequences) return false;
    i.free_blocks -= wanted;
    s.blocks = wanted;
    return true;
  }

  void finish_step(simulated& i, const step_shape& shape, duration took) {
    i.busy = false;
    std::vector<scheduler::prefill_finished> prefilled;
    for (auto [key, n] : i.chunks) {
      auto& s = sequences_.at(key);
      s.prefilled += n;
      if (s.prefilled < s.spec.request.tokens) continue;
      i.waiting.erase(std::find(i.waiting.begin(), i.waiting.end(), key));
      s.tokens.push_back(now_);
      prefilled.push_back({key});
      if (s.tokens.size() < s.spec.output_tokens) hand_over(i, key);
    }
    for (auto key : i.decodes) sequences_.at(key).tokens.push_back(now_);
    send(scheduler::step_reported{i.is.instance, shape, took, static_cast<std::uint32_t>(i.decoding.size()),
        static_cast<std::uint32_t>(i.waiting.size()), i.free_blocks, 1, 0});
    for (const auto& e : prefilled) send(e);
    for (auto [key, n] : i.chunks) end_if_done(i, key);
    for (auto key : i.decodes) end_if_done(i, key);
    start_step(i);
  }

  void hand_over(simulated& from, request_key key) {
    auto& s = sequences_.at(key);
    if (s.decode == from.is.instance) {
      from.decoding.push_back(key);
      return;
    }
    at(now_ + from_ms(2), [this, &from, key] {
      auto& moved = sequences_.at(key);
      from.free_blocks += moved.blocks;
      receive(instances_.at(moved.decode), key);
      start_step(from);
    });
  }
  void receive(simulated& to, request_key key) {
    if (take_blocks(to, sequences_.at(key))) {
      to.decoding.push_back(key);
      start_step(to);
    } else
      at(now_ + from_ms(5), [this, &to, key] { receive(to, key); });
  }

  void end_if_done(simulated& i, request_key key) {
    auto& s = sequences_.at(key);
    if (s.result || s.tokens.size() < s.spec.output_tokens) return;
    s.result = outcome::finished;
    i.free_blocks += s.blocks;
    std::erase(i.decoding, key);
    send(scheduler::request_ended{key, s.spec.output_tokens});
  }

  static std::uint32_t context_of(const sequence& s) {
    return s.spec.request.tokens + static_cast<std::uint32_t>(s.tokens.size());
  }
  static request_record record_of(const sequence& s) {
    request_record r{s.spec.request.slo_class, s.spec.request.slo, s.result, {}, s.tokens};
    r.timing.arrival = s.spec.request.arrival;
    r.timing.output_tokens = static_cast<std::uint32_t>(s.tokens.size());
    if (!s.tokens.empty()) r.timing.first_token = s.tokens.front();
    if (s.result == outcome::finished) r.timing.last_token = s.tokens.back();
    return r;
  }

  scheduler::core core_;
  step_policy steps_;
  step_time_model truth_;
  time_point now_{};
  std::map<std::pair<time_point, std::uint64_t>, std::function<void()>> events_;
  std::uint64_t next_event_{};
  std::map<instance_id, simulated> instances_; ///< std::map: the steps under way point into it
  std::map<request_key, sequence> sequences_;
};

} // namespace hflex::test
