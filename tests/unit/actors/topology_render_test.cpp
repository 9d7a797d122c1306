#include "actors/cluster/json_writer.hpp"
#include "actors/cluster/topology_render.hpp"
#include "tests/support/catch.hpp"
#include <cmath>
#include <limits>

namespace hflex::topology_render_test {

using namespace hflex::cluster;

namespace {

snapshot small() {
  snapshot s;
  s.epoch = 12;
  s.nodes = {{"n1", "gpu-a", "10.0.0.1:7451", "up", {{"n1/0", "cuda", "H200", 150ULL << 30U, 75ULL << 30U}},
                 3ULL << 30U, 1ULL << 30U},
      {"n2", "old", "10.0.0.2:7451", "lost", {}}};
  s.actors = {{"router", "router", "", "", "", "running", 0, 0, 0, 0, 2, 0.0},
      {"agent-n1", "node_agent", "n1", "", "", "running", 0, 0, 0, 0, 0, 0.0},
      {"i1", "instance", "n1", "prefill", "n1/0", "ready", 1, 4, 400, 280, 0, 8.125, 90, 0.625},
      {"i2", "instance", "n1", "decode", "n1/0", "starting", 0, 0, 0, 0, 0, 0.0}};
  s.links = {{"i1", "i2", "kv", "shm", 1536ULL << 20U}, {"router", "i1", "control", "tcp", 512}};
  return s;
}

} // namespace

TEST_CASE("a link whose transfer has an end shows how far it is until it is done") {
  auto s = small();
  s.links = {{"agent-n1", "i2", "weights", "tcp", 1ULL << 30U, 4ULL << 30U}};
  CHECK(render_tree(s, {}).find("agent-n1 → i2  weights  tcp  1.0 GiB of 4.0 GiB  ███░░░░░░░ loading") !=
        std::string::npos);
  s.links.push_back({"i1", "i2", "kv", "shm", 0, 0, "opening"});
  CHECK(render_tree(s, {}).find("i1 → i2  kv  shm  0 B  opening\n") != std::string::npos);
  s.links[0].bytes_total = s.links[0].bytes_expected;
  CHECK(render_tree(s, {}).find("agent-n1 → i2  weights  tcp  4.0 GiB\n") != std::string::npos);
}

TEST_CASE("the tree shows nodes, devices, actors with load, and links with bytes") {
  CHECK(render_tree(small(), {}) ==
        "epoch 12  nodes 2  actors 4  links 2\n"
        "├─ head\n"
        "│  └─ router  running  mailbox 2\n"
        "├─ n1  gpu-a  10.0.0.1:7451  up  weights 3.0 GiB (1.0 GiB cached)\n"
        "│  ├─ agent-n1  running\n"
        "│  └─ n1/0  cuda H200  █████░░░░░ 75.0 GiB of 150.0 GiB\n"
        "│     ├─ i1  prefill  ready  running 1  waiting 4  kv ███░░░░░░░ 120/400  step 8.12 ms\n"
        "│     └─ i2  decode  starting  running 0  waiting 0  step 0.00 ms\n"
        "├─ n2  old  10.0.0.2:7451  lost\n"
        "└─ links\n"
        "   ├─ i1 → i2  kv  shm  1.5 GiB\n"
        "   └─ router → i1  control  tcp\n");
}

TEST_CASE("the tree is coloured only when asked to") {
  CHECK(render_tree(small(), {}).find('\x1b') == std::string::npos);
  auto coloured = render_tree(small(), {true});
  CHECK(coloured.find("\x1b[31mlost\x1b[0m") != std::string::npos);
  CHECK(coloured.find("\x1b[32mready\x1b[0m") != std::string::npos);
  CHECK(coloured.find("\x1b[33mstarting\x1b[0m") != std::string::npos);
}

TEST_CASE("the dot output has a cluster per node and an edge per link") {
  CHECK(render_dot(small()) == R"dot(digraph hflex {
  rankdir=LR;
  node [shape=box, style=rounded];
  label="epoch 12";
  subgraph "cluster_head" {
    label="head";
    "router" [label="router\nrunning"];
  }
  subgraph "cluster_n1" {
    label="n1 gpu-a (up)";
    "agent-n1" [label="agent-n1\nrunning"];
    "i1" [label="i1\nprefill on n1/0\nready"];
    "i2" [label="i2\ndecode on n1/0\nstarting"];
  }
  subgraph "cluster_n2" {
    label="n2 old (lost)";
  }
  "i1" -> "i2" [label="kv shm\n1.5 GiB", style=solid];
  "router" -> "i1" [label="control tcp", style=dotted];
}
)dot");
}

