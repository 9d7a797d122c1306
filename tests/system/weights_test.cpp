// Weights between processes that claim to be different hosts.
#include "tests/system/cluster.hpp"
#include <algorithm>

namespace hflex::test::weights_test {

namespace {

/// The link by which an instance on the node got its weights from another host, or null.
json weights_by_tcp(const json& topology, const std::string& node) {
  for (const auto& l : topology["links"]) {
    if (l["kind"] != "weights" || l["transport"] != "tcp") continue;
    for (const auto& a : topology["actors"])
      if (a["id"] == l["to"] && a["node"] == node && a["state"] == "ready") return l;
  }
  return nullptr;
}

} // namespace

TEST_CASE("an instance on another host starts from its neighbour's memory over TCP and writes the same text") {
  cluster_options o;
  o.agents = {"a"};
  o.hosts_apart = true;
  cluster c{o};
  const auto jobs = some_jobs(6, 60);
  const auto before = c.submit(jobs);
  check_all_finished(before, jobs.size());

  c.start_agent("b");
  REQUIRE(c.run({"drain", "n1"}).code == 0); // its instances are replaced on the other node
  const auto node = node_named(c.topology(), "b")["id"].get<std::string>();
  const auto t = c.until("weights over TCP", [&](const json& now) { return !weights_by_tcp(now, node).is_null(); });
  const auto link = weights_by_tcp(t, node);
  CHECK(link["from"] == "agent-n1");
  CHECK(link["bytes_total"] > 5'000'000);
  CHECK(link["bytes_total"] == link["bytes_expected"]);
  c.until("the weights in both hosts' memory", [&](const json& now) {
    return node_named(now, "a")["weights_bytes"] == link["bytes_total"] &&
           node_named(now, "b")["weights_bytes"] == link["bytes_total"];
  });

  c.until("both roles on the other host", [&](const json& now) {
    return ready_instances(now) == 2 && holder_of(now, "prefill") == "b" && holder_of(now, "decode") == "b";
  });
  const auto after = c.submit(jobs);
  check_all_finished(after, jobs.size());
  CHECK(tokens_of(after) == tokens_of(before));
}

TEST_CASE("an instance in another process of the same GPU uses the weights where they lie") {
  cluster_options o;
  o.mode = "collocated";
  o.compute = "bf16";
  o.agents = {"a"};
  o.devices = "cuda:0";
  o.agent_environment = {"HFLEX_CUDA_PLUGIN=" HFLEX_FAKE_CUDA_PLUGIN};
  cluster c{o};
  c.agent("a").wait_line(stream::err, "i1 has its weights on the device from host memory, while it was read");
  const auto jobs = some_jobs(4, 20);
  check_all_finished(c.submit(jobs), jobs.size());

  c.start_agent("b");
  REQUIRE(c.run({"scale", "--count", "2"}).code == 0);
  const auto t = c.until("an instance on b", [](const json& now) { return ready_instances(now) == 2; });
  const auto node = node_named(t, "b")["id"].get<std::string>();
  json way;
  for (const auto& l : t["links"])
    if (l["kind"] == "weights" && l["to"] == "i2") way = l;
  INFO(t.dump(2));
  REQUIRE(way.is_object());
  CHECK(way["from"] == "agent-n1");
  CHECK(way["transport"] == "cuda");
  REQUIRE(c.run({"drain", "n1"}).code == 0); // the memory stays although its first owner lets go of it
  c.until("nobody on a",
      [&](const json& now) { return ready_instances(now) == 2 && instance_of_role(now, "mixed")["node"] == node; });
  check_all_finished(c.submit(jobs), jobs.size());
}

TEST_CASE("a GPU of another host has its weights from a GPU, and serves before the host's copy is there") {
  cluster_options o;
  o.mode = "collocated";
  o.compute = "bf16";
  o.agents = {"a"};
  o.hosts_apart = true;
  o.devices = "cuda:0";
  o.agent_words = {"--max-mib-per-s", "1"}; // the copy takes seconds
  o.agent_environment = {"HFLEX_CUDA_PLUGIN=" HFLEX_FAKE_CUDA_PLUGIN};
  cluster c{o};
  c.start_agent("b");
  REQUIRE(c.run({"scale", "--count", "2"}).code == 0);
  c.until("an instance on b, on weights by NCCL", [](const json& now) {
    return ready_instances(now) == 2 && std::any_of(now["links"].begin(), now["links"].end(), [](const json& l) {
      return l["kind"] == "weights" && l["transport"] == "tcp, nccl";
    });
  });
  const auto jobs = some_jobs(8, 20);
  check_all_finished(c.submit(jobs), jobs.size());
  const auto told = c.run({"topology", "--events", "-o", "json"});
  std::vector<std::string> order;
  for (const auto& e : records(told.out)) {
    if (e["subject"] == "i2" && e["change"] == "actor_state") order.push_back(e["detail"]);
    if (e["subject"] == "agent-n1 -> i2" && e["change"] == "weights_arrived") order.push_back("weights");
  }
  INFO(told.out);
  CHECK(std::find(order.begin(), order.end(), "linking -> ready") != order.end());
  CHECK(std::find(order.begin(), order.end(), "weights") == order.end());
}

TEST_CASE("a newcomer takes requests while its weights still come over TCP, and writes the same text") {
  cluster_options o;
  o.mode = "collocated";
  o.agents = {"a"};
  o.hosts_apart = true;
  o.agent_words = {"--max-mib-per-s", "1"}; // seconds, for what a start takes milliseconds
  o.agent_environment = {"HFLEX_WEIGHTS_SERVE_WHILE_LOADING=true"};
  cluster c{o};
  const auto jobs = some_jobs(6, 60);
  const auto before = c.submit(jobs);
  check_all_finished(before, jobs.size());

  c.start_agent("b");
  REQUIRE(c.run({"drain", "n1"}).code == 0);
  const auto after = c.submit(jobs); // all of them by the newcomer: there is nobody else
  check_all_finished(after, jobs.size());
  CHECK(tokens_of(after) == tokens_of(before));

  const auto told = c.run({"topology", "--events", "-o", "json"});
  REQUIRE(told.code == 0);
  std::vector<std::string> order;
  for (const auto& e : records(told.out)) {
    const auto subject = e["subject"].get<std::string>();
    if (subject == "i2" && e["change"] == "actor_state") order.push_back(e["detail"]);
    if (subject == "agent-n1 -> i2" && e["change"] == "weights_arrived") order.push_back("weights");
  }
  INFO(told.out);
  const auto ready = std::find(order.begin(), order.end(), "linking -> ready");
  CHECK(ready != order.end());
  CHECK(std::find(ready, order.end(), "weights") != order.end());
}

} // namespace hflex::test::weights_test
