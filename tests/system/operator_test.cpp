// What people do to a running cluster: cancel, leave, change roles, drain.
#include "tests/system/cluster.hpp"
#include <algorithm>
#include <csignal>

namespace hflex::test::operator_test {

namespace {

json jobs_of(const cluster& c) {
  auto done = c.run({"jobs", "-o", "json"});
  REQUIRE(done.code == 0);
  return json::parse(done.out);
}

/// Some of the KV memory is taken: that of jobs under way.
bool busy(const json& topology) { return !at_rest(topology); }

} // namespace

TEST_CASE("jobs of a client that dies are cancelled, and their KV blocks are free again") {
  cluster c;
  auto submit = c.start_submit(some_jobs(16, 800));
  auto witness = c.start_witness();
  c.until("KV blocks in use", busy);
  submit->signal(SIGKILL);
  witness->signal(SIGKILL);
  c.until("every KV block free", at_rest);
  auto jobs = jobs_of(c);
  CHECK(jobs["in_flight"] == 0);
  CHECK(
      std::any_of(jobs["jobs"].begin(), jobs["jobs"].end(), [](const json& j) { return j["outcome"] == "cancelled"; }));
  check_all_finished(c.submit(some_jobs(4, 20)), 4);
}

TEST_CASE("a detached job outlives its client, until it is cancelled") {
  cluster c{{"collocated", "f32", {"a"}, {}, {}}};
  std::vector<std::string> words{"submit", "--detach", "-p", "Emma", "--max-tokens", "30", "--ignore-eos"};
  auto kept = c.run(words);
  REQUIRE(kept.code == 0);
  auto id = kept.out.substr(0, kept.out.find('\n'));
  auto record = c.run({"wait", id, "-o", "json"});
  CHECK(record.code == 0);
  CHECK(json::parse(record.out)["token_ids"].size() == 30);

  // Load that keeps the next one from ending before it is cancelled.
  auto load = c.start_submit(some_jobs(16, 800));
  auto witness = c.start_witness();
  words[5] = "900";
  auto doomed = c.run(words);
  REQUIRE(doomed.code == 0);
  auto second = doomed.out.substr(0, doomed.out.find('\n'));
  auto cancelled = c.run({"cancel", second});
  CHECK(cancelled.code == 0);
  auto end = c.run({"wait", second, "-o", "json"});
  CHECK(end.code == 1);
  CHECK(json::parse(end.out)["outcome"] == "cancelled");
  CHECK(c.run({"cancel", second}).code == 1); // it has ended
  CHECK(c.run({"cancel", "r999999"}).code == 1);
  check_all_finished(cluster::finish(*load), 16);
  c.until("every KV block free", at_rest);
}

TEST_CASE("a change of role and a drain under load fail no job") {
  cluster c;
  auto jobs = some_jobs(12, 500);
  auto undisturbed = c.submit(jobs);
  auto prefill = instance_of_role(c.topology(), "prefill")["id"].get<std::string>();
  auto decode = instance_of_role(c.topology(), "decode")["id"].get<std::string>();

  auto submit = c.start_submit(jobs);
  auto witness = c.start_witness();
  auto flip = c.run({"role", prefill, "mixed"});
  INFO(flip.err);
  CHECK(flip.code == 0);
  auto flipped = cluster::finish(*submit);
  check_all_finished(flipped, jobs.size());
  CHECK(tokens_of(flipped) == tokens_of(undisturbed));
  CHECK(witness->wait_exit() == 0);
  c.until("the instance mixed", [&](const json& t) { return instance_of_role(t, "mixed")["id"] == prefill; });

  submit = c.start_submit(jobs);
  witness = c.start_witness();
  auto drain = c.run({"drain", decode});
  INFO(drain.err);
  CHECK(drain.code == 0);
  auto drained = cluster::finish(*submit);
  check_all_finished(drained, jobs.size());
  CHECK(tokens_of(drained) == tokens_of(undisturbed));
  CHECK(witness->wait_exit() == 0);
  c.until("the drained instance gone", [&](const json& t) { return ready_instances(t) == 1 && at_rest(t); });

  auto refused = c.run({"drain", decode});
  CHECK(refused.code == 1);
  check_says(refused.err, {"no such instance"});
}

TEST_CASE("a node that is drained under load fails no job and is replaced by the others") {
  cluster c;
  auto jobs = some_jobs(12, 500);
  auto undisturbed = c.submit(jobs);
  auto before = c.topology();
  auto leaver = holder_of(before, "decode");
  auto submit = c.start_submit(jobs);
  auto witness = c.start_witness();
  CHECK(c.run({"drain", node_named(before, leaver)["id"]}).code == 0);
  auto drained = cluster::finish(*submit);
  check_all_finished(drained, jobs.size());
  CHECK(tokens_of(drained) == tokens_of(undisturbed));
  CHECK(witness->wait_exit() == 0);
  auto after = c.until("no instance on the drained node", [&](const json& t) {
    return ready_instances(t) == 2 && holder_of(t, "decode") == holder_of(before, "prefill") && at_rest(t);
  });
  CHECK(holder_of(after, "prefill") == holder_of(before, "prefill"));
}

} // namespace hflex::test::operator_test