TEST_CASE("the JSON document has the keys that scripts rely on") {
  auto s = small();
  s.nodes.pop_back();
  s.actors = {s.actors[0], s.actors[2]};
  s.links.resize(1);
  CHECK(
      render_json(s) ==
      R"({"epoch":12,"nodes":[{"id":"n1","name":"gpu-a","address":"10.0.0.1:7451","state":"up","weights_bytes":3221225472,"weights_idle_bytes":1073741824,"devices":)"
      R"([{"id":"n1/0","kind":"cuda","memory_bytes":161061273600,"memory_used_bytes":80530636800}]}],"actors":)"
      R"([{"id":"router","kind":"router","node":null,"role":null,"duty":null,"device":null,"state":"running","running":0,)"
      R"("waiting":0,"kv_blocks_total":0,"kv_blocks_free":0,"kv_blocks_cached":0,"prefix_hit_ratio":0,"mailbox":2,"step_ms_mean":0},)"
      R"({"id":"i1","kind":"instance","node":"n1","role":"prefill","duty":null,"device":"n1/0","state":"ready","running":1,)"
      R"("waiting":4,"kv_blocks_total":400,"kv_blocks_free":280,"kv_blocks_cached":90,"prefix_hit_ratio":0.625,"mailbox":0,"step_ms_mean":8.125}],"links":)"
      R"([{"from":"i1","to":"i2","kind":"kv","transport":"shm","bytes_total":1610612736,"bytes_expected":0,"state":"open"}]})");
  s.links = {{"cluster", "agent-n1", "control", "caf"}};
  CHECK(render_json(s).ends_with(
      R"("links":[{"from":"cluster","to":"agent-n1","kind":"control","transport":"caf","bytes_total":null,"bytes_expected":0,"state":"open"}]})"));
  CHECK(render_json({}) == R"({"epoch":0,"nodes":[],"actors":[],"links":[]})");
}

TEST_CASE("what a mixed instance is used for alone is shown beside its role") {
  snapshot s;
  actor_view a{"i1", "instance", "n1", "mixed", "n1/0", "ready"};
  a.duty = "decode";
  s.nodes = {{"n1", "a", "b", "up", {{"n1/0", "cpu", "", 100, 10}}}};
  s.actors = {a};
  CHECK(render_tree(s, {}).find("i1  mixed (decode for now)  ready") != std::string::npos);
  CHECK(render_dot(s).find("i1\\nmixed (decode for now) on n1/0") != std::string::npos);
  CHECK(render_json(s).find(R"("role":"mixed","duty":"decode")") != std::string::npos);
}

TEST_CASE("a hostile name breaks neither terminal, dot nor JSON") {
  snapshot s;
  s.nodes = {{"n1", "x\x1b[2J\"\\\n\xff\xc2\x9b", "a", "up", {}}};
  CHECK(render_tree(s, {}).find("n1  x?[2J\"\\???  a") != std::string::npos);
  CHECK(render_dot(s).find("label=\"n1 x?[2J\\\"\\\\??? (up)\"") != std::string::npos);
  CHECK(render_json(s).find("\"name\":\"x\\u001b[2J\\\"\\\\\\u000a\\ufffd\xc2\x9b\"") != std::string::npos);
}

TEST_CASE("numbers out of proportion are drawn without harm") {
  snapshot s;
  s.nodes = {{"n1", "a", "b", "up", {{"n1/0", "cpu", "", 0, 100}, {"n1/1", "cpu", "", 10, 100}}}};
  s.actors = {{"i1", "instance", "n1", "mixed", "n1/0", "ready", 0, 0, 10, 20, 0, std::nan("")}};
  auto tree = render_tree(s, {});
  CHECK(tree.find("n1/0  cpu  ░░░░░░░░░░ 100 B of 0 B") != std::string::npos);
  CHECK(tree.find("n1/1  cpu  ██████████") != std::string::npos);
  CHECK(tree.find("kv ░░░░░░░░░░ 0/10") != std::string::npos);
  CHECK(render_json(s).find("\"step_ms_mean\":null") != std::string::npos);
}

TEST_CASE("an event is one line") {
  CHECK(render_event({3, 12, change::role_changed, "i1", "prefill -> decode"}) ==
        "epoch 12  role_changed  i1  prefill -> decode");
  CHECK(render_event({3, 12, change::node_left, "n1", ""}) == "epoch 12  node_left  n1");
  CHECK(render_event({3, 12, change::node_lost, "n1", "a\nb"}) == "epoch 12  node_lost  n1  a?b");
}

TEST_CASE("UTF-8 is told from what only looks like it") {
  CHECK(utf8_length("a") == 1);
  CHECK(utf8_length("\xc3\xa9") == 2);
  CHECK(utf8_length("\xe2\x86\x92") == 3);
  CHECK(utf8_length("\xf0\x9f\x98\x80") == 4);
  for (auto bad : {"", "\x80", "\xc3", "\xc0\xaf", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
           "\xf5\x80\x80\x80", "\xe2\x86", "\xf0\x9f\x98"})
    CHECK(utf8_length(bad) == 0);
}

TEST_CASE("the JSON writer nests, separates and keeps the largest numbers") {
  json_writer w;
  w.begin_array().value(std::numeric_limits<std::uint64_t>::max()).begin_object().key("a\"").null().key("b");
  w.begin_array().end_array().end_object().value(0.1).value(std::numeric_limits<double>::infinity()).end_array();
  CHECK(w.take() == R"([18446744073709551615,{"a\"":null,"b":[]},0.1,null])");
}

} // namespace hflex::topology_render_test
