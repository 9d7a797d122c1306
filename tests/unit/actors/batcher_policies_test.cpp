// The step policies that share steps out between decodes and order prefills by more than their deadline.
#include "tests/unit/actors/batcher_support.hpp"

namespace hflex::batcher_policies_test {

using namespace hflex::instance;
using namespace hflex::instance::testing;
using namespace std::chrono_literals;

namespace {

request_key key(std::uint64_t id) { return {request_id{id}, 1}; }

/// 1 ms, and 1 ms for every token.
options policy_options(step_policy policy) {
  auto o = small_options();
  o.policy = policy;
  o.safety = 0.0;
  o.min_chunk = 1;
  o.predict = [](const step_shape& s) { return 1ms + 1ms * (s.prefill_tokens + s.decode_seqs); };
  return o;
}

sequence_spec timed(const bench& b, std::uint64_t id, std::uint32_t prompt, duration ttft, duration tpot) {
  auto s = make_spec(id, prompt, 50);
  s.arrival = b.now;
  s.slo.ttft = ttft;
  s.slo.tpot = tpot;
  return s;
}

/// In how many of the next steps each takes part.
std::vector<int> steps_of(bench& b, int steps, std::vector<std::uint64_t> ids) {
  std::vector<int> counts(ids.size());
  for (int i = 0; i < steps; ++i) {
    for (std::size_t k = 0; k < ids.size(); ++k) counts[k] += b.entry(key(ids[k])) != nullptr;
    b.finish();
  }
  return counts;
}

} // namespace

TEST_CASE("under credits a sequence decodes in its share of the steps") {
  bench b(policy_options(step_policy::credits));
  b.send(add{timed(b, 1, 4, 1s, 10ms), {}});
  b.send(add{timed(b, 2, 4, 1s, 20ms), {}});
  b.send(add{timed(b, 3, 4, 1s, 50ms), {}});
  b.finish();
  b.finish(); // all decode by now
  CHECK(steps_of(b, 20, {1, 2, 3}) == std::vector<int>{20, 10, 4});
}

TEST_CASE("under credits who is alone decodes in every step, whatever its target") {
  bench b(policy_options(step_policy::credits));
  b.send(add{timed(b, 1, 4, 1s, 500ms), {}});
  b.finish();
  CHECK(steps_of(b, 10, {1}) == std::vector<int>{10});
}

TEST_CASE("under credits a step with prefill stays within the tightest target") {
  bench b(policy_options(step_policy::credits));
  b.send(add{timed(b, 1, 4, 1s, 30ms), {}});
  b.finish();
  b.send(add{timed(b, 2, 60, 1s, 1s), {}});
  b.finish();
  CHECK(b.plan().shape.prefill_tokens == 28); // 1 + 1 + 28
}

TEST_CASE("under token allocation a decode that is not due leaves the step to prefill") {
  bench b(policy_options(step_policy::token_allocation));
  b.send(add{timed(b, 1, 4, 1s, 10ms), {}});
  b.send(add{timed(b, 2, 4, 1s, 500ms), {}});
  b.finish();
  b.finish();
  CHECK(b.entry(key(2))); // nobody waits for prefill
  b.send(add{timed(b, 3, 60, 1s, 1s), {}});
  b.now += 15ms; // the next token of 1 is due in 15 ms
  b.finish();
  CHECK(b.entry(key(1)));
  CHECK_FALSE(b.entry(key(2)));
  CHECK(b.plan().shape.prefill_tokens == 8); // 1 + 1 + 8 = 10
}

TEST_CASE("under token allocation decodes go on while prefill waits for blocks") {
  auto o = policy_options(step_policy::token_allocation);
  o.kv_blocks = 8;
  bench b(o);
  b.send(add{timed(b, 1, 12, 1s, 500ms), {}});
  b.finish();
  b.send(add{timed(b, 2, 28, 1s, 1s), {}});
  b.finish();
  CHECK(b.report().waiting == 1);
  CHECK(b.entry(key(1)));
}

TEST_CASE("a request that is late for certain goes behind those that are not") {
  for (auto policy : {step_policy::token_allocation, step_policy::hybrid_priority, step_policy::layered_budget}) {
    auto o = policy_options(policy);
    o.max_batched_tokens = 20;
    bench b(o);
    b.send(add{timed(b, 1, 20, 1s, 500ms), {}});
    b.send(add{timed(b, 2, 40, 30ms, 500ms), {}}); // needs 41 ms
    b.send(add{timed(b, 3, 15, 200ms, 500ms), {}});
    b.finish();
    CHECK(b.entry(key(3)));
    // What 1 and 3 have left; of 20 ms, a tenth of what 3 was promised, in the last case.
    CHECK(b.entry(key(2))->tokens.size() == (policy == step_policy::layered_budget ? 3 : 4));
  }
}

TEST_CASE("less prefill goes before an earlier deadline when its weight says so") {
  for (const auto& [policy, weight] : std::vector<std::pair<step_policy, std::chrono::milliseconds>>{
           {step_policy::hybrid_priority, 0ms}, {step_policy::hybrid_priority, 10ms},
           {step_policy::layered_budget, 0ms}, {step_policy::layered_budget, 10ms}}) {
    auto o = policy_options(policy);
    o.max_batched_tokens = 20;
    o.prefill_weight = weight;
    bench b(o);
    b.send(add{timed(b, 1, 20, 1s, 500ms), {}});
    b.send(add{timed(b, 2, 40, 1000ms, 500ms), {}}); // 1000 + 400
    b.send(add{timed(b, 3, 10, 1200ms, 500ms), {}}); // 1200 + 100
    b.finish();
    CHECK((b.entry(key(3)) != nullptr) == (weight > 0ms));
  }
}

TEST_CASE("under a layered budget a step that only the late need is short, so that a newcomer need not wait for it") {
  bench b(policy_options(step_policy::layered_budget));
  auto late = timed(b, 1, 60, 30ms, 1s); // needs 61 ms
  b.send(add{late, {}});
  CHECK(b.plan().shape.prefill_tokens == 2); // 3 ms: half as long again as a decode alone, and a tenth of 30 ms
}

TEST_CASE("under a layered budget the late get longer steps where nobody was promised an early first token") {
  bench b(policy_options(step_policy::layered_budget));
  auto late = timed(b, 1, 60, 200ms, 1s);
  late.arrival = b.now - 1s;
  b.send(add{late, {}});
  CHECK(b.plan().shape.prefill_tokens == 19); // a tenth of 200 ms
}

TEST_CASE("under a layered budget those in time get whole steps") {
  bench b(policy_options(step_policy::layered_budget));
  b.send(add{timed(b, 1, 60, 100ms, 1s), {}});
  CHECK(b.plan().shape.prefill_tokens == 60);
}

TEST_CASE("under a layered budget early decodes give way to prefill only when that fills more than a step") {
  for (const std::uint32_t prompt : {30U, 100U}) {
    auto o = policy_options(step_policy::layered_budget);
    o.max_batched_tokens = 40;
    bench b(o);
    b.send(add{timed(b, 1, 4, 1s, 40ms), {}});
    b.send(add{timed(b, 2, 4, 1s, 500ms), {}});
    b.finish();
    b.finish();
    b.send(add{timed(b, 3, prompt, 1s, 1s), {}});
    b.now += 100ms; // the next token of 1 is due within two of its targets
    b.finish();
    CHECK(b.entry(key(1)));
    CHECK((b.entry(key(2)) == nullptr) == (prompt == 100));
  }
}

TEST_CASE("under a layered budget nobody lengthens a step beyond a first token's deadline in it") {
  for (const auto& [ttft, prefill] : std::vector<std::pair<std::chrono::milliseconds, std::uint32_t>>{
           {34ms, 32},    // 1 + a decode + 20 of its own: 12 of the other
           {1000ms, 62},  // all of both
           {21ms, 62},    // kept alone, but not beside the decode: of no account
           {15ms, 62}}) { // cannot be kept: goes last
    auto o = policy_options(step_policy::layered_budget);
    o.max_batched_tokens = 100;
    bench b(o);
    b.send(add{timed(b, 1, 4, 1s, 1s), {}});
    b.send(add{timed(b, 2, 20, ttft, 1s), {}});
    b.send(add{timed(b, 3, 42, 2s, 1s), {}});
    b.finish();
    REQUIRE(b.entry(key(1)));
    CHECK(b.plan().shape.prefill_tokens == prefill);
  }
}

} // namespace hflex::batcher_policies_test
