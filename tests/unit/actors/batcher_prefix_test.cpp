// What a sequence takes from the prefix cache, and what it leaves there. Blocks have 4 tokens.
#include "tests/unit/actors/batcher_support.hpp"

namespace hflex::batcher_prefix_test {

using namespace hflex::instance;
using namespace hflex::instance::testing;
using namespace std::chrono_literals;

namespace {

constexpr instance_id peer{2};

request_key key(std::uint64_t id) { return {request_id{id}, 1}; }

/// Request `id` whose first `shared` tokens are those of request 1; the rest is its own.
sequence_spec like_one(std::uint64_t id, std::uint32_t shared, std::uint32_t prompt, std::uint32_t max_output = 2) {
  auto s = make_spec(id, prompt, max_output);
  const auto one = make_spec(1, prompt, max_output);
  std::copy_n(one.tokens.begin(), shared, s.tokens.begin());
  return s;
}

/// A bench where request 1, with this prompt, has been and gone.
struct after_one : bench {
  explicit after_one(std::uint32_t prompt, options o = small_options()) : bench(o) {
    send(add{make_spec(1, prompt, 2), {}});
    run();
  }
  /// Until nothing is left to do; the tokens of all steps.
  std::vector<token_id> run() {
    std::vector<token_id> out;
    while (busy())
      for (const auto& t : all<token>(finish())) out.push_back(t.id);
    return out;
  }
};

} // namespace

TEST_CASE("a prompt that begins like an earlier one is computed from where they part") {
  after_one b(20);
  const auto two = like_one(2, 10, 20);
  b.send(add{two, {}});
  CHECK(b.plan().entries[0].position == 8); // two full blocks of the ten tokens
  CHECK(b.plan().entries[0].tokens == std::vector<token_id>(two.tokens.begin() + 8, two.tokens.end()));
  CHECK(b.plan().shape.prefill_tokens == 12);
  CHECK(b.plan().shape.query_key_pairs == Approx(12 * (8 + 6)));
  auto out = b.finish();
  CHECK(only<token>(out).id == undisturbed(two, 128).tokens[0]);
  CHECK(only<token>(out).cached_prompt_tokens == 8);
  CHECK(b.report().cached_tokens == 8);
  CHECK(b.report().started_tokens == 40);
}

TEST_CASE("of a prompt that is cached whole the last token is still computed") {
  SECTION("alone in its block") {
    after_one b(9);
    b.send(add{like_one(2, 9, 9), {}});
    CHECK(b.plan().entries[0].position == 8);
    CHECK(b.plan().entries[0].sample);
    CHECK(b.plan().shape.decode_seqs == 1); // which costs what a decode costs
    CHECK(b.plan().shape.prefill_tokens == 0);
    CHECK(b.run() == undisturbed(like_one(2, 9, 9), 128).tokens);
  }
  SECTION("with its block, which is written and hence its own") {
    after_one b(8);
    b.send(add{like_one(2, 8, 8), {}});
    CHECK(b.plan().entries[0].position == 4);
    CHECK(b.run() == undisturbed(like_one(2, 8, 8), 128).tokens);
  }
}

TEST_CASE("what was decoded is found by the prompt that continues it") {
  bench b(small_options());
  auto one = make_spec(1, 6, 7);
  b.send(add{one, {}});
  while (b.busy()) b.finish();
  auto next = make_spec(2, 20, 2);
  const auto answer = undisturbed(one, 128).tokens;
  std::copy(one.tokens.begin(), one.tokens.end(), next.tokens.begin());
  std::copy(answer.begin(), answer.end(), next.tokens.begin() + 6);
  b.send(add{next, {}});
  CHECK(b.plan().entries[0].position == 12); // of 13, the last was never computed
  CHECK(only<token>(b.finish()).id == undisturbed(next, 128).tokens[0]);
}

TEST_CASE("a retry finds what its earlier attempt computed, and counts as cached no more than its prompt") {
  after_one b(6);
  auto again = make_spec(1, 6, 9);
  again.key.attempt = 2;
  const auto expected = undisturbed(again, 128).tokens;
  again.tokens.insert(again.tokens.end(), expected.begin(), expected.begin() + 3);
  b.send(add{again, {}});
  CHECK(b.plan().entries[0].position == 4); // 7 tokens were computed
  CHECK(only<token>(b.finish()).id == expected[3]);
  while (b.busy()) b.finish();
  again.key.attempt = 3;
  b.send(add{again, {}});
  CHECK(b.plan().entries[0].position == 8);
  CHECK(only<token>(b.finish()).cached_prompt_tokens == 6);
}

TEST_CASE("a sequence is charged, in tokens and in blocks, for what is not cached only") {
  auto o = small_options();
  o.kv_blocks = 7;
  o.max_batched_tokens = 20;
  bench b(o);
  b.send(add{make_spec(1, 17, 3), {}}); // 5 of 7 blocks
  b.finish();
  b.send(add{like_one(2, 16, 18), {}}); // would need 5 more
  b.send(add{like_one(3, 16, 19), {}});
  b.finish();
  REQUIRE(b.plan().entries.size() == 3);
  CHECK(b.plan().entries[1].tokens.size() == 2);
  CHECK(b.plan().entries[2].tokens.size() == 3);
  CHECK(b.report().kv_blocks_free == 0);
}

TEST_CASE("blocks that others still share outlive the sequence that filled them") {
  bench b(small_options());
  b.send(add{make_spec(1, 17, 9), {}});
  b.finish();
  const auto two = like_one(2, 16, 18, 4);
  b.send(add{two, {}});
  b.finish();
  CHECK(b.report().kv_blocks_free == 64 - 5 - 1);
  b.send(cancel{key(1)});
  for (std::uint32_t i = 0; i < 3; ++i) CHECK(all<token>(b.finish()).back().id == undisturbed(two, 128).tokens[i]);
}

TEST_CASE("sequences that computed the same text side by side end up with the same blocks") {
  bench b(small_options());
  b.send(add{make_spec(9, 4, 2), {}}); // so that the two start in one step
  b.send(add{make_spec(1, 17, 4), {}});
  b.send(add{like_one(2, 17, 17, 4), {}});
  b.finish();
  CHECK(b.plan().entries.size() == 3);
  CHECK(b.report().cached_tokens == 0);
  b.finish();
  CHECK(b.report().kv_blocks_free == 64 - 4 - 2);
  REQUIRE(b.plan().entries.size() == 2);
  const auto &one = b.plan().entries[0].block_table, &two = b.plan().entries[1].block_table;
  CHECK(std::equal(one.begin(), one.begin() + 4, two.begin()));
  CHECK(one[4] != two[4]);
  const auto out = all<token>(b.finish());
  REQUIRE(out.size() == 2);
  CHECK(out[0].id == undisturbed(make_spec(1, 17, 4), 128).tokens[1]);
  CHECK(out[1].id == undisturbed(like_one(2, 17, 17, 4), 128).tokens[1]);
}

TEST_CASE("a preempted sequence comes back through the cache") {
  auto o = small_options();
  o.kv_blocks = 8;
  bench b(o);
  b.send(add{make_spec(1, 12, 12), {}});
  b.send(add{make_spec(2, 12, 12), {}});
  while (b.report().preemptions == 0) b.finish();
  const auto before = b.report().cached_tokens;
  while (!b.entry(key(2))) b.finish();
  CHECK(b.entry(key(2))->position > 0);
  CHECK(b.report().cached_tokens == before + b.entry(key(2))->position);
  std::vector<token_id> rest;
  while (b.busy())
    for (const auto& t : all<token>(b.finish())) {
      CHECK(t.cached_prompt_tokens == 0); // its first start found nothing
      rest.push_back(t.id);
    }
  CHECK(rest.back() == undisturbed(make_spec(2, 12, 12), 128).tokens.back());
}

TEST_CASE("what a failed or cancelled step has written is not found") {
  auto o = small_options();
  o.max_sequences = 2;
  o.max_batched_tokens = 8;
  bench b(o);
  b.send(add{make_spec(1, 20, 2), {}});
  b.finish(); // 8 tokens are well
  SECTION("failed") { b.finish(fail(errc::fatal, "device lost")); }
  SECTION("cancelled") {
    b.send(cancel{key(1)});
    b.finish();
  }
  CHECK(b.report().kv_blocks_cached == 2);
  CHECK(b.report().kv_blocks_free == 64);
  b.send(add{like_one(2, 20, 20), {}});
  CHECK(b.plan().entries[0].position == 8);
}

TEST_CASE("with the cache off every prompt is computed whole") {
  auto o = small_options();
  o.prefix_cache = false;
  after_one b(20, o);
  b.send(add{like_one(2, 20, 20), {}});
  CHECK(b.plan().entries[0].position == 0);
  CHECK(b.plan().entries[0].tokens.size() == 20);
  CHECK(b.report().kv_blocks_cached == 0);
}

TEST_CASE("a hand-over pushes the rows that its prefill instance had cached") {
  auto o = small_options();
  o.role = instance_role::prefill;
  bench b(o);
  const auto first = only<offer_kv>(b.send(add{make_spec(1, 10, 5), peer})).transfer;
  b.send(offer_accepted{first});
  b.finish();
  b.send(kv_delivered{first});
  auto out = b.send(add{like_one(2, 10, 10, 5), peer});
  const auto second = only<offer_kv>(out).transfer;
  CHECK(only<offer_kv>(out).spec.tokens.size() == 10);
  CHECK(b.plan().entries[0].position == 8);
  SECTION("accepted while the rest is computed") {
    out = b.send(offer_accepted{second});
    CHECK(only<open_push>(out).tokens == 10);
    CHECK(only<push_rows>(out).begin == 0);
    CHECK(only<push_rows>(out).count == 8);
    out = b.finish();
    CHECK(only<push_rows>(out).begin == 8);
    CHECK(only<push_rows>(out).count == 2);
  }
  SECTION("accepted after it") {
    b.finish();
    out = b.send(offer_accepted{second});
    CHECK(only<push_rows>(out).begin == 0);
    CHECK(only<push_rows>(out).count == 10);
  }
  b.send(kv_delivered{second});
  CHECK(b.report().kv_blocks_free == 64);
}

TEST_CASE("the blocks of a hand-over under way stay its own, whatever else holds the same") {
  auto o = small_options();
  o.role = instance_role::prefill;
  bench b(o);
  b.send(add{make_spec(9, 4, 1), {}}); // so that the two start in one step
  b.send(add{make_spec(1, 8, 5), peer});
  b.send(add{like_one(2, 8, 8, 5), peer});
  const auto offers = all<offer_kv>(b.finish());
  REQUIRE(offers.size() == 2);
  std::vector<open_push> opened;
  for (const auto& offer : offers) opened.push_back(only<open_push>(b.send(offer_accepted{offer.transfer})));
  b.finish();
  CHECK(opened[0].block_table != opened[1].block_table);
  CHECK(b.report().kv_blocks_free == 64 - 4);
  for (const auto& offer : offers) b.send(kv_delivered{offer.transfer});
  CHECK(b.report().kv_blocks_free == 64);
  CHECK(b.report().kv_blocks_cached == 3);
}

TEST_CASE("what a hand-over brought is found, once its rows are there") {
  bench b(small_options());
  const auto one = make_spec(1, 10, 3);
  const auto tokens = undisturbed(one, 128).tokens;
  const auto accepted = only<accept_offer>(b.send(offer{transfer_id{1}, one, peer, 10s}));
  b.send(kv_committed{transfer_id{1}, 0, tokens[0]});
  CHECK(b.report().kv_blocks_cached == 0);
  b.send(kv_landed{transfer_id{1}});
  CHECK(b.report().kv_blocks_cached == 2);
  b.send(add{like_one(2, 10, 10), {}});
  b.finish_with({tokens[1]});
  CHECK(b.entry(key(2))->position == 8);
  CHECK(b.entry(key(2))->block_table[0] == accepted.block_table[0]);
}

} // namespace hflex::batcher_prefix_test
