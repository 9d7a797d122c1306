#include "tests/unit/actors/router_bench.hpp"
#include <limits>

namespace hflex::router_test {

using namespace hflex::router;
using namespace hflex::router::test;

TEST_CASE("a request goes from submit to finished, its tokens streamed once each") {
  bench b;
  auto id = b.submitted(4, 3);
  auto arrived = only<to_scheduler_arrived>(b.out);
  CHECK(arrived.key == request_key{id, 1});
  CHECK(arrived.context_tokens == 4);
  CHECK(arrived.slo_class == "chat");
  CHECK(arrived.targets.ttft == 200ms);

  auto begun = only<start>(b.on(placed{{id, 1}, i1, i2}, 10ms));
  CHECK(begun.spec.tokens.size() == 4);
  CHECK(begun.spec.max_output_tokens == 3);
  CHECK(begun.prefill == i1);
  CHECK(begun.decode == i2);

  b.on(tokens{{id, 1}, i1, 0, {10}}, 90ms);
  CHECK(only<to_scheduler_prefill_finished>(b.out).key == request_key{id, 1});
  CHECK(only<client_tokens>(b.out).ids == std::vector<token_id>{10});
  b.on(tokens{{id, 1}, i2, 1, {11, 12}}, 60ms);
  CHECK(count<to_scheduler_prefill_finished>(b.out) == 0);
  CHECK(only<client_tokens>(b.out).first_index == 1);

  b.on(ended{{id, 1}, i2, stop_cause::max_tokens}, 1ms);
  auto done = only<client_done>(b.out);
  CHECK(done.client == alice);
  CHECK(done.record.outcome == outcome::finished);
  CHECK(done.record.reason == "max_tokens");
  CHECK(done.record.token_ids == std::vector<token_id>{10, 11, 12});
  CHECK(ttft(done.record.timing) == duration{100ms});
  CHECK(tpot(done.record.timing) == duration{30ms});
  CHECK(done.record.attained);
  CHECK(done.record.strictly_attained);
  CHECK(done.record.prefill_instance == i1);
  CHECK(done.record.decode_instance == i2);
  CHECK(done.record.retries == 0);
  CHECK(only<to_scheduler_ended>(b.out).outcome == outcome::finished);
  CHECK(count<cancel_at>(b.out) == 0);
  CHECK(b.c.in_flight() == 0);
}

TEST_CASE("a record tells how much of its prompt the last attempt's prefill instance had cached") {
  bench b;
  auto id = b.started(i1, i2, 3);
  b.on(tokens{{id, 1}, i1, 0, {10}, 3});
  CHECK(b.c.job(id)->cached_prompt_tokens == 3);
  b.on(tokens{{id, 1}, i2, 1, {11}, 2}); // what the decode instance did is not prefill
  CHECK(b.c.job(id)->cached_prompt_tokens == 3);
  b.on(handed_back{{id, 1}, i2, errc::reroute, "busy"});
  only<start>(b.on(placed{{id, 2}, i3, i3}));
  CHECK(b.c.job(id)->cached_prompt_tokens == 0);
  auto record = only<client_done>(b.on(ended{{id, 2}, i3, stop_cause::eos, 400})).record;
  CHECK(record.cached_prompt_tokens == 4); // the whole prompt, whatever the instance says
}

TEST_CASE("attainment needs the mean, strict attainment each token's own deadline") {
  bench b;
  auto id = b.started(i1, i1, 3);
  b.on(tokens{{id, 1}, i1, 0, {10}}, 100ms); // due at 200 ms
  b.on(tokens{{id, 1}, i1, 1, {11}}, 160ms); // 260 ms, due at 250 ms
  b.on(tokens{{id, 1}, i1, 2, {12}}, -60ms); // a mean of 50 ms
  auto record = only<client_done>(b.on(ended{{id, 1}, i1, stop_cause::max_tokens})).record;
  CHECK(record.attained);
  CHECK_FALSE(record.strictly_attained);

  id = b.started(i1, i1, 1);
  b.on(tokens{{id, 1}, i1, 0, {10}}, 201ms);
  record = only<client_done>(b.on(ended{{id, 1}, i1, stop_cause::max_tokens})).record;
  CHECK_FALSE(record.attained);
  CHECK_FALSE(record.strictly_attained);
}

TEST_CASE("a repeated token index is ignored and an overlap adds only what is new") {
  bench b;
  auto id = b.started(i1, i1);
  b.on(tokens{{id, 1}, i1, 0, {10, 11}});
  CHECK(count<client_tokens>(b.on(tokens{{id, 1}, i1, 0, {10, 11}})) == 0);
  auto fresh = only<client_tokens>(b.on(tokens{{id, 1}, i1, 1, {11, 12}}));
  CHECK(fresh.first_index == 2);
  CHECK(fresh.ids == std::vector<token_id>{12});
}

TEST_CASE("a gap in one instance's tokens hands the attempt back") {
  bench b;
  auto id = b.started(i1, i1);
  b.on(tokens{{id, 1}, i1, 0, {10}});
  b.on(tokens{{id, 1}, i1, 2, {12}});
  CHECK(count<client_tokens>(b.out) == 0);
  CHECK(only<cancel_at>(b.out).instance == i1);
  CHECK(only<to_scheduler_ended>(b.out).key == request_key{id, 1});
  CHECK_FALSE(only<to_scheduler_ended>(b.out).outcome);
  auto again = only<to_scheduler_arrived>(b.out);
  CHECK(again.key == request_key{id, 2});
  CHECK(again.context_tokens == 5);
  CHECK(again.produced == 1);
}

TEST_CASE("more tokens than were asked for fail the attempt") {
  bench b;
  auto id = b.started(i1, i1, 2);
  b.on(tokens{{id, 1}, i1, 0, {10, 11, 12}});
  CHECK(count<client_tokens>(b.out) == 0);
  CHECK(only<to_scheduler_arrived>(b.out).produced == 0);
  b.on(placed{{id, 2}, i1, i1});
  b.on(tokens{{id, 2}, i1, std::numeric_limits<std::uint32_t>::max(), {1, 2}});
  CHECK(only<to_scheduler_arrived>(b.out).key.attempt == 3);
}

TEST_CASE("decode tokens that overtake the prefill instance's wait for it") {
  bench b;
  auto id = b.started(i1, i2, 3);
  CHECK(count<client_tokens>(b.on(tokens{{id, 1}, i2, 1, {11, 12}})) == 0);
  CHECK(count<client_done>(b.on(ended{{id, 1}, i2, stop_cause::max_tokens})) == 0);
  b.on(tokens{{id, 1}, i1, 0, {10}}, 50ms);
  CHECK(only<client_tokens>(b.out).ids == std::vector<token_id>{10, 11, 12});
  CHECK(only<client_done>(b.out).record.outcome == outcome::finished);
}

TEST_CASE("a decode instance's end that overtakes the only token waits for it") {
  bench b;
  auto id = b.started(i1, i2);
  CHECK(count<client_done>(b.on(ended{{id, 1}, i2, stop_cause::eos})) == 0);
  b.on(tokens{{id, 1}, i1, 0, {10}});
  CHECK(only<client_done>(b.out).record.token_ids == std::vector<token_id>{10});
}

TEST_CASE("an overtaken token that never comes fails the attempt after reorder_timeout") {
  bench b;
  auto id = b.started(i1, i2);
  auto due = only<wake_at>(b.on(tokens{{id, 1}, i2, 1, {11}})).time;
  CHECK(due == b.now + 100ms);
  CHECK(count<cancel_at>(b.on(tick{}, 99ms)) == 0);
  b.on(tick{}, 1ms);
  CHECK(count<cancel_at>(b.out) == 2);
  CHECK(only<to_scheduler_arrived>(b.out).key == request_key{id, 2});
}

TEST_CASE("overtaking tokens beyond the bound fail the attempt") {
  options o = small();
  o.max_held_tokens = 2;
  bench b{core{o}};
  auto id = b.started(i1, i2);
  b.on(tokens{{id, 1}, i2, 1, {11, 12}});
  CHECK(count<to_scheduler_arrived>(b.out) == 0);
  b.on(tokens{{id, 1}, i2, 3, {13}});
  CHECK(count<to_scheduler_arrived>(b.out) == 1);
}

TEST_CASE("an instance's death sends its requests back with the tokens produced so far") {
  bench b;
  auto hit = b.started(i1, i2);
  auto spared = b.started(i3, i3);
  b.on(tokens{{hit, 1}, i1, 0, {10}});
  b.on(tokens{{hit, 1}, i2, 1, {11}});
  b.on(instance_gone{i2});
  CHECK(only<to_scheduler_arrived>(b.out).key == request_key{hit, 2});
  CHECK(only<cancel_at>(b.out).instance == i1); // not at the dead one
  CHECK(b.c.job(spared)->state == job_state::running);

  auto again = only<start>(b.on(placed{{hit, 2}, i3, i3}));
  CHECK(again.spec.tokens == std::vector<token_id>{5, 5, 5, 5, 10, 11});
  CHECK(again.spec.prompt_tokens == 4);
  CHECK(count<client_tokens>(b.on(tokens{{hit, 1}, i1, 2, {66}})) == 0); // an earlier attempt speaks
  CHECK(only<client_tokens>(b.on(tokens{{hit, 2}, i3, 2, {12}})).first_index == 2);
  CHECK(b.c.job(hit)->retries == 1);
}

TEST_CASE("a prefill instance's death matters only until the decode instance has spoken") {
  bench b;
  auto before = b.started(i1, i2);
  b.on(tokens{{before, 1}, i1, 0, {10}});
  auto after = b.started(i1, i2);
  b.on(tokens{{after, 1}, i1, 0, {10}});
  b.on(tokens{{after, 1}, i2, 1, {11}});
  b.on(instance_gone{i1});
  CHECK(only<to_scheduler_arrived>(b.out).key == request_key{before, 2});
  CHECK(only<cancel_at>(b.out).instance == i2);
}

TEST_CASE("a placement that crosses its instance's death is tried again at once") {
  bench b;
  auto id = b.submitted();
  b.on(instance_gone{i2});
  b.on(placed{{id, 1}, i1, i2});
  CHECK(count<start>(b.out) == 0);
  CHECK(only<to_scheduler_arrived>(b.out).key == request_key{id, 2});
}

TEST_CASE("a request that was complete when its instance died is finished, not tried again") {
  bench b;
  auto full = b.started(i1, i1, 2);
  b.on(tokens{{full, 1}, i1, 0, {10, 11}});
  auto stopped = b.started(i1, i1);
  b.on(tokens{{stopped, 1}, i1, 0, {10, eos}});
  b.on(instance_gone{i1});
  auto done = all<client_done>(b.out);
  REQUIRE(done.size() == 2);
  CHECK(done[0].record.outcome == outcome::finished);
  CHECK(done[0].record.reason == "max_tokens");
  CHECK(done[1].record.reason == "eos");
  CHECK(count<to_scheduler_arrived>(b.out) == 0);
}

TEST_CASE("an end-of-sequence token ends nothing when the request ignores it") {
  bench b;
  auto s = prompt_of(2);
  s.ignore_eos = true;
  auto id = only<accepted>(b.on(s)).id;
  b.on(placed{{id, 1}, i1, i1});
  b.on(tokens{{id, 1}, i1, 0, {eos}});
  CHECK(only<to_scheduler_arrived>(b.on(instance_gone{i1})).produced == 1);
}

TEST_CASE("attempts are limited and the last cause is told") {
  bench b;
  auto id = b.submitted();
  for (std::uint32_t attempt = 1; attempt <= 3; ++attempt) {
    b.on(placed{{id, attempt}, i1, i1});
    b.on(handed_back{{id, attempt}, i1, errc::retry, fmt::format("busy {}", attempt)});
    CHECK(count<cancel_at>(b.out) == 0); // the one that hands back knows
  }
  auto record = only<client_done>(b.out).record;
  CHECK(record.outcome == outcome::failed);
  CHECK(record.reason == "i1: busy 3 (attempt 3 of 3)");
  CHECK(record.retries == 2);
}

TEST_CASE("what a leaving instance hands back does not use the attempts up") {
  bench b;
  auto id = b.submitted();
  std::uint32_t attempt = 0;
  while (++attempt <= 10) {
    b.on(placed{{id, attempt}, i1, i1});
    b.on(handed_back{{id, attempt}, i1, errc::reroute, "i1 is retiring", true});
    REQUIRE(count<to_scheduler_arrived>(b.out) == 1);
  }
  for (; attempt <= 13; ++attempt) {
    CHECK(count<client_done>(b.out) == 0);
    b.on(placed{{id, attempt}, i1, i1});
    b.on(handed_back{{id, attempt}, i1, errc::retry, "busy"});
  }
  CHECK(only<client_done>(b.out).record.reason == "i1: busy (attempt 3 of 3)");
}

TEST_CASE("a fleet that does nothing but leave does not keep a request for ever") {
  bench b;
  auto id = b.submitted();
  for (std::uint32_t attempt = 1; attempt < 64 + 3; ++attempt) {
    b.on(placed{{id, attempt}, i1, i1});
    b.on(handed_back{{id, attempt}, i1, errc::reroute, "i1 is retiring", true});
    REQUIRE(count<client_done>(b.out) == 0);
  }
  b.on(placed{{id, 67}, i1, i1});
  b.on(handed_back{{id, 67}, i1, errc::reroute, "i1 is retiring", true});
  CHECK(only<client_done>(b.out).record.outcome == outcome::failed);
}

TEST_CASE("a hand-back that blames the request or the component fails it at once") {
  for (auto code : {errc::reject, errc::fatal}) {
    bench b;
    auto id = b.started(i1, i2);
    b.on(handed_back{{id, 1}, i1, code, "token 70000 is outside the vocabulary"});
    CHECK(only<client_done>(b.out).record.reason == "i1: token 70000 is outside the vocabulary");
    CHECK(only<client_done>(b.out).record.outcome == outcome::failed);
    CHECK(only<cancel_at>(b.out).instance == i2);
  }
}

TEST_CASE("a hand-back from an instance that is not needed any more is ignored") {
  bench b;
  auto id = b.started(i1, i2);
  b.on(tokens{{id, 1}, i1, 0, {10}});
  b.on(tokens{{id, 1}, i2, 1, {11}});
  CHECK(b.on(handed_back{{id, 1}, i1, errc::reroute, "lease ended"}).empty());
  CHECK(b.on(handed_back{{id, 1}, i3, errc::reroute, "never had it"}).empty());
  CHECK(b.c.job(id)->retries == 0);
}

TEST_CASE("an end at max_tokens with tokens missing is not believed") {
  bench b;
  auto id = b.started(i1, i1, 3);
  b.on(tokens{{id, 1}, i1, 0, {10}});
  b.on(ended{{id, 1}, i1, stop_cause::max_tokens});
  CHECK(count<client_done>(b.out) == 0);
  CHECK(only<to_scheduler_arrived>(b.out).produced == 1);
}

TEST_CASE("a live move changes the decode instance and is counted once") {
  bench b;
  auto id = b.started(i1, i1);
  b.on(tokens{{id, 1}, i1, 0, {10}});
  SECTION("told by an event, then by its tokens") {
    b.on(migrated{{id, 1}, i2});
    b.on(tokens{{id, 1}, i2, 1, {11}});
  }
  SECTION("told by its tokens, then by an event") {
    b.on(tokens{{id, 1}, i2, 1, {11}});
    b.on(migrated{{id, 1}, i2});
  }
  CHECK(b.c.job(id)->migrations == 1);
  CHECK(b.c.job(id)->decode_instance == i2);
  CHECK(b.on(instance_gone{i1}).empty());
  CHECK(count<to_scheduler_arrived>(b.on(instance_gone{i2})) == 1);
}

TEST_CASE("a silent attempt is given up after stage_timeout, a waiting one is not") {
  bench b;
  auto waiting = b.submitted();
  auto id = b.started(i1, i2);
  CHECK(only<wake_at>(b.out).time == b.now + 5s);
  b.on(progress{{id, 1}, i1}, 4s);
  CHECK(count<cancel_at>(b.on(tick{}, 4s)) == 0);
  CHECK(only<wake_at>(b.out).time == b.now + 1s);
  b.on(tick{}, 1s);
  CHECK(count<cancel_at>(b.out) == 2);
  CHECK(only<to_scheduler_arrived>(b.out).key == request_key{id, 2});
  CHECK(b.c.job(waiting)->retries == 0);
}

TEST_CASE("a request fails at its overall deadline wherever it is") {
  bench b;
  auto waiting = b.submitted();
  auto id = b.started(i1, i1);
  for (int i = 0; i < 5; ++i) b.on(tokens{{id, 1}, i1, static_cast<std::uint32_t>(i), {10}}, 4s);
  for (int i = 0; i < 10; ++i) b.on(progress{{id, 1}, i1}, 4s);
  b.on(tick{});
  CHECK(count<client_done>(b.out) == 2);
  CHECK(b.c.job(waiting)->outcome == outcome::failed);
  CHECK(b.c.job(waiting)->reason == "timed out after 60 s, waiting for an instance; 0 of 8 tokens came");
  CHECK(b.c.job(id)->reason == "timed out after 60 s, running; 5 of 8 tokens came");
  CHECK(only<cancel_at>(b.out).instance == i1);
  CHECK(b.c.in_flight() == 0);
}

TEST_CASE("a cancelled request ends once and is cancelled where it runs") {
  bench b;
  auto id = b.started(i1, i2);
  b.on(cancel{bob, id});
  CHECK(only<cancel_result>(b.out).cancelled);
  CHECK(count<cancel_at>(b.out) == 2);
  CHECK(only<client_done>(b.out).client == alice);
  CHECK(only<client_done>(b.out).record.outcome == outcome::cancelled);
  CHECK(only<client_done>(b.out).record.reason == "cancelled on request");
  b.on(cancel{bob, id});
  CHECK(only<cancel_result>(b.out).answer == "r1 has ended already: cancelled");
  b.on(cancel{bob, {77}});
  CHECK_FALSE(only<cancel_result>(b.out).cancelled);
  CHECK(only<cancel_result>(b.out).answer == "r77 is not known");
  CHECK(b.on(tokens{{id, 1}, i1, 0, {10}}).empty());
}

TEST_CASE("a client that goes takes its attached requests and waits with it") {
  bench b;
  auto detached = b.submitted(4, {}, true);
  auto attached = b.started(i1, i1);
  b.on(wait{alice, detached});
  b.on(client_gone{alice});
  auto done = only<client_done>(b.out);
  CHECK(done.id == attached);
  CHECK_FALSE(done.client);
  CHECK(done.record.reason == "its client is gone");
  CHECK(only<cancel_at>(b.out).key.id == attached);

  b.on(placed{{detached, 1}, i1, i1});
  CHECK(count<client_tokens>(b.on(tokens{{detached, 1}, i1, 0, {10}})) == 0);
  b.on(ended{{detached, 1}, i1, stop_cause::eos});
  CHECK(only<client_done>(b.out).record.outcome == outcome::finished);
  CHECK(count<wait_done>(b.out) == 0);
}

TEST_CASE("what the scheduler sheds ends with its reason and is not told back to it") {
  bench b;
  auto id = b.submitted();
  b.on(shed{{id, 1}, "TTFT of 200 ms cannot be met"});
  CHECK(only<client_done>(b.out).record.outcome == outcome::shed);
  CHECK(only<client_done>(b.out).record.reason == "TTFT of 200 ms cannot be met");
  CHECK(count<to_scheduler_ended>(b.out) == 0);
  CHECK(b.on(shed{{id, 1}, "again"}).empty());
}

TEST_CASE("waiters are told once, at the end or at once when it is past") {
  bench b;
  auto id = b.submitted();
  CHECK(b.on(wait{bob, id}).empty());
  CHECK(b.on(wait{bob, id}).empty());
  CHECK(b.on(wait{{3}, id}).empty());
  CHECK(says(only<wait_done>(b.on(wait{{4}, id})).reason, "limit 2"));
  b.on(cancel{alice, id});
  REQUIRE(count<wait_done>(b.out) == 2);
  CHECK(all<wait_done>(b.out)[0].client == bob);
  CHECK(all<wait_done>(b.out)[0].record->outcome == outcome::cancelled);
  CHECK(only<wait_done>(b.on(wait{{4}, id})).record->reason == "cancelled by its client");
  CHECK(only<wait_done>(b.on(wait{bob, {50}})).reason == "r50 is not known");
}

TEST_CASE("the history of ended requests is bounded, oldest end first") {
  bench b;
  for (std::uint64_t i = 1; i <= 3; ++i) b.submitted();
  for (std::uint64_t i : {3, 1, 2}) b.on(cancel{alice, {i}});
  b.submitted();
  CHECK(b.c.job({3}) == nullptr);
  CHECK(b.c.job({1})->outcome == outcome::cancelled);
  std::vector<std::uint64_t> listed;
  for (auto& record : b.c.jobs()) listed.push_back(record.id.value);
  CHECK(listed == std::vector<std::uint64_t>{1, 2, 4});
}

} // namespace hflex::router_test
