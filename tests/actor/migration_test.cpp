// Live migration through all shells: the same tokens with and without, and one answer to whoever asked.
#include "tests/support/small_cluster.hpp"

namespace hflex::test::migration_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const std::string prompt = "Call me Ishmael";

struct two_mixed : small_cluster {
  explicit two_mixed(std::vector<scaler::fleet_line> fleet = {{instance_role::mixed, 2}})
      : small_cluster(std::move(fleet)) {}

  void start(const std::vector<std::string>& names) {
    start_head();
    for (const auto& name : names) nodes.push_back(&start_node(name));
    until_ready(names.size());
    client = start_client();
  }
  /// A job that has produced some tokens, and where it decodes.
  std::uint64_t begin(std::uint32_t tokens) {
    auto id = submit(client, prompt, tokens);
    until([&, id] { return client.log->streamed[id].size() >= 10; });
    return id;
  }
  msg<s::JobList> job(std::uint64_t id) {
    return ask<msg<s::JobList>>(head.router, msg<s::JobQuery>::make([&](s::JobQuery::Builder out) { out.setId(id); }));
  }
  std::uint32_t place_of(std::uint64_t id) { return job(id).read()->getJobs()[0].getDecodeInstance(); }
  std::uint32_t migrations_of(std::uint64_t id) { return job(id).read()->getJobs()[0].getMigrations(); }

  std::shared_ptr<answer<msg<s::CommandAnswer>>> migrate_later(std::uint64_t id, std::uint32_t to) {
    return ask_later<msg<s::CommandAnswer>>(
        head.scheduler, msg<s::MigrateRequest>::make([&](s::MigrateRequest::Builder out) {
          out.setId(id);
          out.setTo(to);
        }));
  }
  /// What `hflex migrate` prints; empty unless `ok` is what came.
  std::string migrate(std::uint64_t id, std::uint32_t to, bool ok) {
    auto slot = migrate_later(id, to);
    until([&] { return !slot->pending(); });
    REQUIRE(slot->value);
    auto in = slot->value->read();
    CHECK(in->getOk() == ok);
    return wire::read(in->getMessage());
  }
  std::size_t open_transfers() const {
    std::size_t n = 0;
    for (const auto* node : nodes) n += node->transport->open_transfers();
    return n;
  }
  void check_at_rest() {
    CHECK(open_transfers() == 0);
    CHECK(all_blocks_free());
  }

  test_client client;
  std::vector<test_node*> nodes;
};

struct one_to_two : two_mixed {
  one_to_two() : two_mixed({{instance_role::prefill, 1}, {instance_role::decode, 2}}) {}
};

} // namespace

TEST_CASE_METHOD(two_mixed, "a job that moves while it decodes has the tokens that it would have had in one place") {
  start({"a", "b"});
  auto id = begin(200);
  const auto from = place_of(id), to = 3 - from;
  auto slot = migrate_later(id, to);
  // Its stream stands still for less than three steps.
  auto last = now();
  duration longest{};
  for (auto seen = client.log->streamed[id].size(); client.log->of(id).empty(); advance(milliseconds{1}))
    if (auto have = client.log->streamed[id].size(); have > seen) {
      longest = std::max(longest, now() - last);
      last = now();
      seen = have;
    }
  CHECK(longest < 3 * clock->step);
  REQUIRE(slot->value);
  CHECK(slot->value->read()->getOk());
  CHECK(wire::read(slot->value->read()->getMessage()) == fmt::format("r{} decodes on i{} now", id, to));
  auto ending = finish(client, id, prompt, 200);
  CHECK(ending.prefill_instance == from);
  CHECK(ending.decode_instance == to);
  CHECK(ending.retries == 0);
  CHECK(migrations_of(id) == 1);
  check_at_rest();
}

TEST_CASE_METHOD(two_mixed, "a job that moves back and forth keeps its tokens") {
  start({"a", "b"});
  auto id = begin(400);
  for (int i = 0; i < 4; ++i) {
    migrate(id, 3 - place_of(id), true);
    advance(milliseconds{25});
  }
  auto ending = finish(client, id, prompt, 400);
  CHECK(ending.prefill_instance == ending.decode_instance);
  CHECK(ending.cached_prompt_tokens == 0);
  CHECK(migrations_of(id) == 4);
  check_at_rest();
}

