#include "actors/cluster/weights_outlook.hpp"
#include "tests/support/catch.hpp"

namespace hflex::weights_outlook_test {

using cluster::weights_outlook;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr time_point start{seconds{100}};

TEST_CASE("the rest of the weights is expected at the rate of what has come") {
  weights_outlook o;
  o.note(100, 1000, start);
  o.note(400, 1000, start + seconds{3});
  CHECK(o.left(start + seconds{3}) == seconds{6});
  CHECK(o.left(start + seconds{5}) == seconds{4});       // time passes
  CHECK(o.left(start + seconds{20}) == milliseconds{1}); // overdue, and still not there
  CHECK_FALSE(o.complete());
  o.note(1000, 1000, start + seconds{9});
  CHECK(o.complete());
  CHECK(o.left(start + seconds{9}) == duration{0});
}

TEST_CASE("a burst at the beginning is not taken for the rate") {
  weights_outlook o;
  o.note(0, 1000, start);
  o.note(500, 1000, start + milliseconds{100});
  CHECK(o.left(start + milliseconds{100}) == weights_outlook::unknown);
  for (int i = 2; i <= 20; ++i) o.note(500 + static_cast<std::uint64_t>(i), 1000, start + milliseconds{100} * i);
  CHECK(o.left(start + seconds{2}) == seconds{48}); // 10 a second of late, 260 in the mean
}

TEST_CASE("a source that has come to a halt is not expected soon") {
  weights_outlook o;
  for (int i = 0; i <= 10; ++i) o.note(static_cast<std::uint64_t>(i) * 50, 1000, start + milliseconds{100} * i);
  REQUIRE(o.left(start + seconds{1}) == seconds{1});
  for (int i = 11; i <= 20; ++i) o.note(500, 1000, start + milliseconds{100} * i);
  CHECK(o.left(start + seconds{2}) > seconds{100});
}

TEST_CASE("weights of which nothing is known take a while, and none take for ever") {
  weights_outlook o;
  CHECK(o.left(start) == weights_outlook::unknown);
  CHECK_FALSE(o.complete());
  o.note(1, 1000, start);
  CHECK(o.left(start) == weights_outlook::unknown);
  o.note(2, std::uint64_t{1} << 62U, start + seconds{1});
  o.note(3, std::uint64_t{1} << 62U, start + seconds{2});
  CHECK(o.left(start + seconds{2}) == weights_outlook::longest);
}

TEST_CASE("a source that begins anew is judged by itself") {
  weights_outlook o;
  o.note(100, 1000, start);
  o.note(900, 1000, start + seconds{1});
  o.note(10, 1000, start + seconds{2});
  CHECK(o.left(start + seconds{2}) == weights_outlook::unknown);
  o.note(20, 1000, start + seconds{3});
  CHECK(o.left(start + seconds{3}) == seconds{98});
}

} // namespace hflex::weights_outlook_test
