// A large fleet's workload made to fit a small cluster.
#include "tests/support/catch.hpp"
#include "tools/sim/workload_shape.hpp"
#include <cmath>
#include <limits>
#include <numeric>

namespace hflex::workload_shape_test {

using namespace hflex::sim;

namespace {

workload some(std::size_t count) {
  workload load;
  load.classes = {{"only", {}, {}}};
  for (std::size_t i = 0; i < count; ++i)
    load.requests.push_back({from_s(static_cast<double>(i * i) / 10), static_cast<std::uint32_t>(10 + i),
        static_cast<std::uint32_t>(1 + i % 7), 0, {}});
  return load;
}

} // namespace

TEST_CASE("without options a workload stays as it is") {
  auto load = some(20);
  const auto report = shape(load, {});
  CHECK(report.offered == 20);
  CHECK(report.length_scale == 1);
  CHECK(report.cut == 0);
  const auto as_was = some(20);
  for (std::size_t i = 0; i < 20; ++i) {
    CHECK(load.requests[i].arrival == as_was.requests[i].arrival);
    CHECK(load.requests[i].prompt_tokens == as_was.requests[i].prompt_tokens);
  }
}

TEST_CASE("thinning keeps exactly as many as wanted, in their order, from all over") {
  auto load = some(1000);
  shape_options o;
  o.requests = 100;
  shape(load, o);
  REQUIRE(load.requests.size() == 100);
  std::size_t late = 0;
  for (std::size_t i = 0; i < 100; ++i) {
    if (i > 0) CHECK(load.requests[i - 1].prompt_tokens < load.requests[i].prompt_tokens);
    late += load.requests[i].prompt_tokens >= 510 ? 1 : 0;
  }
  CHECK(late > 30);
  CHECK(late < 70);
  auto again = some(1000);
  shape(again, o);
  CHECK(again.requests[50].prompt_tokens == load.requests[50].prompt_tokens); // by seed
  auto all = some(10);
  shape(all, o);
  CHECK(all.requests.size() == 10);
}

TEST_CASE("a compressed workload takes the time that is given, in its own rhythm") {
  auto load = some(11);
  shape_options o;
  o.compress_to = std::chrono::seconds{5};
  CHECK(shape(load, o).rate_scale == Approx(2));
  CHECK(load.requests.front().arrival == duration{0});
  CHECK(load.requests.back().arrival == std::chrono::seconds{5});
  CHECK(to_s(load.requests[5].arrival) == Approx(1.25));
  auto one = some(1);
  shape(one, o);
  CHECK(one.requests.front().arrival == duration{0});
}

TEST_CASE("made-up arrivals have the rate that is wanted, and bursts as wanted") {
  const auto gaps = [](double burstiness) {
    auto load = some(20000);
    shape_options o;
    o.request_rate = 50;
    o.burstiness = burstiness;
    shape(load, o);
    double sum = 0, squares = 0;
    for (std::size_t i = 1; i < load.requests.size(); ++i) {
      const double gap = to_s(load.requests[i].arrival - load.requests[i - 1].arrival);
      sum += gap;
      squares += gap * gap;
    }
    const double n = static_cast<double>(load.requests.size() - 1), mean = sum / n;
    return std::pair{mean, std::sqrt(squares / n - mean * mean) / mean};
  };
  for (double burstiness : {0.25, 1.0, 4.0}) {
    const auto [mean, cv] = gaps(burstiness);
    CHECK(mean == Approx(0.02).epsilon(0.05));
    CHECK(cv == Approx(1 / std::sqrt(burstiness)).epsilon(0.05));
  }
  auto at_once = some(5);
  shape_options o;
  o.request_rate = std::numeric_limits<double>::infinity();
  shape(at_once, o);
  CHECK(at_once.requests.back().arrival == duration{0});
}

TEST_CASE("lengths that the context does not hold are scaled, and the rest is cut") {
  workload load = some(200);
  for (auto& r : load.requests) {
    r.prompt_tokens = 3000;
    r.output_tokens = 1000;
  }
  load.requests[7].prompt_tokens = 100'000;
  load.requests[8].output_tokens = 90'000;
  load.prefix_block_tokens = 512;
  shape_options o;
  o.context = 1000;
  o.min_prompt_tokens = 2;
  const auto report = shape(load, o);
  CHECK(report.length_scale == Approx(0.25));
  CHECK(report.cut == 2);
  CHECK(load.prefix_block_tokens == 128);
  CHECK(load.requests[0].prompt_tokens == 750);
  CHECK(load.requests[0].output_tokens == 250);
  for (const auto& r : load.requests) {
    CHECK(r.prompt_tokens >= 2);
    CHECK(r.output_tokens >= 1);
    CHECK(r.prompt_tokens + r.output_tokens <= 1000);
  }
}

} // namespace hflex::workload_shape_test
