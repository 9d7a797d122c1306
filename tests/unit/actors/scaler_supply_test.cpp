// The sums that scaling policies stand on: work, supply, forecasts, peaks.
#include "actors/scaler/forecast.hpp"
#include "actors/scaler/peaks.hpp"
#include "actors/scaler/supply.hpp"
#include "tests/support/catch.hpp"
#include <cmath>

namespace hflex::scaler_supply_test {

using namespace hflex::scaler;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

constexpr auto mixed = instance_role::mixed;

/// 10 ms a step, 0.1 ms a token: a request of 900 and 100 tokens is 0.1 instance-seconds of work.
constexpr step_time_model simple{.c0_ms = 10, .c1_ms = 0.1, .m0 = 0, .c2_ms = 0, .c3_ms = 0, .c4_ms = 0};

} // namespace

TEST_CASE("work of a request is what it adds to the steps it is part of") {
  CHECK(prefill_work(simple, 900, 810'000) == Approx(0.09));
  CHECK(decode_work(simple, 900, 100, true) == Approx(0.01));
  auto with_pairs = simple;
  with_pairs.c2_ms = 1e-4;
  CHECK(prefill_work(with_pairs, 100, 10'000) == Approx(0.0105));
  CHECK(share_for_work(simple, milliseconds{100}) == Approx(0.9));
  CHECK(share_for_work(simple, milliseconds{20}) == Approx(0.5));
}

TEST_CASE("the targets of a few odd requests do not bind the fleet") {
  mix classes;
  classes["tight"] = {milliseconds{100}, milliseconds{20}, 1, 0, 0, 0, 0};
  classes["loose"] = {seconds{2}, milliseconds{100}, 99, 0, 0, 0, 0};
  CHECK(binding_targets(classes, 0.05).tpot == milliseconds{100});
  CHECK(binding_targets(classes, 0.005).tpot == milliseconds{20});
  CHECK(binding_targets(classes, 0.005).ttft == milliseconds{100});
}

TEST_CASE("a decode instance has time for as many sequences as its target, its limit or its memory lets it have") {
  CHECK(decode_share_for_work(simple, milliseconds{20}, 1000, 0) == Approx(0.5)); // 100 in steps of 20 ms
  CHECK(decode_share_for_work(simple, milliseconds{20}, 50, 0) == Approx(5.0 / 15));
  auto reads = simple;
  reads.c4_ms = 1e-4; // 0.2 ms a sequence more
  CHECK(decode_share_for_work(reads, milliseconds{25}, 1000, 2000) == Approx(15.0 / 25));
  CHECK(decode_share_for_work(simple, milliseconds{5}, 1000, 0) < 0.02 + 1e-9); // not even one
}

TEST_CASE("residents need as many instances as their steps and their memory ask for") {
  demand_report d;
  d.instances.push_back({{1}, mixed, false, 400, 0, 0, 0, 1000, 500, 16, 2048, 256, 1.0, simple});
  // 400 decodes are 40 ms of each step, of which 90 are free at a target of 100 ms; 256 sequences are the most.
  CHECK(instances_for_residents(d, simple, milliseconds{100}, mixed) == Approx(400.0 / 256));
  CHECK(instances_for_residents(d, simple, milliseconds{30}, mixed) == Approx(2.0));
}

TEST_CASE("a rising rate is forecast to rise on, a falling one to stay") {
  rate_forecast f;
  time_point now{seconds{10}};
  for (int i = 0; i < 60; ++i) f.add(now += seconds{1}, i);
  CHECK(f.lately(seconds{5}) == Approx(57).margin(1.1));
  CHECK(f.expected(seconds{10}) == Approx(69).margin(1.5));
  for (int i = 60; i > 0; --i) f.add(now += seconds{1}, i);
  CHECK(f.expected(seconds{10}) >= f.lately(seconds{10}) - 1e-9);
}

TEST_CASE("a forecast that was exceeded is trusted less") {
  rate_forecast f;
  time_point now{seconds{10}};
  const auto pass = [&](double rate, int bins) {
    for (int i = 0; i < bins; ++i) {
      f.add(now += seconds{1}, rate);
      f.learn(seconds{5});
    }
  };
  pass(1, 60);
  CHECK(f.usual_excess() == Approx(0).margin(0.01));
  pass(10, 10);
  CHECK(f.usual_excess() > 0.5);
}

TEST_CASE("the variance of a series is that of its latest seconds") {
  rate_forecast f;
  time_point now{seconds{10}};
  CHECK(f.variance(seconds{60}) == 0);
  f.add(now, 0); // begins the first second
  for (int i = 0; i < 100; ++i) f.add(now += seconds{1}, i % 10 == 0 ? 10 : 0);
  // One second in ten has 10: mean 1, squares 9 x 1 + 81 in ten.
  CHECK(f.variance(seconds{100}) == Approx(9.0 * 100 / 99));
  for (int i = 0; i < 60; ++i) f.add(now += seconds{1}, 3);
  CHECK(f.variance(seconds{60}) == Approx(0).margin(1e-9));
  CHECK(f.variance(seconds{120}) > 1);
}

TEST_CASE("a peak is remembered for the window and no longer") {
  peaks p;
  const time_point start{seconds{1}};
  p.add(start, 5);
  p.add(start + seconds{5}, 3);
  CHECK(p.over(seconds{10}, seconds{10}) == 5);
  CHECK(p.over(seconds{2}, seconds{10}) == 3);
  p.add(start + seconds{11}, 1);
  CHECK(p.over(seconds{10}, seconds{10}) == 3);
  CHECK(p.covers(seconds{11}));
  CHECK_FALSE(p.covers(seconds{12}));
}

} // namespace hflex::scaler_supply_test
