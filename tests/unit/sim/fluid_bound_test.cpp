#include "tests/support/catch.hpp"
#include "tools/sim/fluid_bound.hpp"
#include "tools/sim/random.hpp"
#include <algorithm>

namespace hflex::fluid_bound_test {

using namespace hflex::sim;

namespace {

fluid_request one(double begin, double end, double work, double worth = 1, double rate = 1) {
  return {worth, {{0, begin, end, work, rate}}};
}

double bound(const std::vector<fluid_request>& requests, std::vector<double> pools = {1}, double grain = 0) {
  return fluid_bound(requests, pools, grain);
}

} // namespace

TEST_CASE("what fits is worth all of it, and nothing is worth nothing") {
  CHECK(bound({}) == 0.0);
  CHECK(bound({one(0, 1, 0.5), one(0, 1, 0.5)}) == Approx(2.0));
  CHECK(bound({one(0, 1, 0.5), one(1, 2, 1.0), one(0, 2, 0.5)}) == Approx(3.0));
}

TEST_CASE("where not all fits, the smallest go first and a share of the next") {
  CHECK(bound({one(0, 1, 0.25), one(0, 1, 0.5), one(0, 1, 1.0)}) == Approx(2.25).epsilon(0.01));
  CHECK(bound({one(0, 1, 1.0), one(0, 1, 1.0), one(0, 1, 1.0)}, {2}) == Approx(2.0).epsilon(0.01));
}

TEST_CASE("a burst cannot use the time before and after it") {
  // Four of them want all of one second; the hour around it is free.
  std::vector<fluid_request> requests{one(0, 100, 1)};
  for (int i = 0; i < 4; ++i) requests.push_back(one(50, 51, 1));
  CHECK(bound(requests) == Approx(2.0).epsilon(0.01));
}

TEST_CASE("the worthy go before the small") {
  CHECK(bound({one(0, 1, 1.0, 5), one(0, 1, 0.5, 1)}) == Approx(5.0).epsilon(0.01));
}

TEST_CASE("a request counts by the one of its jobs that is served least") {
  // Pool 0 would serve both, pool 1 serves one and a half.
  const fluid_request r{1, {{0, 0, 1, 0.5, 1}, {1, 0, 2, 1.0, 1}}};
  CHECK(bound({r, r}, {1, 0.75}) == Approx(1.5).epsilon(0.01));
}

TEST_CASE("work that is slower than its window is lost") {
  CHECK(bound({one(0, 1, 0.5, 1, 0.4)}) == 0.0);
  CHECK(bound({one(0, 1, 0.5, 1, 0.6)}) == 1.0);
}

TEST_CASE("a coarse grain never lowers the bound by more than the search misses, and more instances never do") {
  random_source random(5);
  std::vector<fluid_request> requests;
  for (int i = 0; i < 300; ++i) {
    const double begin = 20 * random.uniform(), length = 0.3 + random.uniform();
    const double work = 0.2 * random.uniform() + 0.01;
    requests.push_back({1, {{0, begin, begin + length, work, 1}, {0, begin + length, begin + 3 * length, work, 0.5}}});
  }
  double last = 0;
  for (double instances : {1.0, 1.5, 2.0, 3.0, 6.0}) {
    const double fine = bound(requests, {instances});
    CHECK(bound(requests, {instances}, 0.05) >= fine * 0.995);
    CHECK(fine >= last * 0.995);
    CHECK(fine <= 300.0);
    last = fine;
  }
  CHECK(last == Approx(300.0).epsilon(0.001));
}

TEST_CASE("no schedule that keeps to the windows serves more") {
  // Whoever is due first, of those that still fit: a schedule like any other.
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    random_source random(seed);
    std::vector<fluid_request> requests;
    for (int i = 0; i < 100; ++i) {
      const double begin = 10 * random.uniform();
      const double work = 0.02 + 0.2 * random.uniform();
      requests.push_back(one(begin, begin + work * (1 + 3 * random.uniform()), work));
    }
    auto order = requests;
    std::sort(
        order.begin(), order.end(), [](const auto& a, const auto& b) { return a.jobs[0].end_s < b.jobs[0].end_s; });
    double now = 0;
    int served = 0;
    for (const auto& r : order) {
      const auto& j = r.jobs[0];
      const double end = std::max(now, j.begin_s) + j.work_s;
      if (end > j.end_s) continue;
      now = end;
      ++served;
    }
    CHECK(served <= bound(requests) + 1e-9);
    CHECK(bound(requests) < 100);
  }
}

} // namespace hflex::fluid_bound_test
