// The fleet as operators and watchers see it: where weights come from, role changes, draining, topology.
#include "tests/support/small_cluster.hpp"

namespace hflex::test::fleet_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const std::string prompt = "Call me Ishmael";

struct two_instances : small_cluster {
  two_instances() : small_cluster({{instance_role::mixed, 2}}) {}
};
struct pair_of_roles : small_cluster {
  pair_of_roles() : small_cluster({{instance_role::prefill, 1}, {instance_role::decode, 1}}) {}
  std::uint32_t instance_with(const std::string& role) {
    for (const auto& a : topology().actors)
      if (a.kind == "instance" && a.role == role) return static_cast<std::uint32_t>(std::stoul(a.id.substr(1)));
    FAIL("no instance is a " << role);
    return 0;
  }
};

} // namespace

TEST_CASE_METHOD(two_instances, "an agent takes from its neighbour the weights that both need") {
  start_head();
  auto& a = start_node("a");
  auto& b = start_node("b");
  until_ready(2);
  CHECK(*a.loads == 1);
  CHECK(*b.loads == 0);
  CHECK(net->fetches == 1);
  auto links = topology().links;
  CHECK(std::count_if(links.begin(), links.end(),
            [](const auto& l) { return l.kind == "weights" && l.bytes_total == 1000; }) == 1);
}

TEST_CASE_METHOD(two_instances, "an agent that joins later takes from its neighbour what that one has read") {
  start_head();
  auto& a = start_node("a");
  until([&] { return *a.loads == 1; });
  until_ready(1);
  advance(seconds{5});
  auto& b = start_node("b");
  until_ready(2);
  CHECK(*b.loads == 0);
  CHECK(net->fetches == 1);
}

TEST_CASE_METHOD(two_instances, "orders that overtake the welcome are carried out once it has come") {
  start_head();
  wires->slow_welcome = true;
  start_node("a", 2);
  until_ready(2);
}

TEST_CASE_METHOD(two_instances, "an agent whose neighbour fails it reads the disk") {
  start_head();
  start_node("a");
  net->fetches_fail = true;
  auto& b = start_node("b");
  until_ready(2);
  CHECK(net->fetches >= 1);
  CHECK(*b.loads == 1);
}

TEST_CASE_METHOD(
    two_instances, "an agent of another host takes the weights over the network, and the topology shows it") {
  start_head();
  auto& a = start_node("a", 1, "this host");
  until_ready(1);
  auto& b = start_node("b", 1, "that host");
  until_ready(2);
  CHECK(*a.loads == 1);
  CHECK(*b.loads == 0);
  CHECK(net->fetches == 0);
  CHECK(net->pulls == 1);
  auto shown = topology();
  auto link = std::find_if(shown.links.begin(), shown.links.end(), [](const auto& l) { return l.kind == "weights"; });
  REQUIRE(link != shown.links.end());
  CHECK(link->from == "agent-n1");
  CHECK(link->transport == "tcp");
  CHECK(link->bytes_total == 1000);
  CHECK(link->bytes_expected == 1000);
  until([&] { // with the next heartbeat
    auto nodes = topology().nodes;
    return std::all_of(nodes.begin(), nodes.end(), [](const auto& n) { return n.weights_bytes == 1000; });
  });
}

TEST_CASE_METHOD(two_instances, "an agent whose source on another host fails it reads the disk") {
  start_head();
  start_node("a", 1, "this host");
  until_ready(1);
  net->pulls_fail = true;
  auto& b = start_node("b", 1, "that host");
  until_ready(2);
  CHECK(net->pulls == 1);
  CHECK(*b.loads == 1);
}

TEST_CASE_METHOD(two_instances, "two instances of one agent share what it loaded") {
  start_head();
  auto& a = start_node("a", 2);
  until_ready(2);
  CHECK(*a.loads == 1);
  CHECK(*a.contexts == 2);
}

TEST_CASE_METHOD(pair_of_roles, "a role change under load fails no job and loads no weights") {
  start_head();
  auto& a = start_node("a");
  auto& b = start_node("b");
  until_ready(2);
  const auto loads = *a.loads + *b.loads;
  auto client = start_client();
  std::map<std::uint64_t, std::string> jobs;
  auto submit_some = [&] {
    for (int i = 0; i < 4; ++i) {
      auto text = prompt + std::to_string(jobs.size());
      jobs[submit(client, text, 30)] = text;
      advance(milliseconds{7});
    }
  };
  submit_some();
  CHECK(change_role(instance_with("prefill"), s::Role::MIXED).read()->getOk());
  submit_some();
  until([&] { return count_instances("ready", "mixed") == 1; });
  submit_some();
  for (const auto& [id, text] : jobs) finish(client, id, text, 30);
  CHECK(client.log->endings.size() == jobs.size());
  CHECK(*a.loads + *b.loads == loads);
  CHECK(*a.contexts + *b.contexts == 2);
  CHECK(count_instances("ready", "decode") == 1);
  CHECK(all_blocks_free());
}

