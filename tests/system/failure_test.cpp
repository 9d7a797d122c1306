// Processes that die, freeze and come back, while jobs decode.
#include "tests/system/cluster.hpp"
#include <algorithm>
#include <csignal>

namespace hflex::test::failure_test {

namespace {

const std::string& other(const std::string& agent) {
  static const std::string a{"a"}, b{"b"};
  return agent == a ? b : a;
}

bool any_retried(const std::vector<json>& jobs) {
  return std::any_of(jobs.begin(), jobs.end(), [](const json& j) { return j["retries"] > 0 || j["migrations"] > 0; });
}

/// Both phases are served, and by this agent alone.
bool served_by(const json& topology, const std::string& agent) {
  return ready_instances(topology) == 2 && holder_of(topology, "prefill") == agent &&
         holder_of(topology, "decode") == agent;
}

/// Runs the jobs undisturbed; then again, and sends `number` to the agent with the instance of `role` while they
/// decode. Returns the agent's name.
std::string check_survives(cluster& c, const std::string& role, int number) {
  auto jobs = some_jobs(12, 700);
  auto undisturbed = c.submit(jobs);
  check_all_finished(undisturbed, jobs.size());

  auto victim = holder_of(c.topology(), role);
  REQUIRE(!victim.empty());
  auto submit = c.start_submit(jobs);
  auto witness = c.start_witness();
  c.agent(victim).signal(number);
  auto disturbed = cluster::finish(*submit);
  check_all_finished(disturbed, jobs.size());
  CHECK(tokens_of(disturbed) == tokens_of(undisturbed));
  if (role == "decode") CHECK(any_retried(disturbed));
  CHECK(witness->wait_exit() == 0);
  c.until("both instances on the survivor",
      [&](const json& t) { return node_named(t, victim)["state"] == "lost" && served_by(t, other(victim)); });
  c.until("no job left behind", at_rest);
  return victim;
}

} // namespace

TEST_CASE("every job finishes with its tokens when the agent that decodes is killed") {
  cluster c;
  auto victim = check_survives(c, "decode", SIGKILL);
  CHECK(c.agent(victim).wait_exit() == -SIGKILL);
}

TEST_CASE("every job finishes with its tokens when the agent that prefills is killed") {
  cluster c;
  check_survives(c, "prefill", SIGKILL);
}

TEST_CASE("an agent that freezes is taken for dead, and joins again when it goes on") {
  cluster c;
  auto victim = check_survives(c, "decode", SIGSTOP);
  auto id = node_named(c.topology(), victim)["id"];
  c.agent(victim).signal(SIGCONT);
  auto back = c.until("the frozen node up again, and no instance too many",
      [&](const json& t) { return node_named(t, victim)["state"] == "up" && ready_instances(t) == 2; });
  CHECK(node_named(back, victim)["id"] == id);
  check_all_finished(c.submit(some_jobs(4, 40)), 4);
}

TEST_CASE("a head that is frozen for longer than a node may be silent loses neither nodes nor jobs") {
  cluster c;
  const auto jobs = some_jobs(12, 700);
  auto submit = c.start_submit(jobs);
  auto witness = c.start_witness(); // they are under way
  c.head_process().signal(SIGSTOP);
  CHECK(c.run({"jobs", "--timeout-s", "3"}).code == 1); // so long: lost_after_ms is 2000
  c.head_process().signal(SIGCONT);
  const auto results = cluster::finish(*submit);
  CHECK(witness->wait_exit() == 0);
  check_all_finished(results, jobs.size());
  CHECK_FALSE(any_retried(results));
  for (const auto& node : c.topology()["nodes"]) CHECK(node["state"] == "up");
  const auto events = c.run({"topology", "--events", "-o", "json"});
  CHECK(events.out.find("node_lost") == std::string::npos);
}

TEST_CASE("an agent that is started again under its name is the same node and serves again") {
  cluster c{{"collocated", "f32", {"a"}, {}, {}}};
  auto before = c.topology();
  auto jobs = some_jobs(4, 40);
  auto first = c.submit(jobs);
  c.agent("a").signal(SIGKILL);
  c.until("node a lost", [](const json& t) { return node_named(t, "a")["state"] == "lost"; });
  c.start_agent("a");
  auto after = c.until("an instance on node a", [](const json& t) { return holder_of(t, "mixed") == "a"; });
  CHECK(node_named(after, "a")["id"] == node_named(before, "a")["id"]);
  CHECK(instance_of_role(after, "mixed")["id"] != instance_of_role(before, "mixed")["id"]);
  auto second = c.submit(jobs);
  check_all_finished(second, jobs.size());
  CHECK(tokens_of(second) == tokens_of(first));
}

TEST_CASE("an agent whose name is taken is refused until that name is free, and disturbs no job") {
  cluster c{{"collocated", "f32", {"a"}, {}, {}}};
  const auto before = instance_of_role(c.topology(), "mixed")["id"];
  process second{command{{HFLEX_PROGRAM, "agent", "--join", c.head(), "--name", "a", "--devices", "cpu:1"}, {}, {}}};
  second.wait_line(stream::err, "is taken by a live node");
  check_all_finished(c.submit(some_jobs(4, 40)), 4);
  CHECK(instance_of_role(c.topology(), "mixed")["id"] == before);
  c.agent("a").signal(SIGKILL);
  second.wait_line(stream::err, "joined as n1");
  c.until("an instance on the second", [&](const json& t) { return holder_of(t, "mixed") == "a"; });
}

TEST_CASE("an agent that finds no head says so, and goes on trying") {
  process agent{command{{HFLEX_PROGRAM, "agent", "--join", "127.0.0.1:1", "--devices", "cpu:1"}, {}, {}}};
  agent.wait_line(stream::err, "cannot reach the head: 127.0.0.1:1");
  agent.signal(SIGTERM);
  CHECK(agent.wait_exit() == 0);
}

TEST_CASE("jobs that wait for an instance run when an agent joins") {
  cluster c{{"disaggregated", "f32", {}, {}, {}}};
  auto submit = c.start_submit(some_jobs(3, 20));
  c.start_agent("a");
  check_all_finished(cluster::finish(*submit), 3);
}

} // namespace hflex::test::failure_test
