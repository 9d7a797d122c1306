#include "actors/scheduler/policy.hpp"
#include "tests/support/catch.hpp"
#include "tools/sim/random.hpp"
#include "tools/sim/upper_bound.hpp"
#include "tools/sim/world.hpp"
#include <cmath>

namespace hflex::upper_bound_test {

using namespace hflex::sim;

namespace {

slo_class make_class(std::string name, double ttft_ms, double tpot_ms, double weight = 1) {
  slo_class c;
  c.name = std::move(name);
  c.targets.ttft = from_ms(ttft_ms);
  c.targets.tpot = from_ms(tpot_ms);
  c.targets.weight = weight;
  return c;
}

/// 10 ms a step and 0.1 ms a token; messages take no time.
cluster simple_cluster(std::uint32_t instances) {
  cluster c;
  c.name = "simple";
  c.device.steps = {.c0_ms = 10, .c1_ms = 0.1, .m0 = 0};
  c.device.step_noise = 0;
  c.device.kv_tokens = 160'000;
  c.device.kv_bytes_per_token = 1000;
  c.device.max_batched_tokens = 1000;
  c.device.max_sequences = 100;
  c.collocated = {{instance_role::mixed, instances}};
  c.disaggregated = {{instance_role::prefill, (instances + 1) / 2}, {instance_role::decode, (instances + 1) / 2}};
  c.same_node = c.network = {1e9, std::chrono::microseconds{10}};
  c.control_latency = duration{0};
  c.max_instances = 2 * instances;
  return c;
}

/// Like a GPU: a knee, attention, noise, messages.
cluster real_cluster(std::uint32_t instances) {
  auto c = simple_cluster(instances);
  c.device.steps = {
      .c0_ms = 8.6, .c1_ms = 0.02, .m0 = 224, .c2_ms = 1.1e-6, .c3_ms = 0.005, .c4_ms = 4e-5, .c5_ms = 1e-5};
  c.device.step_noise = 0.03;
  c.device.max_batched_tokens = 2048;
  c.device.max_sequences = 256;
  c.control_latency = std::chrono::microseconds{200};
  return c;
}

workload all_at_once(std::uint32_t count, std::uint32_t prompt, std::uint32_t output, double ttft_ms, double tpot_ms) {
  workload w;
  w.classes = {make_class("only", ttft_ms, tpot_ms)};
  w.requests.assign(count, {duration{0}, prompt, output, 0, {}});
  return w;
}

workload random_load(std::uint64_t seed, std::size_t count, double per_second, bool shared) {
  workload w;
  w.name = "random";
  w.classes = {make_class("tight", 120, 20), make_class("loose", 1000, 50, 0.2)};
  w.prefix_block_tokens = 64;
  random_source random(seed);
  double now = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (random.uniform() < 0.5) now += random.exponential() * 2 / per_second; // half of them come with another
    request r{from_s(now), 1 + random.below(4000), 1 + random.below(60), random.below(2), {}};
    for (std::uint64_t b = 0; shared && b < 20; ++b) r.prefix_blocks.push_back(random.below(2) * 100 + b);
    w.requests.push_back(std::move(r));
  }
  return w;
}

attainment_bound bound(const cluster& c, const workload& w, bool disaggregated = false, bool noisy = false) {
  return upper_bound(c, w, disaggregated ? c.disaggregated : c.collocated, true, noisy);
}

} // namespace

TEST_CASE("an empty workload is bounded by nothing") {
  const auto b = bound(simple_cluster(1), all_at_once(0, 1, 1, 1, 1));
  CHECK(b.attainment == 0.0);
  CHECK(b.weighted_attainment == 0.0);
}

TEST_CASE("a prompt that takes too long alone is lost, with the chunks that it needs") {
  // 2,000 tokens in two steps of 1,000: 220 ms.
  CHECK(bound(simple_cluster(1), all_at_once(1, 2000, 1, 221, 50)).attainment == Approx(1.0));
  CHECK(bound(simple_cluster(1), all_at_once(1, 2000, 1, 219, 50)).attainment == 0.0);
  CHECK(bound(simple_cluster(9), all_at_once(1, 2000, 1, 219, 50)).alone == 0.0);
}

TEST_CASE("an answer whose steps take longer than its TPOT is lost") {
  CHECK(bound(simple_cluster(1), all_at_once(1, 100, 5, 1000, 10.2)).attainment == Approx(1.0));
  CHECK(bound(simple_cluster(1), all_at_once(1, 100, 5, 1000, 10.0)).attainment == 0.0);
}

TEST_CASE("prompts that come at once share the time to their first tokens") {
  // Ten times 1,000 tokens cost 110 ms each in full steps: 330 ms of time are enough for three, per instance.
  const auto load = all_at_once(10, 1000, 1, 330, 50);
  CHECK(bound(simple_cluster(1), load).attainment == Approx(0.3).epsilon(0.01));
  CHECK(bound(simple_cluster(2), load).attainment == Approx(0.6).epsilon(0.01));
  CHECK(bound(simple_cluster(4), load).attainment == Approx(1.0));
}

