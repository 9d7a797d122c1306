// A scheduler core on a desk: events in by short calls, effects out as lists. For sentence tests of policies.
#pragma once
#include "actors/scheduler/scheduler.hpp"
#include "actors/scheduler/view.hpp"
#include "tests/support/catch.hpp"
#include <algorithm>
#include <map>

namespace hflex::test {

/// 1 ms a step, 0.1 ms a prefill token, 1 ms a decode sequence: sums that can be done in the head.
inline constexpr step_time_model simple_model{
    .c0_ms = 1.0, .c1_ms = 0.1, .m0 = 0, .c2_ms = 0, .c3_ms = 0.9, .c4_ms = 0};

struct scheduler_desk {
  explicit scheduler_desk(scheduler::options opts = {}) : core(make(opts)) {}

  static scheduler::core make(const scheduler::options& opts) {
    auto made = scheduler::core::make(opts);
    REQUIRE(made);
    return std::move(*made);
  }

  template <class Event>
  std::vector<scheduler::effect> on(const Event& e) {
    std::vector<scheduler::effect> out;
    core.on(e, now, out);
    for (const auto& x : out) {
      if (auto* d = std::get_if<scheduler::dispatch>(&x)) dispatches.push_back(*d);
      if (auto* s = std::get_if<scheduler::shed>(&x)) sheds.push_back(*s);
      if (auto* u = std::get_if<scheduler::used_for>(&x)) duties[u->instance.value] = u->duty;
      if (auto* w = std::get_if<scheduler::wake_at>(&x)) wake = std::min(wake.value_or(w->when), w->when);
    }
    return out;
  }

  void instance(std::uint32_t id, instance_role role = instance_role::mixed, std::uint32_t kv_blocks = 10000,
      std::uint32_t max_batched_tokens = 1000, std::uint32_t node = 1) {
    on(scheduler::instance_ready{{id}, {node}, role, kv_blocks, 16, max_batched_tokens, 64, simple_model});
  }

  static scheduler::request_arrived request(
      std::uint64_t id, std::uint32_t tokens, double ttft_ms, double tpot_ms, std::uint32_t max_output = 100) {
    scheduler::request_arrived r;
    r.key = {{id}, 1};
    r.tokens = r.prompt_tokens = tokens;
    r.max_output_tokens = max_output;
    r.slo.ttft = from_ms(ttft_ms);
    r.slo.tpot = from_ms(tpot_ms);
    r.slo_class = "test";
    return r;
  }

  void arrive(scheduler::request_arrived r) {
    r.arrival = now;
    on(r);
  }
  void arrive(std::uint64_t id, std::uint32_t tokens, double ttft_ms, double tpot_ms, std::uint32_t max_output = 100) {
    arrive(request(id, tokens, ttft_ms, tpot_ms, max_output));
  }
  /// A step of that many prefill tokens is over; its time is what the model says.
  void step(std::uint32_t id, std::uint32_t prefill_tokens) {
    const auto& at = core.state().instances.at({id});
    step_shape shape;
    if (prefill_tokens > 0) shape.add_prefill(prefill_tokens, 0);
    shape.decode_seqs = at.decoding;
    shape.decode_context = static_cast<double>(at.decode_context);
    const auto took = simple_model.predict(shape);
    now += took;
    on(scheduler::step_reported{{id}, shape, took, at.decoding, 0, at.is.kv_blocks - at.reserved_blocks, 1, 0});
  }
  void finish_prefill(std::uint64_t id, std::uint32_t attempt = 1) { on(scheduler::prefill_finished{{{id}, attempt}}); }
  void end(std::uint64_t id, std::optional<std::uint32_t> output = {}) {
    on(scheduler::request_ended{{{id}, 1}, output});
  }
  /// Ends every request whose prefill was reported as done.
  void end_prefilled() {
    std::vector<request_key> done;
    for (const auto& [key, p] : core.state().placed)
      if (p.prefill_left == 0) done.push_back(key);
    for (auto key : done) on(scheduler::request_ended{key, {}});
  }
  /// Makes `id` a resident of an instance: dispatched, prefilled, decoding.
  void settle(std::uint64_t id) {
    REQUIRE(was_dispatched(id));
    finish_prefill(id);
  }

  bool was_dispatched(std::uint64_t id) const { return place_of(id) != 0; }
  /// The prefill instance it was last sent to; 0 for none.
  std::uint32_t place_of(std::uint64_t id) const {
    std::uint32_t at = 0;
    for (const auto& d : dispatches)
      if (d.key.id.value == id) at = d.prefill.value;
    return at;
  }
  std::vector<std::uint64_t> order() const {
    std::vector<std::uint64_t> ids;
    for (const auto& d : dispatches) ids.push_back(d.key.id.value);
    return ids;
  }
  std::string shed_reason(std::uint64_t id) const {
    for (const auto& s : sheds)
      if (s.key.id.value == id) return s.reason;
    return {};
  }

  time_point now{std::chrono::seconds{100}};
  scheduler::core core;
  std::vector<scheduler::dispatch> dispatches;
  std::map<std::uint32_t, instance_role> duties; ///< of mixed instances, as told last
  std::vector<scheduler::shed> sheds;
  std::optional<time_point> wake; ///< earliest asked for so far
};

} // namespace hflex::test
