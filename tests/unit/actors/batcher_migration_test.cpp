// Both sides of a migration, one at a time.
#include "tests/unit/actors/batcher_support.hpp"

namespace hflex::batcher_migration_test {

using namespace hflex::instance;
using namespace hflex::instance::testing;
using namespace std::chrono_literals;

namespace {

constexpr instance_id peer{2};
constexpr request_key first{request_id{1}, 1};

options side(instance_role role = instance_role::mixed) {
  auto o = small_options();
  o.role = role;
  o.min_ahead = 2;
  o.max_ahead = 6;
  return o;
}

/// An instance that decodes request 1 (6 prompt tokens) and is asked to move it. Its last row will be computed in the
/// third step from here.
struct source_side : bench {
  explicit source_side(const options& o = side(), std::uint32_t max_output = 30) : bench(o) {
    send(add{make_spec(1, 6, max_output), {}});
    finish();
    finish(); // two tokens
    offered = send(migrate{first, peer});
    if (auto found = all<offer_kv>(offered); !found.empty()) id = found[0].transfer;
  }
  /// Accepted, and decoded to its last row here; the effects of that step.
  std::vector<effect> decode_to_the_end() {
    send(offer_accepted{id});
    finish();
    finish();
    return finish();
  }
  void check_goes_on() {
    if (!busy()) FAIL("nothing runs");
    REQUIRE(entry(first));
    const auto expected = undisturbed(make_spec(1, 6, 30), 128).tokens;
    const auto next = only<token>(finish());
    CHECK(next.id == expected.at(next.index));
    CHECK(report().kv_blocks_free == 64 - (6 + next.index + 4) / 4);
  }
  std::vector<effect> offered;
  transfer_id id;
};

/// An instance that was offered request 1 (10 tokens, 4 of them output) with the rows of 2 more.
struct sink_side : bench {
  explicit sink_side(options o = side(instance_role::decode)) : bench(o) {
    auto spec = make_spec(1, 10, 20);
    spec.prompt_tokens = 6;
    answer = send(offer{transfer_id{1}, spec, peer, 10s, 2});
  }
  std::vector<effect> land() { return send(kv_landed{transfer_id{1}}); }
  std::vector<effect> commit() { return send(kv_committed{transfer_id{1}, 6, 13, {11, 12}}); }
  std::vector<effect> answer;
};

} // namespace

TEST_CASE("a migrating sequence goes on decoding, and stops when every row that it promised is computed") {
  source_side b;
  const auto offer = only<offer_kv>(b.offered);
  CHECK(offer.to == peer);
  CHECK(offer.spec.tokens.size() == 8);
  CHECK(offer.ahead == 2);
  auto out = b.send(offer_accepted{b.id});
  CHECK(only<open_push>(out).tokens == 10);
  CHECK(only<open_push>(out).block_table.size() == 3); // the data plane wants them all at once
  CHECK(only<push_rows>(out).count == 7);
  for (std::uint32_t row = 7; row < 9; ++row) {
    out = b.finish();
    CHECK(only<push_rows>(out).begin == row);
    CHECK(only<push_rows>(out).count == 1);
    CHECK(all<commit_kv>(out).empty());
    CHECK_FALSE(b.entry(first)->push_kv);
  }
  out = b.finish();
  CHECK(only<push_rows>(out).begin == 9);
  const auto commit = only<commit_kv>(out);
  const auto expected = undisturbed(make_spec(1, 6, 30), 128).tokens;
  CHECK(commit.index == 4);
  CHECK(commit.token == expected[4]);
  CHECK(commit.earlier == std::vector<token_id>{expected[2], expected[3]});
  CHECK(place<token>(out) < place<commit_kv>(out));
  CHECK_FALSE(b.busy());
  CHECK(b.report().running == 1); // it may have to go on
}

TEST_CASE("a sequence has left when its sink says so, not when its rows have arrived") {
  source_side b;
  b.decode_to_the_end();
  CHECK(b.send(kv_delivered{b.id}).empty());
  CHECK(b.report().kv_blocks_free == 61);
  auto out = b.send(kv_taken{b.id});
  CHECK(only<migrated>(out).key == first);
  CHECK(only<migrated>(out).to == peer);
  CHECK(all<close_transfer>(out).size() == 1);
  CHECK(all<abort_transfer>(out).empty());
  CHECK(all<ended>(out).empty());
  CHECK(b.report().kv_blocks_free == 64);
}

TEST_CASE("a migration that fails before its sink could begin goes on at the source, and says so once") {
  source_side b;
  std::vector<effect> out;
  bool told = true;
  SECTION("refused") {
    out = b.send(offer_refused{b.id, {errc::retry, "full"}});
    told = false;
  }
  SECTION("transfer failed") {
    b.send(offer_accepted{b.id});
    out = b.send(kv_failed{b.id, {errc::reroute, "checksum"}});
    CHECK(all<close_transfer>(out).size() == 1);
  }
  SECTION("lease ended") {
    b.now += 10s;
    out = b.send(tick{});
  }
  SECTION("peer lost") {
    out = b.send(peer_lost{peer});
    told = false;
  }
  SECTION("no answer by the last row") {
    b.finish();
    b.finish();
    out = b.finish();
    CHECK(all<token>(out).size() == 1);
  }
  CHECK(only<migration_failed>(out).key == first);
  CHECK(only<migration_failed>(out).to == peer);
  CHECK(all<abort_transfer>(out).size() == (told ? 1U : 0U));
  CHECK(all<handed_back>(out).empty());
  CHECK(b.send(offer_accepted{b.id}).empty());
  CHECK(b.send(kv_taken{b.id}).empty());
  b.finish();
  b.check_goes_on();
}

TEST_CASE("a migration that fails after its commit waits for the sink's last word") {
  source_side b;
  b.decode_to_the_end();
  std::vector<effect> out;
  if (GENERATE(true, false)) {
    out = b.send(kv_failed{b.id, {errc::reroute, "torn"}});
  } else { // its lease ends
    b.now += 10s;
    out = b.send(tick{});
  }
  CHECK(only<abort_transfer>(out).transfer == b.id);
  CHECK(only<close_transfer>(out).transfer == b.id);
  CHECK(all<migration_failed>(out).empty());
  CHECK_FALSE(b.busy());
  CHECK(b.send(kv_failed{b.id, {errc::reroute, "again"}}).empty());
  SECTION("it has begun") {
    CHECK(only<migrated>(b.send(kv_taken{b.id})).to == peer);
    CHECK(b.report().kv_blocks_free == 64);
  }
  SECTION("it has not") {
    CHECK(all<migration_failed>(b.send(offer_refused{b.id, {errc::reroute, "aborted"}})).size() == 1);
    b.check_goes_on();
  }
  SECTION("it is dead") {
    CHECK(all<migration_failed>(b.send(peer_lost{peer})).size() == 1);
    b.check_goes_on();
  }
}

TEST_CASE("a sequence that ends while it migrates is aborted at the sink, and needs no other answer") {
  source_side b(side(), 6); // ends one token after the rows that it promised
  REQUIRE(b.id);
  b.send(offer_accepted{b.id});
  std::vector<effect> out;
  SECTION("cancelled") { out = b.send(cancel{first}); }
  SECTION("its step failed") { out = b.finish(fail(errc::fatal, "device")); }
  SECTION("retired") {
    b.send(retire{1s});
    b.now += 1s;
    out = b.send(tick{});
  }
  CHECK(only<abort_transfer>(out).transfer == b.id);
  CHECK(only<close_transfer>(out).transfer == b.id);
  CHECK(all<migration_failed>(out).empty());
  if (b.busy()) b.finish();
  CHECK(b.report().kv_blocks_free == 64);
}

TEST_CASE("a text that ends while it migrates ends well") {
  auto o = side();
  bench b(o);
  auto spec = make_spec(1, 6, 30);
  spec.ignore_eos = false;
  b.send(add{spec, {}});
  b.finish_with({1});
  const auto id = only<offer_kv>(b.send(migrate{first, peer})).transfer;
  b.send(offer_accepted{id});
  b.finish_with({2});
  auto out = b.finish_with({eos});
  CHECK(only<ended>(out).cause == stop_cause::eos);
  CHECK(all<abort_transfer>(out).size() == 1);
  CHECK(all<commit_kv>(out).empty());
  CHECK(b.report().kv_blocks_free == 64);
}

TEST_CASE("what cannot be moved is refused with the reason") {
  auto refusal = [](bench& b, request_key key, instance_id to) {
    auto out = b.send(migrate{key, to});
    CHECK(all<offer_kv>(out).empty());
    return only<migration_failed>(out).why.message;
  };
  source_side b;
  CHECK(refusal(b, {request_id{9}, 1}, peer).find("is not here") != std::string::npos);
  CHECK(refusal(b, first, peer).find("handed over already") != std::string::npos);
  b.send(offer_refused{b.id, {errc::retry, "full"}});
  CHECK(refusal(b, first, instance_id{1}).find("is at i1 already") != std::string::npos);
  auto chunked = side();
  chunked.max_sequences = 3;
  chunked.max_batched_tokens = 4;
  bench prefilling(chunked);
  prefilling.send(add{make_spec(1, 10, 30), {}});
  CHECK(refusal(prefilling, first, peer).find("prefill") != std::string::npos);
  bench ending(side());
  ending.send(add{make_spec(1, 6, 4), {}});
  ending.finish();
  CHECK(refusal(ending, first, peer).find("ends within 3 tokens") != std::string::npos);
  auto tight = side();
  tight.kv_blocks = 2;
  bench full(tight);
  full.send(add{make_spec(1, 6, 30), {}});
  full.finish();
  CHECK(refusal(full, first, peer).find("ends within") != std::string::npos); // the pool is its context limit
}

TEST_CASE("a migration decodes on for as long as its rows take to arrive, within bounds") {
  auto ahead = [](duration row, std::uint32_t max_output = 60) {
    auto o = side();
    o.kv_row_time = row;
    o.predict = [](const step_shape&) { return duration{1ms}; };
    return only<offer_kv>(source_side(o, max_output).offered).ahead;
  };
  CHECK(ahead(0us) == 2);
  CHECK(ahead(500us) == 5); // 8 rows are 4 steps, two more for the messages, the first of them without a row
  CHECK(ahead(1s) == 6);
  CHECK(ahead(1s, 8) == 4); // it would end
}

TEST_CASE("a migrating sequence is never preempted") {
  auto o = side();
  o.kv_blocks = 7;
  o.policy = step_policy::fixed_budget; // first come, first served: the later one gives way
  bench b(o);
  b.send(add{make_spec(1, 8, 19), {}});
  b.send(add{make_spec(2, 6, 19), {}});
  b.finish();
  b.finish();
  const request_key second{request_id{2}, 1};
  REQUIRE(b.entry(second));
  const auto id = only<offer_kv>(b.send(migrate{second, peer})).transfer;
  b.send(offer_accepted{id});
  bool committed = false;
  while (b.report().preemptions == 0) committed = !all<commit_kv>(b.finish()).empty() || committed;
  CHECK(committed);
  CHECK(b.report().waiting == 1); // the first gave way, though it came before
  CHECK(all<migrated>(b.send(kv_taken{id})).size() == 1);
  CHECK(b.entry(first));
}

TEST_CASE("a sink reserves blocks for the rows that are still to be decoded") {
  auto o = side(instance_role::decode);
  o.block_size = 4;
  sink_side b(o);
  const auto accepted = only<accept_offer>(b.answer);
  CHECK(accepted.tokens == 12);
  CHECK(accepted.block_table.size() == 3);
  CHECK(b.report().kv_blocks_free == 61);
}

TEST_CASE("a sink begins when rows and tokens are both there, and tells the source before it computes") {
  sink_side b;
  std::vector<effect> out;
  SECTION("rows first") {
    CHECK(b.land().empty());
    out = b.commit();
  }
  SECTION("tokens first") {
    CHECK(b.commit().empty());
    out = b.land();
  }
  CHECK(only<take_over>(out).to == peer);
  CHECK(place<take_over>(out) < place<run_step>(out));
  REQUIRE(b.entry(first));
  CHECK(b.entry(first)->position == 12);
  CHECK(b.entry(first)->tokens == std::vector<token_id>{13});
  CHECK(b.entry(first)->output_index == 7);
  CHECK(b.send(transfer_aborted{transfer_id{1}}).empty()); // too late: the source will hear that it is out of it
  CHECK(only<token>(b.finish_with({9})).index == 7);
}

TEST_CASE("a sink gives every migration that it does not take back to its source, and never to the router") {
  sink_side b;
  std::vector<effect> out;
  SECTION("transfer failed") { out = b.send(kv_failed{transfer_id{1}, {errc::reroute, "torn"}}); }
  SECTION("aborted") { out = b.send(transfer_aborted{transfer_id{1}}); }
  SECTION("aborted when its rows have landed") {
    b.land();
    out = b.send(transfer_aborted{transfer_id{1}});
  }
  SECTION("lease ended with the rows here") {
    b.land();
    b.now += 10s;
    out = b.send(tick{});
  }
  SECTION("cancelled") { out = b.send(cancel{first}); }
  SECTION("fewer tokens than rows") { out = b.send(kv_committed{transfer_id{1}, 6, 13, {12}}); }
  SECTION("a token outside the vocabulary") { out = b.send(kv_committed{transfer_id{1}, 6, 13, {11, vocab}}); }
  SECTION("a wrong index") { out = b.send(kv_committed{transfer_id{1}, 4, 13, {11, 12}}); }
  SECTION("retired") {
    b.send(retire{1s});
    b.now += 1s;
    out = b.send(tick{});
  }
  CHECK(only<refuse_offer>(out).from == peer);
  CHECK(all<handed_back>(out).empty());
  CHECK(all<close_transfer>(out).size() == 1);
  CHECK(b.report().kv_blocks_free == 64);
  CHECK(b.commit().empty());
}

TEST_CASE("a sink whose source is lost drops what has not begun: the router knows only the source") {
  sink_side b;
  b.land();
  auto out = b.send(peer_lost{peer});
  CHECK(all<handed_back>(out).empty());
  CHECK(b.report().kv_blocks_free == 64);
}

TEST_CASE("a sink without room refuses a migration at once instead of letting it wait") {
  auto o = side(instance_role::decode);
  o.kv_blocks = 6;
  bench b(o);
  b.send(offer{transfer_id{5}, make_spec(5, 14, 20), peer, 10s, 0});
  auto out = b.send(offer{transfer_id{1}, make_spec(1, 6, 20), peer, 10s, 4});
  CHECK(only<refuse_offer>(out).why.code == errc::retry);
  CHECK(b.report().offered == 0);
  out = b.send(offer{transfer_id{2}, make_spec(2, 6, 6), peer, 10s, 5});
  CHECK(only<refuse_offer>(out).why.message.find("may end within 6 tokens") != std::string::npos);
}

TEST_CASE("a migrated text can be found in the prefix cache of both sides") {
  source_side b;
  b.decode_to_the_end();
  b.send(kv_taken{b.id});
  CHECK(b.report().kv_blocks_cached == 2);
  sink_side s;
  s.land();
  s.commit();
  CHECK(s.report().kv_blocks_cached == 3);
}

} // namespace hflex::batcher_migration_test
