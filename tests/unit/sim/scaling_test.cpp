// Fleets that change in virtual time.
#include "actors/scaler/policy.hpp"
#include "tests/support/catch.hpp"
#include "tools/sim/random.hpp"
#include "tools/sim/world.hpp"
#include <cmath>

namespace hflex::scaling_test {

using namespace hflex::sim;

namespace {

/// 10 ms a step and 0.1 ms a token; a start takes a second, and the weights on top.
cluster elastic_cluster() {
  cluster c;
  c.name = "elastic";
  c.device.steps = {.c0_ms = 10, .c1_ms = 0.1, .m0 = 0, .c2_ms = 0, .c3_ms = 0, .c4_ms = 0};
  c.device.step_noise = 0;
  c.device.kv_tokens = 64'000;
  c.device.kv_bytes_per_token = 1000;
  c.device.weight_bytes = 1'000'000'000;
  c.device.max_batched_tokens = 1024;
  c.device.max_sequences = 64;
  c.collocated = {{instance_role::mixed, 6}};
  c.disaggregated = {{instance_role::prefill, 4}, {instance_role::decode, 2}};
  c.instances_per_node = 4;
  c.same_node = {1e9, std::chrono::milliseconds{1}};
  c.network = {5e8, std::chrono::milliseconds{1}};
  c.start.spawn = std::chrono::seconds{1};
  c.start.disk_bytes_per_s = 1e8;
  c.start.host_cache_bytes_per_s = 4e8;
  c.start.role_flip = std::chrono::milliseconds{10};
  c.min_instances = 1;
  c.max_instances = 12;
  return c;
}

/// A load that comes, goes and comes again within three minutes: 2 to 34 requests a second.
workload tides() {
  workload w;
  w.name = "tides";
  slo_class standard;
  standard.name = "standard";
  standard.targets.ttft = std::chrono::seconds{2};
  standard.targets.tpot = std::chrono::milliseconds{100};
  w.classes = {standard};
  random_source random(5);
  for (double now = 0; now < 180;) {
    const double rate = 18 + 16 * std::sin(now / 14.3);
    now += -std::log(1.0 - random.uniform()) / rate;
    w.requests.push_back({from_s(now), static_cast<std::uint32_t>(200 + random.bits() % 1000),
        static_cast<std::uint32_t>(5 + random.bits() % 60), 0, {}});
  }
  return w;
}

run_result scaled(std::string_view scaling, bool disaggregated) {
  run_options o;
  o.scheduler.policy = "hyperflexis";
  o.scaling = scaling;
  o.disaggregated = disaggregated;
  auto r = run(elastic_cluster(), tides(), o);
  REQUIRE(r);
  return std::move(*r);
}

} // namespace

TEST_CASE("under every scaling policy each request ends well, and twice the same way") {
  for (const auto& scaling : scaler::policies())
    for (const bool disaggregated : {false, true}) {
      INFO(scaling.name << (disaggregated ? " disaggregated" : " collocated"));
      const auto a = scaled(scaling.name, disaggregated);
      CHECK(a.report.overall.finished == a.records.size());
      const auto b = scaled(scaling.name, disaggregated);
      CHECK(a.cost_instance_s == b.cost_instance_s);
      CHECK(a.scale_outs == b.scale_outs);
      for (std::size_t i = 0; i < a.records.size(); ++i) REQUIRE(a.records[i].token_times == b.records[i].token_times);
    }
}

TEST_CASE("hyperflexis costs less than the fleet that its peak needs and attains nearly as much") {
  const auto fixed = scaled("fixed", false);
  const auto follows = scaled("hyperflexis", false);
  CHECK(follows.scale_outs > 0);
  CHECK(follows.scale_ins > 0);
  CHECK(follows.cost_instance_s < 0.9 * fixed.cost_instance_s);
  CHECK(follows.report.overall.attainment > fixed.report.overall.attainment - 0.02);
}

TEST_CASE("a start takes its weights from a live neighbour before the disk") {
  const auto r = scaled("hyperflexis", false);
  REQUIRE(r.scale_outs > 0);
  CHECK(r.starts_from_neighbour == r.scale_outs); // there is always one: the least is 1
  // A second, and a gigabyte at 0.5 to 1 GB/s.
  CHECK(r.starts_s / static_cast<double>(r.scale_outs) >= 2.0);
  CHECK(r.starts_s / static_cast<double>(r.scale_outs) <= 3.0);
}

} // namespace hflex::scaling_test
