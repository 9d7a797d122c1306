// What goes into a step, and who gives way when blocks run out.
#include "tests/unit/actors/batcher_support.hpp"

namespace hflex::batcher_plan_test {

using namespace hflex::instance;
using namespace hflex::instance::testing;
using namespace std::chrono_literals;

namespace {

request_key key(std::uint64_t id) { return {request_id{id}, 1}; }

/// 1 ms, and 1 ms for every token.
options slack_options() {
  auto o = small_options();
  o.policy = step_policy::slack_budget;
  o.safety = 0.0;
  o.min_chunk = 2;
  o.predict = [](const step_shape& s) { return 1ms + 1ms * (s.prefill_tokens + s.decode_seqs); };
  return o;
}

/// A request with these targets that arrives now.
sequence_spec timed(const bench& b, std::uint64_t id, std::uint32_t prompt, duration ttft, duration tpot) {
  auto s = make_spec(id, prompt, 50);
  s.arrival = b.now;
  s.slo.ttft = ttft;
  s.slo.tpot = tpot;
  return s;
}

} // namespace

TEST_CASE("a prompt longer than the token budget is computed in chunks") {
  auto o = small_options();
  o.max_batched_tokens = 20;
  bench b(o);
  auto spec = make_spec(1, 50, 2);
  b.send(add{spec, {}});
  CHECK(b.plan().entries[0].tokens.size() == 20);
  CHECK_FALSE(b.plan().entries[0].sample);
  CHECK(all<token>(b.finish()).empty());
  CHECK(b.plan().entries[0].position == 20);
  b.finish();
  CHECK(b.plan().entries[0].tokens.size() == 10);
  CHECK(b.plan().entries[0].sample);
  CHECK(only<token>(b.finish()).id == undisturbed(spec, 128).tokens[0]);
}

TEST_CASE("decodes come first and prefill takes what is left of the token budget") {
  auto o = small_options();
  o.max_batched_tokens = 20;
  bench b(o);
  b.send(add{make_spec(1, 8, 5), {}});
  b.finish();
  b.send(add{make_spec(2, 40, 5), {}});
  b.finish();
  const auto& plan = b.plan();
  REQUIRE(plan.entries.size() == 2);
  CHECK(plan.entries[0].key == key(1));
  CHECK(plan.entries[0].tokens.size() == 1);
  CHECK(plan.entries[1].tokens.size() == 19);
  CHECK(plan.shape.decode_seqs == 1);
  CHECK(plan.shape.decode_context == Approx(10));
  CHECK(plan.shape.prefill_tokens == 19);
  CHECK(plan.shape.query_key_pairs == Approx(19 * 9.5));
}

TEST_CASE("no more than max_sequences run together") {
  auto o = small_options();
  o.max_sequences = 2;
  bench b(o);
  for (std::uint64_t id = 1; id <= 3; ++id) b.send(add{make_spec(id, 4, 3), {}});
  b.finish();
  CHECK(b.report().running == 2);
  CHECK(b.report().waiting == 1);
}

TEST_CASE("under a fixed budget the first to come is the first served") {
  auto o = small_options();
  o.max_batched_tokens = 20;
  bench b(o);
  b.send(add{make_spec(9, 4, 2), {}});
  for (std::uint64_t id : {3, 1, 2}) b.send(add{make_spec(id, 8, 2), {}});
  b.finish();
  const auto& plan = b.plan();
  REQUIRE(plan.entries.size() == 4);
  CHECK(plan.entries[1].key == key(3));
  CHECK(plan.entries[2].key == key(1));
  CHECK(plan.entries[3].key == key(2));
  CHECK(plan.entries[3].tokens.size() == 3);
}

TEST_CASE("a large newcomer without room is not passed over") {
  auto o = small_options();
  o.kv_blocks = 6;
  bench b(o);
  b.send(add{make_spec(1, 8, 3), {}});
  b.send(add{make_spec(2, 20, 3), {}});
  b.send(add{make_spec(3, 4, 3), {}});
  b.finish();
  CHECK(b.plan().entries.size() == 1);
  CHECK(b.report().waiting == 2);
}

TEST_CASE("watermark blocks are left to those already running") {
  auto o = small_options();
  o.kv_blocks = 6;
  o.watermark_blocks = 2;
  bench b(o);
  b.send(add{make_spec(1, 7, 3), {}});  // 2 blocks
  b.send(add{make_spec(2, 12, 3), {}}); // 3 blocks: 1 would be left
  b.finish();
  CHECK(b.report().waiting == 1);
  b.finish();
  b.finish();
  CHECK(b.report().waiting == 0); // alone, it may have all
}

TEST_CASE("the prefill chunk is the largest that the tightest decode has time for") {
  bench b(slack_options());
  b.send(add{timed(b, 1, 4, 1s, 30ms), {}});
  b.finish(); // its next token is due in 30 ms
  b.send(add{timed(b, 2, 60, 1s, 1s), {}});
  b.finish(); // now in 60 ms
  CHECK(b.plan().shape.prefill_tokens == 58);
  b.now += 50ms;
  b.finish(); // now in 40 ms, and 2 tokens are left
  CHECK(b.plan().shape.prefill_tokens == 2);
  b.send(add{timed(b, 3, 60, 1s, 1s), {}});
  b.now += 20ms;
  b.finish();                                 // 1 is due in 50 ms
  CHECK(b.plan().shape.decode_seqs == 2);     // 1 and 2
  CHECK(b.plan().shape.prefill_tokens == 47); // 1 + 47 + 2 = 50
}

TEST_CASE("no newcomer is started for a crumb that an unfinished chunk has left") {
  auto o = slack_options();
  o.predict = [](const step_shape& s) { return 1ms + duration{static_cast<std::int64_t>(s.query_key_pairs * 10e3)}; };
  bench b(o);
  b.send(add{timed(b, 1, 4, 1s, 2ms), {}});
  b.finish();
  b.send(add{timed(b, 2, 60, 1s, 1s), {}});
  b.send(add{timed(b, 3, 60, 2s, 1s), {}});
  b.finish(); // 4 ms: 24 tokens of 2 take 2.88 ms after the first, 4 tokens of 3 would still fit
  REQUIRE(b.plan().entries.size() == 2);
  CHECK(b.plan().entries[1].tokens.size() == 24);
  CHECK(b.report().waiting == 1);
}

TEST_CASE("a share of the slack is left unplanned for safety") {
  auto o = slack_options();
  o.safety = 0.5;
  bench b(o);
  b.send(add{timed(b, 1, 4, 1s, 20ms), {}});
  b.finish();
  b.send(add{timed(b, 2, 60, 1s, 1s), {}});
  b.finish();
  CHECK(b.plan().shape.prefill_tokens == 18); // half of 40 ms, less 2
}

TEST_CASE("prefill progresses by min_chunk when there is no slack at all") {
  bench b(slack_options());
  b.send(add{timed(b, 1, 4, 1s, 10ms), {}});
  b.finish();
  b.send(add{timed(b, 2, 60, 1s, 1s), {}});
  b.now += 30ms; // late, but there is time to catch up
  b.finish();
  CHECK(b.plan().shape.decode_seqs == 1);
  CHECK(b.plan().shape.prefill_tokens == 2);
}

TEST_CASE("a request that can no longer attain does not shrink the chunk of others") {
  bench b(slack_options());
  auto hopeless = timed(b, 1, 4, 1s, 10ms);
  SECTION("its first token came late") {
    b.send(add{hopeless, {}});
    b.now += 2s;
    b.finish();
  }
  SECTION("its end-to-end deadline has passed") {
    hopeless.slo.e2e = 20ms;
    b.send(add{hopeless, {}});
    b.finish();
    b.now += 21ms;
  }
  SECTION("too few tokens are left to catch up") {
    b.send(add{hopeless, {}});
    b.finish();
    b.now += 800ms;
  }
  b.send(add{timed(b, 2, 60, 1s, 1s), {}});
  b.finish();
  CHECK(b.plan().shape.prefill_tokens == 60);
}

TEST_CASE("time banked before the first token is not spent after it") {
  bench b(slack_options());
  b.send(add{timed(b, 1, 4, 10s, 20ms), {}});
  b.finish();
  b.send(add{timed(b, 2, 60, 1s, 1s), {}});
  b.finish();
  CHECK(b.plan().shape.prefill_tokens == 38); // 40 ms after the first token, not 10 s
}

TEST_CASE("without a predictor slack_budget sizes its chunks like a fixed budget") {
  auto o = slack_options();
  o.predict = nullptr;
  bench b(o);
  b.send(add{timed(b, 1, 4, 1s, 3ms), {}});
  b.finish();
  b.send(add{timed(b, 2, 60, 1s, 1s), {}});
  b.finish();
  CHECK(b.plan().shape.prefill_tokens == 60);
}

TEST_CASE("under slack_budget the earliest deadline goes first and overtakes a long prefill") {
  auto o = slack_options();
  o.max_batched_tokens = 20;
  bench b(o);
  b.send(add{timed(b, 1, 60, 10s, 1s), {}});
  b.send(add{timed(b, 2, 8, 5s, 1s), {}});
  b.send(add{timed(b, 3, 8, 1s, 1s), {}});
  b.finish();
  const auto& plan = b.plan();
  REQUIRE(plan.entries.size() == 3);
  CHECK(plan.entries[0].key == key(3));
  CHECK(plan.entries[1].key == key(2));
  CHECK(plan.entries[2].key == key(1));
  CHECK(plan.entries[2].tokens.size() == 4);
}

TEST_CASE("when blocks run out the last to arrive is preempted and later goes on where it was") {
  auto o = small_options();
  o.kv_blocks = 5;
  bench b(o);
  const auto first = make_spec(1, 8, 5), second = make_spec(2, 8, 5);
  const auto expected = undisturbed(second, 20);
  b.send(add{first, {}});
  b.send(add{second, {}});
  std::vector<token_id> got;
  bool done = false;
  while (b.busy()) {
    auto out = b.finish();
    for (const auto& t : all<token>(out))
      if (t.key == second.key) {
        CHECK(t.index == got.size());
        got.push_back(t.id);
      }
    for (const auto& e : all<ended>(out)) done |= e.key == second.key;
  }
  CHECK(b.report().preemptions == 1);
  CHECK(done);
  CHECK(got == expected.tokens);
}

TEST_CASE("under slack_budget the latest deadline is preempted, whoever came first") {
  auto o = slack_options();
  o.kv_blocks = 5;
  o.predict = nullptr;
  bench b(o);
  b.send(add{timed(b, 1, 8, 9s, 1s), {}});
  b.send(add{timed(b, 2, 8, 1s, 1s), {}});
  b.finish();
  b.finish(); // 1 has three blocks, 2 has two full ones and no third is free
  CHECK(b.report().preemptions == 1);
  CHECK(b.entry(key(2)));
  CHECK_FALSE(b.entry(key(1)));
}

TEST_CASE("a preempted sequence comes back before fresh ones") {
  auto o = slack_options();
  o.kv_blocks = 5;
  o.predict = nullptr;
  bench b(o);
  b.send(add{timed(b, 1, 8, 9s, 1s), {}});
  b.send(add{timed(b, 2, 8, 1s, 1s), {}});
  b.finish();
  b.finish();
  b.send(add{timed(b, 3, 4, 1ms, 1ms), {}}); // due long before 1, and small enough
  b.finish();
  CHECK_FALSE(b.entry(key(3)));
  b.send(cancel{key(2)});
  b.finish();
  CHECK(b.entry(key(1)));
}

TEST_CASE("a sequence preempted while retiring is handed back at once") {
  auto o = small_options();
  o.kv_blocks = 5;
  bench b(o);
  b.send(add{make_spec(1, 8, 5), {}});
  b.send(add{make_spec(2, 8, 5), {}});
  b.finish();
  b.send(retire{10s});
  auto back = only<handed_back>(b.finish());
  CHECK(back.key == key(2));
  CHECK(back.why.code == errc::reroute);
}

} // namespace hflex::batcher_plan_test
