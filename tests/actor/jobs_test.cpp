// Jobs through all shells: from a client's submit to its one record.
#include "tests/support/small_cluster.hpp"

namespace hflex::test::jobs_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const std::string prompt = "It is a truth universally acknowledged";

struct pair_of_roles : small_cluster {
  pair_of_roles() : small_cluster({{instance_role::prefill, 1}, {instance_role::decode, 1}}) {}
};

} // namespace

TEST_CASE_METHOD(small_cluster, "a submitted job ends with the tokens expected and exactly one record") {
  start_head();
  start_node("a");
  until_ready(1);
  auto client = start_client();
  auto id = submit(client, prompt, 24);
  auto ending = finish(client, id, prompt, 24);
  CHECK(ending.prefill_instance == ending.decode_instance);
  CHECK(ending.retries == 0);
  CHECK(all_blocks_free());
}

TEST_CASE_METHOD(small_cluster, "jobs that share an instance do not disturb each other") {
  start_head();
  start_node("a");
  until_ready(1);
  auto client = start_client();
  std::map<std::uint64_t, std::string> jobs;
  for (int i = 0; i < 6; ++i) {
    auto text = prompt + " " + std::to_string(i);
    jobs[submit(client, text, 12)] = text;
    advance(milliseconds{15});
  }
  for (const auto& [id, text] : jobs) finish(client, id, text, 12);
  CHECK(client.log->endings.size() == jobs.size());
  CHECK(all_blocks_free());
}

TEST_CASE_METHOD(small_cluster, "a burst waits at the scheduler, not at an instance that would send it back") {
  settings.scheduler.policy = "round_robin"; // sends out what it has
  settings.scaler.instance.max_waiting = 3;
  start_head();
  start_node("a");
  until_ready(1);
  auto client = start_client();
  std::vector<std::uint64_t> ids;
  for (int i = 0; i < 40; ++i) ids.push_back(submit(client, prompt + std::to_string(i), 12));
  for (int i = 0; i < 40; ++i) {
    const auto ending = finish(client, ids[static_cast<std::size_t>(i)], prompt + std::to_string(i), 12);
    CHECK(ending.retries == 0);
  }
}

TEST_CASE_METHOD(pair_of_roles, "a job that is handed over has the tokens that it would have had in one place") {
  start_head();
  auto& a = start_node("a");
  auto& b = start_node("b");
  until_ready(2);
  auto client = start_client();
  auto id = submit(client, prompt, 24);
  auto ending = finish(client, id, prompt, 24);
  CHECK(ending.prefill_instance != ending.decode_instance);
  CHECK(ending.retries == 0);
  CHECK(net->rows_moved == scripted_layers * tokenizer()->encode(prompt, {}).size());
  CHECK(a.transport->open_transfers() + b.transport->open_transfers() == 0);
  CHECK(all_blocks_free());
}

TEST_CASE_METHOD(small_cluster, "a prompt that comes again is computed from its last block, and says so") {
  start_head();
  start_node("a");
  until_ready(1);
  auto client = start_client();
  CHECK(finish(client, submit(client, prompt, 12), prompt, 12).cached_prompt_tokens == 0);
  const auto length = static_cast<std::uint32_t>(tokenizer()->encode(prompt, {}).size());
  CHECK(finish(client, submit(client, prompt, 12), prompt, 12).cached_prompt_tokens ==
        (length - 1) / block_size * block_size);
  for (const auto& a : topology().actors)
    if (a.kind == "instance") {
      CHECK(a.kv_blocks_cached == (length + 11) / block_size);
      CHECK(a.prefix_hit_ratio == Approx(((length - 1) / block_size * block_size) / (2.0 * length)));
    }
  CHECK(all_blocks_free());
}

TEST_CASE_METHOD(small_cluster, "a cluster without the prefix cache computes every prompt whole") {
  settings.scaler.instance.prefix_cache = false;
  start_head();
  start_node("a");
  until_ready(1);
  auto client = start_client();
  for (int i = 0; i < 2; ++i) CHECK(finish(client, submit(client, prompt, 4), prompt, 4).cached_prompt_tokens == 0);
}

TEST_CASE_METHOD(pair_of_roles, "a hand-over sends the rows that were cached as well") {
  start_head();
  start_node("a");
  start_node("b");
  until_ready(2);
  auto client = start_client();
  const auto rows = scripted_layers * tokenizer()->encode(prompt, {}).size();
  CHECK(finish(client, submit(client, prompt, 12), prompt, 12).cached_prompt_tokens == 0);
  CHECK(net->rows_moved == rows);
  CHECK(finish(client, submit(client, prompt, 12), prompt, 12).cached_prompt_tokens > 0);
  CHECK(net->rows_moved == 2 * rows);
  CHECK(all_blocks_free());
}