TEST_CASE_METHOD(pair_of_roles, "an instance is admitted once its KV links are open, also after a change of role") {
  net->hold_links = true;
  start_head();
  start_node("a");
  start_node("b");
  until([&] { return net->held_links.size() == 1; }); // from the one that prefills to the one that decodes
  auto link = [&] {
    auto links = topology().links;
    auto found = std::find_if(links.begin(), links.end(), [](const auto& l) { return l.kind == "kv"; });
    return found == links.end() ? std::string{"none"} : found->state;
  };
  CHECK(link() == "opening");
  CHECK(count_instances("ready") == 1);
  CHECK(count_instances("linking") == 1);
  auto client = start_client();
  auto id = submit(client, prompt, 8);
  advance(milliseconds{500});
  CHECK(client.log->streamed[id].empty()); // it needs both
  for (auto& open : std::exchange(net->held_links, {})) open();
  run();
  CHECK(link() == "open");
  CHECK(count_instances("ready") == 2);
  finish(client, id, prompt, 8);

  CHECK(change_role(instance_with("prefill"), s::Role::MIXED).read()->getOk());
  until([&] { return net->held_links.size() == 2; }); // there and back: both decode now
  CHECK(count_instances("linking", "mixed") == 1);
  for (auto& open : std::exchange(net->held_links, {})) open();
  run();
  CHECK(count_instances("ready", "mixed") == 1);
  auto links = topology().links;
  CHECK(std::count_if(links.begin(), links.end(), [](const auto& l) { return l.kind == "kv" && l.state == "open"; }) ==
        2);
}

TEST_CASE_METHOD(pair_of_roles, "a counterpart that never opens its link keeps an instance from serving for a moment") {
  net->hold_links = true;
  start_head();
  start_node("a");
  start_node("b");
  until([&] { return net->held_links.size() == 1; });
  advance(settings.cluster.links.deadline + milliseconds{1});
  CHECK(count_instances("ready") == 2);
  auto links = topology().links;
  CHECK(std::count_if(links.begin(), links.end(), [](const auto& l) { return l.state == "failed"; }) == 1);
  auto client = start_client();
  finish(client, submit(client, prompt, 8), prompt, 8); // a transfer opens its own way
}

TEST_CASE_METHOD(pair_of_roles, "the ends of a link let go of it when the other one dies") {
  start_head();
  start_node("a");
  auto& b = start_node("b");
  until_ready(2);
  auto open = [&] {
    std::size_t n = 0;
    for (const auto& [name, transport] : net->by_endpoint) n += transport->links.size();
    return n;
  };
  CHECK(open() == 1);
  kill(b.agent);
  advance(seconds{1});
  CHECK(open() == 0);
}

TEST_CASE_METHOD(two_instances, "an instance that drains finishes what it has, takes nothing new and ends") {
  start_head();
  start_node("a", 2);
  until_ready(2);
  auto client = start_client();
  std::vector<std::uint64_t> before;
  for (int i = 0; i < 4; ++i) before.push_back(submit(client, prompt, 30));
  advance(milliseconds{50});
  auto drain = msg<s::Drain>::make([](s::Drain::Builder out) { out.setInstance(1); });
  CHECK(ask<msg<s::CommandAnswer>>(head.scaler, drain).read()->getOk());
  auto after = submit(client, prompt, 30);
  for (auto id : before) CHECK(finish(client, id, prompt, 30).retries == 0);
  CHECK(finish(client, after, prompt, 30).decode_instance == 2);
  CHECK(count_instances("ready") == 1);
  CHECK_FALSE(ask<msg<s::CommandAnswer>>(head.scaler, drain).read()->getOk());
}

TEST_CASE_METHOD(small_cluster, "an agent that is told to leave ends in good order") {
  start_head();
  auto& a = start_node("a");
  until_ready(1);
  caf::anon_send(a.agent, msg<s::NodeLeave>{});
  until([&] { return count_instances("ready") == 0; });
  advance(seconds{1});
  auto now = topology();
  CHECK(std::none_of(now.actors.begin(), now.actors.end(),
      [](const auto& v) { return v.kind == "node_agent" || v.kind == "instance"; }));
}

TEST_CASE_METHOD(pair_of_roles, "a watcher is told what happened before it came and everything after, without a gap") {
  start_head();
  start_node("a");
  until_ready(1);
  auto watcher = start_client();
  ask<msg<s::Ack>>(head.cluster, msg<s::Subscribe>{}, watcher.actor);
  start_node("b");
  until_ready(2);
  const auto& events = watcher.log->events;
  REQUIRE_FALSE(events.empty());
  for (std::size_t i = 0; i < events.size(); ++i) CHECK(events[i].sequence == i + 1);
  auto saw = [&](cluster::change what, const std::string& subject) {
    return std::any_of(
        events.begin(), events.end(), [&](const auto& e) { return e.what == what && e.subject == subject; });
  };
  CHECK(saw(cluster::change::node_joined, "n1"));
  CHECK(saw(cluster::change::node_joined, "n2"));
  CHECK(saw(cluster::change::actor_up, "i2"));
  CHECK(events.back().epoch == topology().epoch);
}

TEST_CASE_METHOD(pair_of_roles, "the topology shows nodes, roles and what went over each link") {
  start_head();
  start_node("a");
  start_node("b");
  until_ready(2);
  auto client = start_client();
  finish(client, submit(client, prompt, 8), prompt, 8);
  auto now = topology();
  REQUIRE(now.nodes.size() == 2);
  CHECK(now.nodes[0].name == "a");
  CHECK(now.nodes[0].devices.size() == 1);
  CHECK(count_instances("ready", "prefill") == 1);
  CHECK(count_instances("ready", "decode") == 1);
  auto kv = std::find_if(now.links.begin(), now.links.end(), [](const auto& l) { return l.kind == "kv"; });
  REQUIRE(kv != now.links.end());
  CHECK(kv->bytes_total == tokenizer()->encode(prompt, {}).size() * scripted_layers * sizeof(kv_row));
}

} // namespace hflex::test::fleet_test
