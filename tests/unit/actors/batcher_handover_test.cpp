// Both sides of a KV hand-over, one at a time.
#include "actors/scheduler/scheduler.hpp"
#include "tests/unit/actors/batcher_support.hpp"

namespace hflex::batcher_handover_test {

using namespace hflex::instance;
using namespace hflex::instance::testing;
using namespace std::chrono_literals;

namespace {

constexpr instance_id peer{2};

request_key key(std::uint64_t id) { return {request_id{id}, 1}; }

options side(instance_role role) {
  auto o = small_options();
  o.role = role;
  o.transfer_lease = 10s;
  return o;
}

/// A prefill instance with request 1 (10 tokens, chunks of 4) in its first step.
struct prefill_side : bench {
  explicit prefill_side(options o) : bench(o) { id = only<offer_kv>(send(add{make_spec(1, 10, 5), peer})).transfer; }
  prefill_side() : prefill_side(chunked()) {}
  static options chunked() {
    auto o = side(instance_role::prefill);
    o.max_sequences = 3;
    o.max_batched_tokens = 4;
    return o;
  }
  /// Runs until the first token; its effects.
  std::vector<effect> prefill() {
    while (true)
      if (auto out = finish(); !all<token>(out).empty()) return out;
  }
  transfer_id id;
};

/// A decode instance with an offer of request 1 (10 tokens).
struct decode_side : bench {
  explicit decode_side(options o = side(instance_role::decode)) : bench(o) {}
  std::vector<effect> offer_one(std::uint64_t n, duration lease = 10s) {
    return send(offer{transfer_id{n}, make_spec(n, 10, 5), peer, lease});
  }
  std::vector<effect> land(std::uint64_t n) { return send(kv_landed{transfer_id{n}}); }
  std::vector<effect> commit(std::uint64_t n, token_id id = 5) { return send(kv_committed{transfer_id{n}, 0, id}); }
};

} // namespace

TEST_CASE("a hand-over is offered when its prefill starts, not while it waits") {
  prefill_side b;
  CHECK(all<offer_kv>(b.send(add{make_spec(2, 10, 5), peer})).empty());
  CHECK(all<offer_kv>(b.finish()).empty());
  auto out = b.finish(); // 2 tokens of the first are left, so 2 of the second fit
  CHECK(only<offer_kv>(out).spec.key == key(2));
  CHECK(only<offer_kv>(out).spec.tokens.size() == 10);
}

TEST_CASE("a request to be decoded here is not offered to anyone") {
  bench b(side(instance_role::mixed));
  CHECK(all<offer_kv>(b.send(add{make_spec(1, 10, 5), instance_id{1}})).empty());
}

TEST_CASE("a report tells how long the rows were on their way after the prefill's end") {
  prefill_side b;
  CHECK(b.report().handover_wait == 0ms);
  b.send(offer_accepted{b.id});
  b.prefill();
  b.now += 40ms;
  b.send(kv_delivered{b.id});
  CHECK(b.report().handover_wait == 40ms);
  const auto second = only<offer_kv>(b.send(add{make_spec(2, 4, 5), peer})).transfer;
  b.send(offer_accepted{second});
  b.send(kv_delivered{second}); // before the step's own result
  b.finish();
  CHECK(b.report().handover_wait == 35ms); // smoothed
}

TEST_CASE("rows that are still on their way count for as long as they have been") {
  prefill_side b;
  b.send(offer_accepted{b.id});
  b.prefill();
  b.now += 700ms;
  b.send(tick{});
  CHECK(b.report().handover_wait == 700ms);
  b.now += 100ms;
  b.send(kv_delivered{b.id});
  CHECK(b.report().handover_wait > 700ms);
}

TEST_CASE("hand-overs of one core have different ids, and those of two instances too") {
  auto o = side(instance_role::prefill);
  bench b(o);
  b.send(add{make_spec(1, 4, 5), peer});
  b.send(add{make_spec(2, 4, 5), peer});
  const auto second = only<offer_kv>(b.finish()).transfer;
  prefill_side other;
  o.first_transfer = 2;
  prefill_side later(o);
  o.self = instance_id{3};
  CHECK(other.id != second);
  CHECK(later.id == second);
  CHECK(prefill_side(o).id != second);
}

TEST_CASE("rows computed before the acceptance are pushed when it comes, later ones with their step") {
  prefill_side b;
  CHECK_FALSE(b.plan().entries[0].push_kv);
  b.finish(); // 4 rows; a step with 4 more is in flight
  auto out = b.send(offer_accepted{b.id});
  CHECK(only<open_push>(out).tokens == 10);
  CHECK(only<open_push>(out).block_table.size() == 3);
  CHECK(only<push_rows>(out).begin == 0);
  CHECK(only<push_rows>(out).count == 4);
  CHECK(place<open_push>(out) < place<push_rows>(out));
  out = b.finish(); // planned before the acceptance
  CHECK(only<push_rows>(out).begin == 4);
  CHECK(only<push_rows>(out).count == 4);
  CHECK(b.plan().entries[0].push_kv);
  CHECK(b.plan().entries[0].transfer == b.id);
  CHECK(all<push_rows>(b.finish()).empty());
}

TEST_CASE("the first token is committed to the decode instance and the blocks are held until delivery") {
  prefill_side b;
  b.send(offer_accepted{b.id});
  auto out = b.prefill();
  CHECK(only<commit_kv>(out).to == peer);
  CHECK(only<commit_kv>(out).index == 0);
  CHECK(only<commit_kv>(out).token == only<token>(out).id);
  CHECK_FALSE(b.busy());
  CHECK(b.report().sending == 1);
  CHECK(b.report().kv_blocks_free == 61);
  out = b.send(kv_delivered{b.id});
  CHECK(only<close_transfer>(out).transfer == b.id);
  CHECK(all<handed_back>(out).empty());
  CHECK(b.report().kv_blocks_free == 64);
}

TEST_CASE("an acknowledgement that overtakes the last step's result does not lose the first token") {
  prefill_side b;
  b.send(offer_accepted{b.id});
  b.finish();
  b.finish();
  CHECK(b.send(kv_delivered{b.id}).empty());
  auto out = b.finish();
  CHECK(all<token>(out).size() == 1);
  CHECK(all<commit_kv>(out).size() == 1);
  CHECK(all<close_transfer>(out).size() == 1);
  CHECK(all<abort_transfer>(out).empty());
  CHECK(b.report().kv_blocks_free == 64);
}

TEST_CASE("a request that ends with its first token is not handed over") {
  auto o = prefill_side::chunked();
  prefill_side b(o);
  b.send(cancel{key(1)});
  b.finish();
  auto spec = make_spec(2, 4, 1);
  b.id = only<offer_kv>(b.send(add{spec, peer})).transfer;
  b.send(offer_accepted{b.id});
  auto out = b.finish();
  CHECK(only<ended>(out).cause == stop_cause::max_tokens);
  CHECK(only<abort_transfer>(out).transfer == b.id);
  CHECK(only<close_transfer>(out).transfer == b.id);
  CHECK(all<commit_kv>(out).empty());
  CHECK(b.report().kv_blocks_free == 64);
}

TEST_CASE("a hand-over that fails gives the request back, with its blocks, at any point") {
  prefill_side b;
  SECTION("refused") {
    auto out = b.send(offer_refused{b.id, {errc::retry, "full"}});
    CHECK(only<handed_back>(out).why.code == errc::reroute);
    CHECK(all<abort_transfer>(out).empty()); // the other side knows
    b.finish();
  }
  SECTION("refused after the first token") {
    b.prefill();
    const auto back = only<handed_back>(b.send(offer_refused{b.id, {errc::retry, "full"}}));
    CHECK(back.why.code == errc::reroute);
    CHECK_FALSE(back.leaving);
  }
  SECTION("refused as the other side leaves") {
    CHECK(only<handed_back>(b.send(offer_refused{b.id, {errc::reroute, "i2 is retiring"}, true})).leaving);
    b.finish();
  }
  SECTION("transfer failed during prefill") {
    b.send(offer_accepted{b.id});
    auto out = b.send(kv_failed{b.id, {errc::reroute, "checksum"}});
    CHECK(only<handed_back>(out).why.code == errc::reroute);
    CHECK(all<abort_transfer>(out).size() == 1);
    CHECK(b.report().kv_blocks_free == 61); // the step in flight still writes
    CHECK(all<token>(b.finish()).empty());
  }
  SECTION("transfer failed after prefill") {
    b.send(offer_accepted{b.id});
    b.prefill();
    auto out = b.send(kv_failed{b.id, {errc::reroute, "checksum"}});
    CHECK(only<handed_back>(out).why.code == errc::reroute);
    CHECK(all<close_transfer>(out).size() == 1);
  }
  SECTION("lease ended") {
    b.send(offer_accepted{b.id});
    b.prefill();
    b.now += 10s;
    auto out = b.send(tick{});
    CHECK(only<handed_back>(out).why.code == errc::reroute);
    CHECK(all<close_transfer>(out).size() == 1);
    CHECK(all<abort_transfer>(out).size() == 1);
  }
  SECTION("peer lost") {
    b.prefill();
    CHECK(only<handed_back>(b.send(peer_lost{peer})).why.code == errc::reroute);
  }
  CHECK(b.report().kv_blocks_free == 64);
  CHECK(b.send(offer_accepted{b.id}).empty());
}

TEST_CASE("a cancelled hand-over is aborted on both sides") {
  prefill_side b;
  b.send(offer_accepted{b.id});
  b.prefill();
  auto out = b.send(cancel{key(1)});
  CHECK(all<abort_transfer>(out).size() == 1);
  CHECK(all<close_transfer>(out).size() == 1);
  CHECK(all<handed_back>(out).empty());
  CHECK(b.report().kv_blocks_free == 64);
}

TEST_CASE("a sequence being handed over is never preempted") {
  auto o = side(instance_role::mixed);
  o.kv_blocks = 6;
  o.max_sequences = 3;
  o.max_batched_tokens = 12;
  bench b(o);
  b.send(add{make_spec(1, 8, 9), {}});
  b.finish();
  const auto id =
      only<offer_kv>(b.send(add{make_spec(2, 12, 9), peer}).empty() ? b.finish() : std::vector<effect>{}).transfer;
  b.send(offer_accepted{id});
  while (b.report().preemptions == 0) b.finish(); // 1 outgrows its 3 blocks, and has to give way itself
  CHECK(b.report().sending == 1);
  CHECK(b.report().waiting == 1);
  b.send(kv_delivered{id});
  CHECK(b.entry(key(1)));
}

TEST_CASE("an offer is accepted with blocks for its tokens") {
  decode_side b;
  auto accepted = only<accept_offer>(b.offer_one(1));
  CHECK(accepted.from == peer);
  CHECK(accepted.tokens == 10);
  CHECK(accepted.block_table.size() == 3);
  CHECK(accepted.lease == 10s);
  CHECK(b.report().receiving == 1);
}

TEST_CASE("a peer cannot hold blocks here for longer than this instance's own lease") {
  decode_side b;
  CHECK(only<accept_offer>(b.offer_one(1, duration::max())).lease == 10s);
}

TEST_CASE("decoding starts when KV and first token are both there, in either order") {
  decode_side b;
  b.offer_one(1);
  std::vector<effect> out;
  SECTION("KV first") {
    CHECK(b.land(1).empty());
    out = b.commit(1);
  }
  SECTION("first token first") {
    CHECK(b.commit(1).empty());
    out = b.land(1);
  }
  CHECK(only<close_transfer>(out).transfer == transfer_id{1});
  REQUIRE(b.entry(key(1)));
  CHECK(b.entry(key(1))->position == 10);
  CHECK(b.entry(key(1))->tokens == std::vector<token_id>{5});
  CHECK(b.entry(key(1))->output_index == 1);
  CHECK(only<token>(b.finish_with({9})).index == 1);
}

TEST_CASE("an offer without free blocks waits for them, first come first served") {
  auto o = side(instance_role::decode);
  o.kv_blocks = 4;
  decode_side b(o);
  b.offer_one(1);
  CHECK(all<accept_offer>(b.offer_one(2)).empty());
  CHECK(all<accept_offer>(b.send(offer{transfer_id{3}, make_spec(3, 8, 5), peer, 10s})).empty());
  CHECK(b.commit(2).empty()); // its first token may come before its turn
  auto out = b.send(cancel{key(1)});
  CHECK(only<accept_offer>(out).transfer == transfer_id{2});
  b.land(2);
  CHECK(b.entry(key(2)));
}

TEST_CASE("an offer whose lease ends while it waits is refused") {
  auto o = side(instance_role::decode);
  o.kv_blocks = 4;
  decode_side b(o);
  b.offer_one(1);
  CHECK(only<wake_at>(b.offer_one(2, 3s)).at == b.now + 3s);
  b.now += 3s;
  auto out = b.send(tick{});
  CHECK(only<refuse_offer>(out).transfer == transfer_id{2});
  CHECK(only<refuse_offer>(out).from == peer);
  CHECK(only<wake_at>(out).at == b.now + 7s); // the other lease
  CHECK(b.report().offered == 0);
}

TEST_CASE("an offer that cannot be taken is refused at once") {
  auto o = side(instance_role::decode);
  o.kv_blocks = 4;
  CHECK(o.max_offers >= scheduler::options{}.max_outstanding); // of those that it is meant to hold, none is refused
  o.max_offers = 1;
  decode_side b(o);
  SECTION("queue full") {
    b.offer_one(1);
    b.offer_one(2);
    CHECK(only<refuse_offer>(b.offer_one(3)).why.code == errc::retry);
  }
  SECTION("too large for the pool") {
    auto out = b.send(offer{transfer_id{1}, make_spec(1, 16, 5), peer, 10s});
    CHECK(only<refuse_offer>(out).why.code == errc::reject);
  }
  SECTION("retiring") {
    b.send(retire{1s});
    CHECK(only<refuse_offer>(b.offer_one(1)).why.code == errc::reroute);
  }
  SECTION("prefill role") {
    b.send(set_role{instance_role::prefill});
    CHECK(only<refuse_offer>(b.offer_one(1)).why.code == errc::reroute);
  }
}

TEST_CASE("a decode instance turned to prefill refuses waiting offers and keeps those it accepted") {
  auto o = side(instance_role::decode);
  o.kv_blocks = 4;
  decode_side b(o);
  b.offer_one(1);
  b.offer_one(2);
  CHECK(only<refuse_offer>(b.send(set_role{instance_role::prefill})).transfer == transfer_id{2});
  b.commit(1);
  b.land(1);
  CHECK(b.entry(key(1)));
}

TEST_CASE("a transfer that fails before it landed frees its blocks, and the prefill side speaks for it") {
  decode_side b;
  b.offer_one(1);
  b.commit(1);
  auto out = b.send(kv_failed{transfer_id{1}, {errc::reroute, "peer gone"}});
  CHECK(all<handed_back>(out).empty());
  CHECK(all<close_transfer>(out).size() == 1);
  CHECK(b.report().kv_blocks_free == 64);
}

TEST_CASE("KV that landed without its first token is handed back when the lease ends") {
  decode_side b;
  b.offer_one(1);
  b.land(1);
  b.now += 10s;
  auto out = b.send(tick{});
  CHECK(only<handed_back>(out).key == key(1));
  CHECK(only<handed_back>(out).why.code == errc::reroute);
  CHECK(all<close_transfer>(out).size() == 1);
  CHECK(b.report().kv_blocks_free == 64);
}

TEST_CASE("a lease that ends while rows arrive is told to the prefill side and to the router") {
  decode_side b; // the prefill side may have had its acknowledgement already
  b.offer_one(1);
  b.now += 10s;
  auto out = b.send(tick{});
  CHECK(only<refuse_offer>(out).transfer == transfer_id{1});
  CHECK(only<handed_back>(out).key == key(1));
}

TEST_CASE("an aborted hand-over disappears from the decode side at any point") {
  auto o = side(instance_role::decode);
  o.kv_blocks = 4;
  decode_side b(o);
  b.offer_one(1);
  std::vector<effect> out;
  SECTION("offered") {
    b.offer_one(2);
    CHECK(b.send(transfer_aborted{transfer_id{2}}).empty());
    CHECK(b.report().offered == 0);
    out = b.send(transfer_aborted{transfer_id{1}});
  }
  SECTION("receiving") { out = b.send(transfer_aborted{transfer_id{1}}); }
  SECTION("decoding") {
    b.commit(1);
    b.land(1);
    out = b.send(transfer_aborted{transfer_id{1}});
    b.finish_with({9});
  }
  CHECK(all<handed_back>(out).empty());
  CHECK(all<refuse_offer>(out).empty());
  CHECK(b.report().kv_blocks_free == 4);
}

TEST_CASE("a lost prefill instance leaves its hand-overs to the decode side to give back") {
  decode_side b;
  b.offer_one(1);
  b.commit(1);
  auto out = b.send(peer_lost{peer});
  CHECK(only<handed_back>(out).key == key(1));
  CHECK(b.report().kv_blocks_free == 64);
}

TEST_CASE("a first token out of place is not decoded from") {
  decode_side b;
  b.offer_one(1);
  std::vector<effect> out;
  SECTION("wrong index") { out = b.send(kv_committed{transfer_id{1}, 1, 5}); }
  SECTION("outside the vocabulary") { out = b.send(kv_committed{transfer_id{1}, 0, vocab}); }
  CHECK(only<refuse_offer>(out).transfer == transfer_id{1});
  CHECK(only<handed_back>(out).why.code == errc::reroute);
  CHECK(all<close_transfer>(out).size() == 1);
  CHECK(b.report().receiving == 0);
}

TEST_CASE("a draining decode instance finishes the hand-overs it accepted and hands back the rest at the deadline") {
  decode_side b;
  b.offer_one(1);
  b.offer_one(2);
  b.send(retire{5s});
  b.commit(1);
  b.land(1);
  CHECK(b.entry(key(1)));
  b.land(2);
  b.now += 5s;
  auto out = b.send(tick{});
  CHECK(all<handed_back>(out).size() == 2);
  CHECK(all<retired>(b.finish()).size() == 1);
}

TEST_CASE("a decode instance recomputes a preempted sequence by itself, before it accepts another offer") {
  auto o = side(instance_role::decode);
  o.kv_blocks = 6;
  decode_side b(o);
  for (std::uint64_t n : {1, 2}) {
    b.send(offer{transfer_id{n}, make_spec(n, 11, 9), peer, 10s});
    b.commit(n);
    b.land(n);
  }
  while (b.report().preemptions == 0) b.finish();
  CHECK(all<accept_offer>(b.send(offer{transfer_id{3}, make_spec(3, 4, 5), peer, 10s})).empty());
  while (!b.entry(key(2))) b.finish();
  CHECK(b.entry(key(2))->position == 4); // its first block had not been needed by the other yet
  CHECK(b.entry(key(2))->sample);
}

} // namespace hflex::batcher_handover_test