TEST_CASE_METHOD(one_to_two, "a job moves between the decode instances of a disaggregated fleet") {
  start({"a", "b", "c"});
  auto id = begin(100);
  const auto record = job(id);
  const auto from = place_of(id), prefill = record.read()->getJobs()[0].getPrefillInstance();
  CHECK(migrate(id, prefill, false).find("does not decode") != std::string::npos);
  migrate(id, 6 - from - prefill, true);
  auto ending = finish(client, id, prompt, 100);
  CHECK(ending.decode_instance == 6 - from - prefill);
  CHECK(ending.retries == 0);
  CHECK(migrations_of(id) == 1);
  check_at_rest();
}

TEST_CASE_METHOD(two_mixed, "a move whose transfer fails is reported, and the job goes on where it was") {
  start({"a", "b"});
  auto id = begin(100);
  const auto from = place_of(id);
  net->transfers_fail = true;
  CHECK(migrate(id, 3 - from, false).find(fmt::format("r{} stays on i{}: ", id, from)) == 0);
  net->transfers_fail = false;
  migrate(id, 3 - from, true); // and it can be tried again
  auto ending = finish(client, id, prompt, 100);
  CHECK(ending.retries == 0);
  CHECK(migrations_of(id) == 1);
  check_at_rest();
}

TEST_CASE_METHOD(two_mixed, "what cannot be moved is refused with the reason") {
  start({"a", "b"});
  auto id = begin(100);
  const auto from = place_of(id);
  CHECK(migrate(id, from, false) == fmt::format("r{} decodes on i{} already", id, from));
  CHECK(migrate(id, 9, false) == "no such instance: i9");
  CHECK(migrate(77, from, false).find("r77 is not running") == 0);
  finish(client, id, prompt, 100);
  CHECK(migrate(id, 3 - from, false).find("is not running") != std::string::npos);
}

TEST_CASE_METHOD(two_mixed, "a job whose destination dies on the way goes on where it was") {
  start({"a", "b"});
  auto id = begin(200);
  const auto from = place_of(id);
  auto slot = migrate_later(id, 3 - from);
  advance(milliseconds{15});
  REQUIRE(slot->pending());
  kill(wires->instances.at(3 - from));
  until([&] { return !slot->pending(); });
  CHECK_FALSE(slot->value->read()->getOk());
  auto ending = finish(client, id, prompt, 200);
  CHECK(ending.decode_instance == from);
  CHECK(ending.retries == 0);
  CHECK(migrations_of(id) == 0);
}

TEST_CASE_METHOD(two_mixed, "a job whose source dies on the way begins again, with the same tokens") {
  start({"a", "b"});
  auto id = begin(200);
  const auto from = place_of(id);
  auto slot = migrate_later(id, 3 - from);
  advance(milliseconds{15});
  REQUIRE(slot->pending());
  kill(wires->instances.at(from));
  until([&] { return !slot->pending(); });
  CHECK_FALSE(slot->value->read()->getOk());
  auto ending = finish(client, id, prompt, 200);
  CHECK(ending.retries == 1);
  until([&] { return all_blocks_free(); });
}

TEST_CASE_METHOD(two_mixed, "jobs that move under load leave the others' tokens alone") {
  start({"a", "b"});
  std::vector<std::uint64_t> ids;
  for (int i = 0; i < 6; ++i) ids.push_back(begin(60));
  std::vector<std::shared_ptr<answer<msg<s::CommandAnswer>>>> slots;
  for (auto id : ids)
    if (client.log->of(id).empty()) slots.push_back(migrate_later(id, 3 - place_of(id)));
  std::size_t moved = 0;
  for (auto& slot : slots) {
    until([&] { return !slot->pending(); });
    moved += slot->value && slot->value->read()->getOk() ? 1 : 0;
  }
  CHECK(moved > 0);
  for (auto id : ids) CHECK(finish(client, id, prompt, 60).retries == 0);
  check_at_rest();
}

} // namespace hflex::test::migration_test
