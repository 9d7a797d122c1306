// Live moves as the router sees them.
#include "tests/unit/actors/router_bench.hpp"

namespace hflex::router_migration_test {

using namespace hflex::router;
using namespace hflex::router::test;

namespace {

/// A request that decodes on i1 with one token out, and was told to move to i2.
struct moving : bench {
  moving() {
    id = started(i1, i1, 6);
    on(tokens{{id, 1}, i1, 0, {10}});
    on(move{{id, 1}, i1, i2});
  }
  request_key key() const { return {id, 1}; }
  request_id id;
};

} // namespace

TEST_CASE("an order to move goes to the instance that decodes") {
  moving b;
  const auto order = only<migrate_at>(b.out);
  CHECK(order.instance == i1);
  CHECK(order.key == b.key());
  CHECK(order.to == i2);
  CHECK(count<to_scheduler_moved>(b.out) == 0);
  CHECK(b.c.job(b.id)->decode_instance == i1);
  CHECK(b.c.job(b.id)->migrations == 0);
}

TEST_CASE("the scheduler hears once that a request has moved, from whoever speaks first") {
  moving b;
  SECTION("the source") {
    const auto told = only<to_scheduler_moved>(b.on(migrated{b.key(), i2}));
    CHECK(told.at == i2);
    CHECK(told.reason.empty());
    CHECK(count<to_scheduler_moved>(b.on(tokens{b.key(), i2, 1, {11}})) == 0);
  }
  SECTION("the sink's tokens") {
    CHECK(only<to_scheduler_moved>(b.on(tokens{b.key(), i2, 1, {11}})).at == i2);
    CHECK(count<to_scheduler_moved>(b.on(migrated{b.key(), i2})) == 0);
  }
  CHECK(b.c.job(b.id)->migrations == 1);
  CHECK(b.c.job(b.id)->decode_instance == i2);
  CHECK(b.on(instance_gone{i1}).empty());
}

TEST_CASE("a move that came to nothing leaves the request where it is") {
  moving b;
  const auto told = only<to_scheduler_moved>(b.on(migration_failed{b.key(), i2, "full"}));
  CHECK(told.at == i1);
  CHECK(told.reason == "full");
  CHECK(b.on(migration_failed{b.key(), i2, "again"}).empty());
  CHECK(b.c.job(b.id)->migrations == 0);
  CHECK(count<client_tokens>(b.on(tokens{b.key(), i1, 1, {11}})) == 1);
}

TEST_CASE("an order that crosses another event is answered without a move") {
  bench b;
  auto id = b.started(i1, i1, 6);
  SECTION("before the first token") {}
  SECTION("from elsewhere than it decodes") {
    b.on(tokens{{id, 1}, i1, 0, {10}});
    b.on(migrated{{id, 1}, i3});
  }
  SECTION("with tokens under way") { b.on(tokens{{id, 1}, i3, 1, {11}}); }
  const auto at = b.c.job(id)->decode_instance;
  const auto told = only<to_scheduler_moved>(b.on(move{{id, 1}, i1, i2}));
  CHECK(told.at == at);
  CHECK_FALSE(told.reason.empty());
  CHECK(count<migrate_at>(b.out) == 0);
  CHECK(b.on(move{{id, 7}, i1, i2}).empty());
}

TEST_CASE("no request is moved to an instance that is gone") {
  bench b;
  auto id = b.started(i1, i1, 6);
  b.on(tokens{{id, 1}, i1, 0, {10}});
  b.on(instance_gone{i2});
  CHECK(only<to_scheduler_moved>(b.on(move{{id, 1}, i1, i2})).at == i1);
}

TEST_CASE("tokens of the sink that overtake the source's wait for them") {
  moving b;
  CHECK(count<client_tokens>(b.on(tokens{b.key(), i2, 3, {13}})) == 0);
  const auto out = only<client_tokens>(b.on(tokens{b.key(), i1, 1, {11, 12}}));
  CHECK(out.first_index == 1);
  CHECK(out.ids == std::vector<token_id>{11, 12, 13});
}

TEST_CASE("an end at the sink waits for tokens of the source, however many messages they take") {
  moving b;
  CHECK(count<client_done>(b.on(ended{b.key(), i2, stop_cause::eos, 0, 3})) == 0);
  CHECK(only<to_scheduler_moved>(b.out).at == i2);
  CHECK(count<client_done>(b.on(tokens{b.key(), i1, 1, {11}})) == 0);
  const auto done = only<client_done>(b.on(tokens{b.key(), i1, 2, {12}}));
  CHECK(done.record.token_ids == std::vector<token_id>{10, 11, 12});
  CHECK(done.record.outcome == outcome::finished);
  CHECK(done.record.migrations == 1);
}

TEST_CASE("an end at the sink whose source's tokens never come begins again") {
  moving b;
  b.on(ended{b.key(), i2, stop_cause::eos, 0, 3});
  b.on(tick{}, 1s);
  CHECK(only<to_scheduler_arrived>(b.out).produced == 1);
}

TEST_CASE("whatever ends an attempt while it moves is told to both instances") {
  moving b;
  SECTION("cancelled") { b.on(cancel{{}, b.id}); }
  SECTION("silent") { b.on(tick{}, 5s); }
  CHECK(count<cancel_at>(b.out) == 2);
  CHECK(count<to_scheduler_moved>(b.out) == 0); // the end says it all
}

TEST_CASE("the death of the source while a request moves begins it again, and clears the sink") {
  moving b;
  b.on(instance_gone{i1});
  CHECK(only<cancel_at>(b.out).instance == i2);
  CHECK(only<to_scheduler_arrived>(b.out).produced == 1);
}

TEST_CASE("the death of the sink is nothing to a request that has not moved yet") {
  moving b;
  CHECK(b.on(instance_gone{i2}).empty());
  CHECK(only<to_scheduler_moved>(b.on(migration_failed{b.key(), i2, "lost i2"})).at == i1);
}

TEST_CASE("a request that was taken over by an instance that has died since begins again") {
  moving b;
  b.on(instance_gone{i2});
  b.on(migrated{b.key(), i2});
  CHECK(count<to_scheduler_arrived>(b.out) == 1);
  CHECK(b.c.job(b.id)->retries == 1);
}

TEST_CASE("a request that moves back and forth counts each move") {
  moving b;
  b.on(migrated{b.key(), i2});
  b.on(tokens{b.key(), i2, 1, {11}});
  b.on(move{b.key(), i2, i1});
  CHECK(only<migrate_at>(b.out).instance == i2);
  CHECK(only<to_scheduler_moved>(b.on(tokens{b.key(), i1, 2, {12}, 0})).at == i1);
  CHECK(b.c.job(b.id)->migrations == 2);
  CHECK(b.c.job(b.id)->decode_instance == i1);
}

} // namespace hflex::router_migration_test
