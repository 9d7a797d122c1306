#include "actors/scheduler/policy.hpp"
#include "tests/support/catch.hpp"
#include "tools/sim/random.hpp"
#include "tools/sim/world.hpp"

namespace hflex::world_test {

using namespace hflex::sim;

namespace {

slo_class make_class(std::string name, double ttft_ms, double tpot_ms) {
  slo_class c;
  c.name = std::move(name);
  c.targets.ttft = from_ms(ttft_ms);
  c.targets.tpot = from_ms(tpot_ms);
  return c;
}

/// 10 ms a step and 0.1 ms a prefill token: sums that can be done in the head.
cluster simple_cluster(std::uint32_t instances) {
  cluster c;
  c.name = "simple";
  c.device.steps = {.c0_ms = 10, .c1_ms = 0.1, .m0 = 0, .c2_ms = 0, .c3_ms = 0, .c4_ms = 0};
  c.device.step_noise = 0;
  c.device.kv_tokens = 16'000;
  c.device.kv_bytes_per_token = 1000;
  c.device.max_batched_tokens = 1024;
  c.device.max_sequences = 64;
  c.collocated = {{instance_role::mixed, instances}};
  c.disaggregated = {{instance_role::prefill, 1}, {instance_role::decode, instances}};
  c.same_node = {1e8, std::chrono::milliseconds{1}};
  c.network = {1e7, std::chrono::milliseconds{1}};
  c.control_latency = duration{0};
  c.max_instances = instances + 1;
  return c;
}

workload one_class(std::vector<request> requests) {
  workload w;
  w.name = "test";
  w.classes = {make_class("standard", 2000, 100)};
  w.requests = std::move(requests);
  return w;
}

request at(double arrival_ms, std::uint32_t prompt, std::uint32_t output) {
  return {from_ms(arrival_ms), prompt, output, 0, {}};
}

workload random_load(std::uint64_t seed, std::size_t count, double per_second, bool shared = false) {
  workload w;
  w.name = "random";
  w.classes = {make_class("tight", 300, 30), make_class("loose", 3000, 150)};
  w.prefix_block_tokens = 64;
  random_source random(seed);
  double now = 0;
  for (std::size_t i = 0; i < count; ++i) {
    now += -std::log(1.0 - random.uniform()) / per_second;
    request r{from_s(now), static_cast<std::uint32_t>(1 + random.bits() % 900),
        static_cast<std::uint32_t>(1 + random.bits() % 60), static_cast<std::uint32_t>(random.bits() % 2), {}};
    for (std::uint64_t b = 0; shared && b < 5; ++b) r.prefix_blocks.push_back(random.bits() % 2 * 100 + b);
    w.requests.push_back(std::move(r));
  }
  return w;
}

run_result simulated(const cluster& c, const workload& w, std::string_view policy, bool disaggregated = false) {
  run_options o;
  o.scheduler.policy = policy;
  o.disaggregated = disaggregated;
  auto r = run(c, w, o);
  REQUIRE(r);
  return std::move(*r);
}

std::vector<double> token_times_ms(const request_record& r) {
  std::vector<double> times;
  for (auto t : r.token_times) times.push_back(to_ms(t - r.timing.arrival));
  return times;
}

} // namespace

TEST_CASE("a request alone takes the steps that the model says") {
  // One prefill of 100 tokens: 10 + 10 ms; then 3 steps of one token each: 10.1 ms.
  const auto r = simulated(simple_cluster(1), one_class({at(0, 100, 4)}), "round_robin");
  REQUIRE(r.records.size() == 1);
  CHECK(r.records[0].result == outcome::finished);
  const auto times = token_times_ms(r.records[0]);
  REQUIRE(times.size() == 4);
  CHECK(times[0] == Approx(20.0));
  CHECK(times[1] == Approx(30.1));
  CHECK(times[3] == Approx(50.3));
  CHECK(r.report.overall.attainment == 1.0);
  CHECK(r.steps == 4);
}

TEST_CASE("in disaggregated mode the second token waits for the KV to arrive") {
  // 100 rows of 1,000 bytes at 1e8 bytes/s: 1 ms, beside the prefill; then 1 ms of latency after its end.
  const auto r = simulated(simple_cluster(1), one_class({at(0, 100, 3)}), "round_robin", true);
  const auto times = token_times_ms(r.records[0]);
  REQUIRE(times.size() == 3);
  CHECK(times[0] == Approx(20.0));
  CHECK(times[1] >= 30.1);
  CHECK(times[1] <= 32.2);
  CHECK(r.kv_bytes_moved == 100'000);
}

TEST_CASE("a slow network between nodes delays the second token by the time of the rows") {
  auto slow = simple_cluster(1);
  slow.instances_per_node = 1;
  slow.network = {1e6, std::chrono::milliseconds{1}};
  const auto r = simulated(slow, one_class({at(0, 1000, 3)}), "round_robin", true);
  const auto times = token_times_ms(r.records[0]);
  // 1e6 bytes take a second. The only step was planned before the other side had accepted: its rows go when it has
  // ended.
  CHECK(times[0] == Approx(110.0));
  CHECK(times[1] == Approx(110 + 1000 + 1 + 10.1).margin(0.5));
}

TEST_CASE("the rows of a prompt in chunks flow beside the chunks that follow") {
  auto slow = simple_cluster(1);
  slow.instances_per_node = 1;
  slow.network = {10e6, std::chrono::milliseconds{1}};
  const auto r = simulated(slow, one_class({at(0, 2048, 3)}), "round_robin", true);
  const auto times = token_times_ms(r.records[0]);
  // Two chunks of 112.4 ms. From the end of the first, its rows and the second's share the link: 204.8 ms for both.
  CHECK(times[0] == Approx(224.8));
  CHECK(times[1] == Approx(112.4 + 204.8 + 1 + 10.1).margin(0.5));
}

TEST_CASE("every policy ends every request exactly once in both modes, and twice the same way") {
  for (const auto& policy : scheduler::policies())
    for (bool disaggregated : {false, true}) {
      INFO(policy.name << (disaggregated ? " disaggregated" : " collocated"));
      const auto load = random_load(7, 400, 60, true);
      const auto a = simulated(simple_cluster(3), load, policy.name, disaggregated);
      CHECK(a.report.overall.finished + a.report.overall.shed == 400);
      CHECK(a.report.overall.unfinished == 0);
      for (std::size_t i = 0; i < load.requests.size(); ++i)
        if (a.records[i].result == outcome::finished)
          REQUIRE(a.records[i].token_times.size() == load.requests[i].output_tokens);
      const auto b = simulated(simple_cluster(3), load, policy.name, disaggregated);
      for (std::size_t i = 0; i < load.requests.size(); ++i)
        REQUIRE(a.records[i].token_times == b.records[i].token_times);
    }
}

TEST_CASE("what was decided is kept for every request when it is asked for, with instances and words") {
  const auto load = random_load(3, 200, 40);
  run_options o;
  CHECK(run(simple_cluster(2), load, o)->decisions.empty());
  o.keep_decisions = true;
  o.disaggregated = true;
  const auto r = run(simple_cluster(2), load, o);
  REQUIRE(r);
  std::vector<int> dispatched(load.requests.size()), ended(load.requests.size());
  duration before{};
  for (const auto& d : r->decisions) {
    CHECK(d.at >= before);
    before = d.at;
    if (!d.request) continue;
    if (d.what == "ended") ++ended.at(*d.request);
    if (d.what != "dispatched") continue;
    ++dispatched.at(*d.request);
    CHECK(d.where.starts_with("i1 > i"));
    CHECK_FALSE(d.why.empty());
  }
  CHECK(dispatched == std::vector<int>(load.requests.size(), 1));
  CHECK(ended == dispatched);
}

TEST_CASE("another seed gives other step times and the same requests") {
  auto noisy = simple_cluster(2);
  noisy.device.step_noise = 0.05;
  const auto load = random_load(3, 100, 20);
  run_options o;
  o.scheduler.policy = "least_loaded";
  const auto a = run(noisy, load, o);
  o.seed = 2;
  const auto b = run(noisy, load, o);
  REQUIRE(a);
  REQUIRE(b);
  CHECK(a->records[50].token_times != b->records[50].token_times);
  CHECK(a->report.overall.output_tokens == b->report.overall.output_tokens);
}

TEST_CASE("shared beginnings of prompts are computed once") {
  const auto load = random_load(11, 200, 30, true);
  run_options o;
  o.scheduler.policy = "round_robin";
  const auto with = run(simple_cluster(1), load, o);
  o.prefix_cache = false;
  const auto without = run(simple_cluster(1), load, o);
  REQUIRE(with);
  REQUIRE(without);
  CHECK(with->cached_prompt_tokens > 10'000);
  CHECK(without->cached_prompt_tokens == 0);
  CHECK(with->report.overall.ttft.mean_ms < without->report.overall.ttft.mean_ms);
}

TEST_CASE("a request longer than the model's context counts as failed and stops nobody") {
  auto c = simple_cluster(1);
  c.device.max_context = 500;
  const auto r = simulated(c, one_class({at(0, 600, 4), at(1, 100, 4)}), "round_robin");
  CHECK(r.refused == 1);
  CHECK(r.records[0].result == outcome::failed);
  CHECK(r.records[1].result == outcome::finished);
  CHECK(r.report.overall.attainment == 0.5);
}

TEST_CASE("a fleet that cannot serve and an unknown policy are refused with words") {
  const auto load = one_class({at(0, 10, 2)});
  run_options o;
  o.fleet = {{instance_role::prefill, 2}};
  auto no_decode = run(simple_cluster(1), load, o);
  REQUIRE_FALSE(no_decode);
  CHECK(no_decode.error().message.find("decode") != std::string::npos);
  o.fleet.clear();
  o.scheduler.policy = "nobody";
  auto unknown = run(simple_cluster(1), load, o);
  REQUIRE_FALSE(unknown);
  CHECK(unknown.error().message.find("round_robin") != std::string::npos);
}

} // namespace hflex::world_test
