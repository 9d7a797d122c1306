// What an instance tells of its residents' slack: the bandwidth of weights that leave its node depends on it.
#include "tests/unit/actors/batcher_support.hpp"
#include <cmath>

namespace hflex::batcher_slack_test {

using namespace hflex::instance;
using namespace hflex::instance::testing;
using namespace std::chrono_literals;

TEST_CASE("slack is that of the decode that is due first, as a share of its time per token") {
  core c(small_options());
  const time_point start{1h};
  std::vector<effect> out;
  const auto spec = [&](std::uint64_t id, duration tpot) {
    auto s = make_spec(id, 4, 40);
    s.arrival = start;
    s.slo.tpot = tpot;
    return s;
  };
  CHECK(std::isinf(c.slack_share(start)));
  c.on(add{spec(1, 100ms), {}}, start, out);
  CHECK(std::isinf(c.slack_share(start))); // no token yet: nobody waits for the next one
  const auto plan = only<run_step>(out).plan;
  c.on(step_finished{plan.id, {5}, 1ms, {}}, start + 50ms, out);
  CHECK(c.slack_share(start + 50ms) == Approx(1.0));
  CHECK(c.slack_share(start + 100ms) == Approx(0.5));
  CHECK(c.slack_share(start + 250ms) == Approx(-1.0));
  CHECK(std::isinf(c.slack_share(start + 1h))); // lost whatever it is given: it holds nobody back
  c.on(cancel{{request_id{1}, 1}}, start + 60ms, out);
}

} // namespace hflex::batcher_slack_test
