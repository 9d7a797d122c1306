// Instances that take requests while their weights still come from another host. The devices compute by script; that
// the tokens of real ones are right is for tests/unit/gpu/serve_while_loading_test.cpp.
#include "tests/support/small_cluster.hpp"

namespace hflex::test::serve_while_loading_test {
namespace {

/// Of more than a step.
std::string long_prompt() {
  std::string text = "Call me Ishmael";
  for (int i = 0; i < 100; ++i) text += " the";
  return text;
}
const std::string prompt = long_prompt();

/// A newcomer on another host whose weights have begun to come.
struct loading_newcomer : small_cluster {
  explicit loading_newcomer(std::uint32_t fleet = 2) : small_cluster({{instance_role::mixed, fleet}}) {
    serve_while_loading = true;
    settings.scaler.instance.max_batched_tokens = 64; // so that one instance is soon busy
    settings.scaler.instance.max_sequences = 32;
    start_head();
    a = &start_node("a", 1, "this host");
    until_ready(1);
    watcher = start_client();
    ask<msg<s::Ack>>(head.cluster, msg<s::Subscribe>{}, watcher.actor);
    net->pulls_wait = true;
    b = &start_node("b", 1, "that host");
    until_ready(2);
    REQUIRE(net->waiting_pulls.size() == 1);
  }
  std::map<std::uint64_t, std::string> submit_some(const test_client& client, int count) {
    std::map<std::uint64_t, std::string> jobs;
    for (int i = 0; i < count; ++i) {
      const auto text = prompt + std::to_string(i);
      jobs[submit(client, text, 12)] = text;
    }
    return jobs;
  }
  std::set<std::uint32_t> used_by(const test_client& client, int count) {
    std::set<std::uint32_t> used;
    for (const auto& [id, text] : submit_some(client, count))
      used.insert(finish(client, id, text, 12).prefill_instance);
    return used;
  }
  std::size_t arrivals() const {
    return static_cast<std::size_t>(std::count_if(watcher.log->events.begin(), watcher.log->events.end(),
        [](const auto& e) { return e.what == cluster::change::weights_arrived; }));
  }

  test_node* a{};
  test_node* b{};
  test_client watcher;
};
struct loading_second_of_three : loading_newcomer {
  loading_second_of_three() : loading_newcomer(3) {}
};

} // namespace

TEST_CASE_METHOD(loading_newcomer, "a newcomer is ready and serves before its weights have all come") {
  CHECK(arrivals() == 0);
  CHECK(*b->contexts == 1);
  CHECK(used_by(start_client(), 8) == std::set<std::uint32_t>{1, 2});
  CHECK(arrivals() == 0);

  end_pull({});
  CHECK(arrivals() == 1);
  CHECK(watcher.log->events.back().subject == "agent-n1 -> i2");
  CHECK(count_instances("ready") == 2);
  CHECK(*b->loads == 0);
  until([&] { // with the next heartbeat: both hosts hold them, in use
    auto nodes = topology().nodes;
    return std::all_of(
        nodes.begin(), nodes.end(), [](const auto& n) { return n.weights_bytes == 1000 && n.weights_idle_bytes == 0; });
  });
}

TEST_CASE_METHOD(loading_newcomer, "who cannot wait for a newcomer's weights is not sent there") {
  REQUIRE(net->pull_progress.size() == 1);
  const auto& progress = net->pull_progress[0];
  progress(10, 1000);
  advance(std::chrono::seconds{1});
  progress(20, 1000); // 98 s to go: longer than anybody's time to the first token
  run();
  CHECK(used_by(start_client(), 8) == std::set<std::uint32_t>{1});
  progress(900, 1000); // it has become faster
  run();
  CHECK(used_by(start_client(), 8) == std::set<std::uint32_t>{1, 2});
}

TEST_CASE_METHOD(loading_newcomer, "a newcomer whose weights stop coming fails, and its requests end well elsewhere") {
  auto client = start_client();
  const auto jobs = submit_some(client, 8);
  advance(std::chrono::milliseconds{15}); // both are in a step
  net->pulls_wait = false;
  end_pull(fail(errc::reroute, "the holder is gone")); // nobody else has them, and a disk cannot go on with them
  for (const auto& [id, text] : jobs) finish(client, id, text, 12);
  const auto& events = watcher.log->events;
  CHECK(std::any_of(events.begin(), events.end(),
      [](const auto& e) { return e.what == cluster::change::actor_down && e.subject == "i2"; }));
  until_ready(2); // it was replaced, on the slot that the former one left
  CHECK(*b->contexts == 2);
  CHECK(all_blocks_free());
}

TEST_CASE_METHOD(loading_second_of_three, "a newcomer goes on with weights of the next source when one fails it") {
  net->pulls_wait = false;
  start_node("c", 1, "third host"); // another holder, which the coordinator can name
  until_ready(3);
  auto client = start_client();
  const auto jobs = submit_some(client, 6);
  advance(std::chrono::milliseconds{15});
  end_pull(fail(errc::reroute, "the holder is gone"));
  for (const auto& [id, text] : jobs) CHECK(finish(client, id, text, 12).retries == 0);
  CHECK(count_instances("ready") == 3);
  CHECK(*b->loads == 0);
  CHECK(*b->contexts == 1);
}

} // namespace hflex::test::serve_while_loading_test
