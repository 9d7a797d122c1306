#include "actors/weights/bandwidth.hpp"
#include "tests/support/catch.hpp"
#include <limits>

namespace hflex::bandwidth_test {

using namespace hflex::weights;

TEST_CASE("a source gives weights the slower, the less time its own requests have to spare") {
  bandwidth_cap cap({.link_bytes_per_s = 1600});
  CHECK(cap.value() == 1600);
  cap.slack({1}, std::numeric_limits<double>::infinity());
  CHECK(cap.value() == 1600);
  auto last = cap.value();
  for (const auto share : {0.9, 0.7, 0.5, 0.3}) {
    cap.slack({1}, share);
    CHECK(cap.value() < last);
    last = cap.value();
  }
  for (const auto share : {0.1, 0.0, -3.0, std::numeric_limits<double>::quiet_NaN()}) {
    cap.slack({1}, share);
    CHECK(cap.value() == 100); // newcomers are to relieve us: never nothing
  }
}

TEST_CASE("the instance with the least slack decides, until it is gone") {
  bandwidth_cap cap({.link_bytes_per_s = 1600});
  cap.slack({1}, 0.5);
  const auto half = cap.value();
  cap.slack({2}, 0.0);
  CHECK(cap.value() == 100);
  cap.slack({3}, 5.0);
  CHECK(cap.value() == 100);
  cap.gone({2});
  CHECK(cap.value() == half);
  cap.gone({1});
  CHECK(cap.value() == 1600);
}

TEST_CASE("a link without a limit gets one only when it has to be shared with requests in need") {
  bandwidth_cap cap({});
  CHECK(cap.value() == 0);
  cap.slack({1}, 0.05);
  CHECK(cap.value() == (1U << 30U) / 16);
  cap.slack({1}, 1.0);
  CHECK(cap.value() == 0);
}

} // namespace hflex::bandwidth_test
