#include "tests/support/catch.hpp"
#include "tools/sim/study.hpp"

namespace hflex::study_test {

using namespace hflex::sim;

namespace {

study_options four_points(std::uint32_t threads) {
  study_options o;
  o.hardware.name = "simple";
  o.hardware.device.steps = {.c0_ms = 10, .c1_ms = 0.1, .m0 = 0, .c2_ms = 0, .c3_ms = 0, .c4_ms = 0};
  o.hardware.device.kv_tokens = 16'000;
  o.hardware.device.kv_bytes_per_token = 1000;
  o.hardware.device.max_batched_tokens = 1024;
  o.hardware.device.max_sequences = 64;
  o.hardware.collocated = {{instance_role::mixed, 2}};
  o.hardware.max_instances = 2;
  o.sources = "synthetic:poisson,rate=4,duration=20,prompt=300,output=8";
  o.requests.classes = *read_classes("");
  o.requests.default_class = o.requests.classes.front().name;
  o.policies = {"round_robin", "hyperflexis"};
  o.loads = {0.5, 1.5};
  o.threads = threads;
  return o;
}

} // namespace

TEST_CASE("a study comes out the same on one thread and on several, in the order asked for", "[threads]") {
  const auto alone = study(four_points(1));
  REQUIRE(alone);
  auto options = four_points(3);
  std::uint64_t last = 0, wanted = 0; // told one at a time: no lock here
  options.on_progress = [&](std::uint64_t done, std::uint64_t total, std::string_view) {
    last = done;
    wanted = total;
    return true;
  };
  const auto together = study(options);
  REQUIRE(together);
  REQUIRE(alone->size() == 4);
  REQUIRE(together->size() == 4);
  CHECK(wanted > 0);
  CHECK(last == wanted);
  for (std::size_t i = 0; i < 4; ++i) {
    const auto &a = (*alone)[i], &b = (*together)[i];
    CHECK(a.load == options.loads[i / 2]);
    CHECK(b.load == a.load);
    CHECK(b.rate_scale == a.rate_scale);
    CHECK(b.steps == a.steps);
    REQUIRE(b.records.size() == a.records.size());
    for (std::size_t r = 0; r < a.records.size(); ++r) CHECK(b.records[r].token_times == a.records[r].token_times);
  }
}

TEST_CASE("a study that is told to stop ends without results, on every thread", "[threads]") {
  auto options = four_points(3);
  options.on_progress = [](std::uint64_t, std::uint64_t, std::string_view) { return false; };
  const auto stopped = study(options);
  REQUIRE_FALSE(stopped);
  CHECK(stopped.error().code == errc::fatal);
}

} // namespace hflex::study_test
