// The fleet follows the load, with real processes: more instances while requests wait, fewer when they are gone.
#include "tests/system/cluster.hpp"
#include <algorithm>
#include <set>
#include <sstream>

namespace hflex::test::scaling_test {

namespace {

/// Four decode at a time on an instance; what waits for longer than half a second wants one more.
cluster_options elastic() {
  cluster_options o;
  o.mode = "collocated";
  o.head_environment = {"HFLEX_SCALING_POLICY=hyperflexis", "HFLEX_SCALING_MIN_INSTANCES=1",
      "HFLEX_SCALING_MAX_INSTANCES=4", "HFLEX_SCALING_LEAD_TIME_S=0.5", "HFLEX_INSTANCE_MAX_SEQUENCES=4",
      "HFLEX_SCALING_KNOBS=hyperflexis.hold_least_s=2,hyperflexis.hold_leads=1"};
  return o;
}

std::vector<json> lines(const std::string& text) {
  std::vector<json> found;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) found.push_back(json::parse(line));
  return found;
}

} // namespace

TEST_CASE("a load that rises is met by four instances on two agents, and one is left when it is gone") {
  cluster c(elastic());
  check_all_finished(c.submit(some_jobs(2, 20)), 2);
  auto submit = c.start_submit(some_jobs(48, 400));
  const auto grown = c.until("four instances", [](const json& t) { return ready_instances(t) == 4; });
  std::set<std::string> nodes;
  for (const auto& a : grown["actors"])
    if (a["kind"] == "instance") nodes.insert(a["node"]);
  CHECK(nodes.size() == 2);
  check_all_finished(cluster::finish(*submit), 48);
  c.until("one instance, at rest", [](const json& t) { return ready_instances(t) == 1 && at_rest(t); });
  check_all_finished(c.submit(some_jobs(2, 20)), 2);

  const auto told = c.run({"topology", "--events", "-o", "json"});
  REQUIRE(told.code == 0);
  std::set<std::string> up, gone;
  std::uint64_t sequence = 0, time = 0;
  std::size_t most = 0;
  for (const auto& e : lines(told.out)) {
    CHECK(e["sequence"].get<std::uint64_t>() > sequence);
    CHECK(e["unix_ms"].get<std::uint64_t>() >= time);
    sequence = e["sequence"];
    time = e["unix_ms"];
    const auto subject = e["subject"].get<std::string>();
    if (subject.find('>') != std::string::npos || subject.empty() || subject[0] != 'i') continue;
    if (e["change"] == "actor_up") up.insert(subject);
    if (e["change"] == "actor_down") gone.insert(subject);
    most = std::max(most, up.size() - gone.size());
  }
  CHECK(most == 4);
  CHECK(up.size() - gone.size() == 1);

  const auto why = c.run({"explain", "--scaling", "-o", "json"});
  REQUIRE(why.code == 0);
  const auto log = json::parse(why.out);
  CHECK(log["policy"] == "hyperflexis");
  CHECK(log["lead_time_ms"].get<double>() > 0);
  CHECK(std::any_of(log["decisions"].begin(), log["decisions"].end(), [](const json& d) {
    return d["why"].get<std::string>().rfind("want 4 mixed", 0) == 0 && d["numbers"]["need"].is_number();
  }));
}

TEST_CASE("a person holds the fleet at a number and lets go of it") {
  cluster c(elastic());
  const auto more = c.run({"scale", "--count", "3"});
  CHECK(more.code == 0);
  check_says(more.out, {"3 mixed instances: asked for by hand", "start i2 (mixed) on "});
  c.until("three instances", [](const json& t) { return ready_instances(t) == 3; });
  const auto refused = c.run({"scale", "--count", "9"});
  CHECK(refused.code == 1);
  check_says(refused.err, {"at most 4"});
  CHECK(c.run({"scale"}).code == 2);
  CHECK(c.run({"scale", "--auto"}).code == 0);
  check_all_finished(c.submit(some_jobs(2, 20)), 2);
  c.until("one instance", [](const json& t) { return ready_instances(t) == 1; });
}

} // namespace hflex::test::scaling_test