TEST_CASE("decode instances bound what prefill instances could start") {
  // A step of 100 decodes takes 20 ms. 1,000 answers of 101 tokens are 20 s of steps; they have 10.01 s.
  auto c = simple_cluster(1);
  c.disaggregated = {{instance_role::prefill, 100}, {instance_role::decode, 1}};
  const auto load = all_at_once(1000, 1, 101, 10, 100);
  c.device.steps.c0_ms = 9; // the prefill fits
  // 100 tokens at 0.19 ms each: 19 ms a request.
  CHECK(bound(c, load, true).attainment == Approx(10.0009 / 19).epsilon(0.01));
}

TEST_CASE("a prefix that nobody else brings in time is not cached") {
  auto load = all_at_once(2, 1000, 1, 60, 50); // 1,000 tokens take 110 ms
  load.prefix_block_tokens = 100;
  for (auto& r : load.requests) r.prefix_blocks = {1, 2, 3, 4, 5, 6, 7};
  CHECK(bound(simple_cluster(2), load).attainment == Approx(1.0));
  load.requests[1].arrival = std::chrono::seconds{1}; // too late for the first one
  CHECK(bound(simple_cluster(2), load).attainment == Approx(0.5));
  CHECK(upper_bound(simple_cluster(2), load, simple_cluster(2).collocated, false, false).attainment == 0.0);
}

TEST_CASE("noise gives those a chance that just miss their target, and those alone") {
  auto c = simple_cluster(1);
  c.device.step_noise = 0.03;
  const auto just = bound(c, all_at_once(1, 1000, 1, 109, 50), false, true).attainment;
  CHECK(just > 0.2);
  CHECK(just < 0.5);
  CHECK(bound(c, all_at_once(1, 1000, 1, 80, 50), false, true).attainment < 1e-9);
  CHECK(bound(c, all_at_once(1, 1000, 1, 111, 50), false, true).attainment == Approx(1.0));
}

TEST_CASE("an end-to-end deadline leaves less time, down to none") {
  // 100 tokens take 20 ms, four decodes alone 40.4 ms.
  auto c = simple_cluster(1);
  c.device.step_noise = 0.03;
  auto load = all_at_once(1, 100, 5, 1000, 50);
  for (const auto& [e2e_ms, expected] : {std::pair{62.0, 1.0}, {55.0, 0.0}, {20.0, 0.0}, {0.0, 0.0}}) {
    load.classes[0].targets.e2e = from_ms(e2e_ms);
    CAPTURE(e2e_ms);
    CHECK(bound(c, load, false, true).attainment == Approx(expected).margin(0.01));
  }
}

TEST_CASE("weights make another bound than counts") {
  auto load = all_at_once(4, 1000, 1, 220, 50);
  load.classes.push_back(make_class("heavy", 220, 50, 9));
  load.requests[3].slo_class = 1;
  const auto b = bound(simple_cluster(1), load);
  CHECK(b.attainment == Approx(2.0 / 4).epsilon(0.01));
  CHECK(b.weighted_attainment == Approx(10.0 / 12).epsilon(0.01));
}

TEST_CASE("no policy attains more than the bound, in either mode, at any load", "[numbers]") {
  for (const std::uint64_t seed : {1, 2, 3})
    for (const bool disaggregated : {false, true})
      for (const double per_second : {10.0, 60.0, 200.0}) {
        const auto hardware = real_cluster(2 + static_cast<std::uint32_t>(seed));
        const auto load = random_load(seed, 250, per_second, seed == 2);
        const bool noisy = seed != 3;
        const auto b = bound(hardware, load, disaggregated, noisy);
        for (const auto& policy : scheduler::policies()) {
          INFO(policy.name << (disaggregated ? " disaggregated" : " collocated") << ", seed " << seed << ", "
                           << per_second << " requests/s");
          run_options o;
          o.scheduler.policy = policy.name;
          o.disaggregated = disaggregated;
          o.noisy = noisy;
          const auto r = run(hardware, load, o);
          REQUIRE(r);
          CHECK(r->report.overall.attainment <= b.attainment + 1e-9);
          CHECK(r->report.overall.weighted_attainment <= b.weighted_attainment + 1e-9);
        }
      }
}

TEST_CASE("more instances raise the bound and more load lowers it") {
  for (const bool disaggregated : {false, true}) {
    double last = 0;
    for (const std::uint32_t instances : {1, 2, 4, 8}) {
      const auto b = bound(real_cluster(instances), random_load(4, 300, 60, false), disaggregated);
      CHECK(b.attainment >= last);
      CHECK(b.attainment <= b.alone + 1e-9);
      last = b.attainment;
    }
    last = 1;
    for (const double per_second : {5.0, 20.0, 80.0, 320.0}) {
      const auto b = bound(real_cluster(2), random_load(4, 300, per_second, false), disaggregated);
      CHECK(b.attainment <= last + 0.002); // prices are found to that much
      last = b.attainment;
    }
  }
}

} // namespace hflex::upper_bound_test