TEST_CASE_METHOD(pair_of_roles, "a hand-over that fails ends the job well or not at all, and frees what it held") {
  settings.router.core.max_attempts = 2;
  start_head();
  auto& a = start_node("a");
  auto& b = start_node("b");
  until_ready(2);
  auto client = start_client();
  net->transfers_fail = true;
  auto id = submit(client, prompt, 8);
  until([&] { return !client.log->of(id).empty(); }, seconds{90});
  CHECK(client.log->endings.size() == 1);
  net->transfers_fail = false;
  finish(client, submit(client, prompt, 8), prompt, 8);
  CHECK(a.transport->open_transfers() + b.transport->open_transfers() == 0);
  CHECK(all_blocks_free());
}

TEST_CASE_METHOD(small_cluster, "a client that ends takes its jobs with it, but not those that it detached") {
  start_head();
  start_node("a");
  until_ready(1);
  auto leaving = start_client();
  auto staying = start_client();
  auto dropped = submit(leaving, prompt, 200);
  auto detached = submit(leaving, prompt, 20, true);
  advance(milliseconds{100});
  CHECK_FALSE(all_blocks_free());
  kill(leaving.actor);
  auto state_of = [&](std::uint64_t id) {
    auto list =
        ask<msg<s::JobList>>(head.router, msg<s::JobQuery>::make([&](s::JobQuery::Builder out) { out.setId(id); }));
    auto in = list.read();
    REQUIRE(in->getJobs().size() == 1);
    return std::pair{in->getJobs()[0].getState(), in->getJobs()[0].getOutcome()};
  };
  CHECK(state_of(dropped) == std::pair{s::JobState::ENDED, s::Outcome::CANCELLED});
  advance(seconds{2});
  CHECK(state_of(detached) == std::pair{s::JobState::ENDED, s::Outcome::FINISHED});
  CHECK(all_blocks_free());
  finish(staying, submit(staying, prompt, 4), prompt, 4);
}

TEST_CASE_METHOD(
    small_cluster, "a prefill that takes longer than stage_timeout is left alone while its instance works") {
  settings.router.core.stage_timeout = seconds{2};
  settings.scaler.instance.max_sequences = 1;
  settings.scaler.instance.max_batched_tokens = 2;
  clock->step = milliseconds{900};
  start_head();
  start_node("a");
  until_ready(1);
  auto client = start_client();
  auto id = submit(client, prompt, 2);
  advance(seconds{3});
  CHECK(client.log->streamed[id].empty()); // still in its prompt
  CHECK(finish(client, id, prompt, 2).retries == 0);
}

TEST_CASE_METHOD(small_cluster, "the router refuses with words when it is full") {
  settings.router.core.max_in_flight = 2;
  start_head();
  auto client = start_client(); // no node: both wait
  submit(client, prompt, 4);
  submit(client, prompt, 4);
  auto refused = try_submit(client, prompt, 4);
  REQUIRE(refused.read()->isRefused());
  CHECK(wire::read(refused.read()->getRefused()).find('2') != std::string::npos);
}

TEST_CASE_METHOD(small_cluster, "a wait is answered when its job is cancelled, and a cancel says what it did") {
  start_head();
  start_node("a");
  until_ready(1);
  auto client = start_client();
  auto id = submit(client, prompt, 200);
  auto cancel = msg<s::CancelJob>::make([&](s::CancelJob::Builder out) { out.setId(id); });
  auto waiting = ask_later<msg<s::WaitAnswer>>(
      head.router, msg<s::WaitJob>::make([&](s::WaitJob::Builder out) { out.setId(id); }), start_client().actor);
  advance(milliseconds{100});
  CHECK(waiting->pending());
  CHECK(ask<msg<s::CommandAnswer>>(head.router, cancel).read()->getOk());
  CHECK_FALSE(ask<msg<s::CommandAnswer>>(head.router, cancel).read()->getOk());
  REQUIRE(waiting->value);
  REQUIRE(waiting->value->read()->isJob());
  CHECK(waiting->value->read()->getJob().getOutcome() == s::Outcome::CANCELLED);
  advance(seconds{1});
  CHECK(client.log->of(id).size() == 1);
  CHECK(all_blocks_free());
}

TEST_CASE_METHOD(small_cluster, "a wait for a job that nobody knows is refused at once") {
  start_head();
  auto answer = ask<msg<s::WaitAnswer>>(
      head.router, msg<s::WaitJob>::make([](s::WaitJob::Builder out) { out.setId(99); }), start_client().actor);
  CHECK(answer.read()->isRefused());
}

} // namespace hflex::test::jobs_test
