// How sequences come, end and leave.
#include "tests/unit/actors/batcher_support.hpp"

namespace hflex::batcher_life_test {

using namespace hflex::instance;
using namespace hflex::instance::testing;
using namespace std::chrono_literals;

TEST_CASE("a sequence yields its tokens in order and ends at max_output_tokens") {
  bench b(small_options());
  auto spec = make_spec(1, 10, 4);
  const auto expected = undisturbed(spec, 128);
  b.send(add{spec, {}});
  for (std::uint32_t i = 0; i < 4; ++i) {
    auto out = b.finish();
    CHECK(only<token>(out).index == i);
    CHECK(only<token>(out).id == expected.tokens[i]);
    CHECK(all<ended>(out).size() == (i == 3 ? 1 : 0));
  }
  CHECK_FALSE(b.busy());
  CHECK(b.report().kv_blocks_free == 64);
}

TEST_CASE("a retried sequence goes on at the output index it had reached") {
  bench b(small_options());
  auto spec = make_spec(1, 10, 4);
  const auto expected = undisturbed(spec, 128);
  spec.tokens.push_back(expected.tokens[0]);
  spec.tokens.push_back(expected.tokens[1]);
  b.send(add{spec, {}});
  auto out = b.finish();
  CHECK(only<token>(out).index == 2);
  CHECK(only<token>(out).id == expected.tokens[2]);
}

TEST_CASE("eos ends a sequence and is not one of its tokens") {
  bench b(small_options());
  auto spec = make_spec(1, 10, 4);
  spec.ignore_eos = false;
  b.send(add{spec, {}});
  auto out = b.finish_with({eos});
  CHECK(all<token>(out).empty());
  CHECK(only<ended>(out).cause == stop_cause::eos);
}

TEST_CASE("a request that ignores eos is given it as a token") {
  bench b(small_options());
  b.send(add{make_spec(1, 10, 4), {}});
  auto out = b.finish_with({eos});
  CHECK(only<token>(out).id == eos);
  CHECK(all<ended>(out).empty());
}

TEST_CASE("a sequence ends when the context is full") {
  auto o = small_options();
  o.max_context = 12;
  bench b(o);
  b.send(add{make_spec(1, 10, 50), {}});
  CHECK(all<ended>(b.finish()).empty());
  CHECK(only<ended>(b.finish()).cause == stop_cause::context_full);
}

TEST_CASE("a sequence that has the whole pool ends when the pool is full") {
  auto o = small_options();
  o.kv_blocks = 3;
  bench b(o);
  b.send(add{make_spec(1, 10, 50), {}});
  CHECK(all<ended>(b.finish()).empty());
  CHECK(only<ended>(b.finish()).cause == stop_cause::context_full);
}

TEST_CASE("a sequence that cannot fit even alone is rejected") {
  auto o = small_options();
  o.kv_blocks = 3;
  bench b(o);
  CHECK(only<handed_back>(b.send(add{make_spec(1, 12, 5), {}})).why.code == errc::reject);
  CHECK_FALSE(b.busy());
}

TEST_CASE("a malformed sequence is rejected before it can spoil a step") {
  bench b(small_options());
  auto spec = make_spec(1, 10, 5);
  SECTION("token outside the vocabulary") { spec.tokens[3] = vocab; }
  SECTION("negative token") { spec.tokens[3] = -1; }
  SECTION("no tokens") { spec.tokens.clear(); }
  SECTION("longer prompt than tokens") { spec.prompt_tokens = 11; }
  SECTION("nothing left to produce") { spec.max_output_tokens = 0; }
  CHECK(only<handed_back>(b.send(add{spec, {}})).why.code == errc::reject);
  CHECK(b.report().waiting == 0);
}

TEST_CASE("an add beyond max_waiting comes back to be retried") {
  auto o = small_options();
  o.max_waiting = 1;
  bench b(o);
  b.send(add{make_spec(1, 10, 5), {}}); // in the step
  CHECK(all<handed_back>(b.send(add{make_spec(2, 10, 5), {}})).empty());
  CHECK(only<handed_back>(b.send(add{make_spec(3, 10, 5), {}})).why.code == errc::retry);
}

TEST_CASE("a request that is here already is not run twice") {
  bench b(small_options());
  b.send(add{make_spec(1, 10, 5), {}});
  CHECK(b.send(add{make_spec(1, 10, 5), {}}).empty());
  CHECK(b.report().waiting == 0);
}

TEST_CASE("a failed step hands back every sequence in it and frees its blocks") {
  auto o = small_options();
  o.max_sequences = 2;
  bench b(o);
  for (std::uint64_t id = 1; id <= 3; ++id) b.send(add{make_spec(id, 10, 5), {}});
  b.finish(); // 1 was alone in the first step
  REQUIRE(b.plan().entries.size() == 2);
  auto out = b.finish(fail(errc::fatal, "device lost"));
  auto back = all<handed_back>(out);
  REQUIRE(back.size() == 2);
  for (const auto& h : back) CHECK(h.why.code == errc::reroute);
  CHECK(all<token>(out).empty());
  CHECK(b.entry(make_spec(3, 10, 5).key)); // the third goes on
  CHECK(b.report().kv_blocks_free == 64 - 3);
}

TEST_CASE("a step that comes back without a token where one was due counts as failed") {
  bench b(small_options());
  b.send(add{make_spec(1, 10, 5), {}});
  SECTION("no token") { CHECK(only<handed_back>(b.finish_with({-1})).why.code == errc::reroute); }
  SECTION("too few") { CHECK(only<handed_back>(b.finish_with({})).why.code == errc::reroute); }
  SECTION("outside the vocabulary") { CHECK(only<handed_back>(b.finish_with({vocab})).why.code == errc::reroute); }
  CHECK(b.report().kv_blocks_free == 64);
}

TEST_CASE("a stale step result changes nothing") {
  bench b(small_options());
  b.send(add{make_spec(1, 10, 5), {}});
  CHECK(b.send(step_finished{b.plan().id + 1, {3}, 1ms, {}}).empty());
  CHECK(b.report().steps == 0);
}

TEST_CASE("a cancelled sequence leaves without a word") {
  bench b(small_options());
  b.send(add{make_spec(1, 10, 5), {}});
  b.send(add{make_spec(2, 10, 5), {}});
  SECTION("while waiting") {
    CHECK(b.send(cancel{make_spec(2, 10, 5).key}).empty());
    CHECK(b.report().waiting == 0);
  }
  SECTION("while running") {
    b.finish();
    CHECK(all<handed_back>(b.send(cancel{make_spec(1, 10, 5).key})).empty());
    auto out = b.finish();
    CHECK(only<token>(out).key == make_spec(2, 10, 5).key);
    CHECK(all<ended>(out).empty());
  }
}

TEST_CASE("blocks of a sequence cancelled in a step are not used again before the step has ended") {
  auto o = small_options();
  o.kv_blocks = 4;
  bench b(o);
  b.send(add{make_spec(1, 12, 4), {}});
  b.send(cancel{make_spec(1, 12, 4).key});
  CHECK(b.report().kv_blocks_free == 1);
  b.send(add{make_spec(2, 12, 4), {}});
  CHECK(b.report().running == 0);
  auto out = b.finish();
  CHECK(all<token>(out).empty());
  CHECK(b.entry(make_spec(2, 12, 4).key));
}

TEST_CASE("a retiring instance hands back its queue, lets residents finish and says when it is empty") {
  bench b(small_options());
  b.send(add{make_spec(1, 10, 3), {}});
  b.send(add{make_spec(2, 10, 3), {}});
  auto out = b.send(retire{10s});
  CHECK(only<handed_back>(out).key == make_spec(2, 10, 3).key);
  CHECK(only<handed_back>(out).why.code == errc::reroute);
  CHECK(only<handed_back>(out).leaving);
  CHECK(only<wake_at>(out).at == b.now + 10s);
  CHECK(all<retired>(out).empty());
  CHECK(only<handed_back>(b.send(add{make_spec(3, 10, 3), {}})).why.code == errc::reroute);
  b.finish();
  b.finish();
  out = b.finish();
  CHECK(all<ended>(out).size() == 1);
  CHECK(all<retired>(out).size() == 1);
}

TEST_CASE("past the drain deadline residents are handed back, and retirement waits for the step in flight") {
  bench b(small_options());
  b.send(add{make_spec(1, 10, 30), {}});
  b.send(retire{10s});
  b.now += 10s;
  auto out = b.send(tick{});
  CHECK(only<handed_back>(out).why.code == errc::reroute);
  CHECK(all<retired>(out).empty());
  out = b.finish();
  CHECK(all<token>(out).empty());
  CHECK(all<retired>(out).size() == 1);
  CHECK(b.report().kv_blocks_free == 64);
}

TEST_CASE("an empty instance retires at once, and only once") {
  bench b(small_options());
  CHECK(all<retired>(b.send(retire{10s})).size() == 1);
  CHECK(all<retired>(b.send(retire{1s})).empty());
}

TEST_CASE("an unlimited drain never comes to an end by itself") {
  bench b(small_options());
  b.send(add{make_spec(1, 10, 30), {}});
  CHECK(all<wake_at>(b.send(retire{duration::max()})).empty());
  b.now += 1000h;
  CHECK(all<handed_back>(b.send(tick{})).empty());
}

TEST_CASE("an instance turned to decode hands back what has not started and finishes the rest") {
  bench b(small_options());
  b.send(add{make_spec(1, 10, 2), {}});
  b.send(add{make_spec(2, 10, 2), {}});
  auto out = b.send(set_role{instance_role::decode});
  CHECK(only<handed_back>(out).key == make_spec(2, 10, 2).key);
  CHECK(only<handed_back>(b.send(add{make_spec(3, 10, 2), {}})).why.code == errc::reroute);
  b.finish();
  CHECK(all<ended>(b.finish()).size() == 1);
  CHECK(b.report().role == instance_role::decode);
}

TEST_CASE("options out of range are named") {
  auto o = small_options();
  CHECK(check(o).has_value());
  o.max_batched_tokens = o.max_sequences;
  REQUIRE_FALSE(check(o).has_value());
  CHECK(check(o).error().message.find("max_batched_tokens") != std::string::npos);
}

TEST_CASE("the report counts sequences, blocks and steps") {
  bench b(small_options());
  b.send(add{make_spec(1, 10, 5), {}});
  b.send(add{make_spec(2, 10, 5), {}});
  auto r = b.report();
  CHECK(r.running == 1);
  CHECK(r.waiting == 1);
  CHECK(r.kv_blocks_free == 61);
  b.finish();
  r = b.report();
  CHECK(r.running == 2);
  CHECK(r.steps == 1);
  CHECK(r.last_shape.prefill_tokens == 10);
  CHECK(r.last_elapsed == 1ms);
}

} // namespace hflex::batcher_life_test
