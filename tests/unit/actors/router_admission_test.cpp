#include "tests/unit/actors/router_bench.hpp"
#include <limits>

namespace hflex::router_admission_test {

using namespace hflex::router;
using namespace hflex::router::test;

TEST_CASE("an unknown SLO class is refused with the known ones and the nearest") {
  bench b;
  auto s = prompt_of(2);
  s.slo_class = "chta";
  auto reason = b.refusal(s);
  CHECK(says(reason, "unknown SLO class \"chta\""));
  CHECK(says(reason, "did you mean 'chat'?"));
  CHECK(says(reason, "known: chat, batch"));
  s.slo_class = "gold"; // like none of them
  CHECK(says(b.refusal(s), "unknown SLO class \"gold\"; known: chat, batch"));
  s.slo_class = std::string(1U << 20U, 'x');
  CHECK(b.refusal(s).size() < 256);
}

TEST_CASE("a prompt or output limit that the context cannot hold is refused with numbers") {
  bench b;
  CHECK(says(b.refusal(prompt_of(0)), "empty"));
  auto reason = b.refusal(prompt_of(32));
  CHECK(says(reason, "32 tokens"));
  CHECK(says(reason, "at most 31"));
  auto s = prompt_of(30);
  s.max_output_tokens = 3;
  CHECK(says(b.refusal(s), "max_tokens is 3"));
  CHECK(says(b.refusal(s), "allows 1 to 2"));
  s.max_output_tokens = 0;
  CHECK(says(b.refusal(s), "max_tokens is 0"));
  s.max_output_tokens = std::numeric_limits<std::uint32_t>::max();
  CHECK(says(b.refusal(s), "allows 1 to 2"));
  s.max_output_tokens = 2;
  CHECK(only<to_scheduler_arrived>(b.on(s)).max_output_tokens == 2);
}

TEST_CASE("an output limit that was not given is cut to what the context leaves") {
  bench b;
  CHECK(only<to_scheduler_arrived>(b.on(prompt_of(4))).max_output_tokens == 8);
  CHECK(only<to_scheduler_arrived>(b.on(prompt_of(30))).max_output_tokens == 2);
}

TEST_CASE("sampling and targets out of range are refused with what is allowed") {
  bench b;
  auto s = prompt_of(2);
  s.sampling.temperature = 10.5F;
  CHECK(says(b.refusal(s), "temperature is 10.5; allowed: 0 (greedy) to 10"));
  s.sampling.temperature = std::numeric_limits<float>::quiet_NaN();
  CHECK(says(b.refusal(s), "temperature is nan"));
  s.sampling = {};
  s.sampling.top_p = 0.0F;
  CHECK(says(b.refusal(s), "top_p is 0"));
  s.sampling = {};
  s.ttft = 0ms;
  CHECK(says(b.refusal(s), "ttft is 0 ms; allowed: above 0, up to 60000 ms"));
  s.ttft = {};
  s.tpot = 61s;
  CHECK(says(b.refusal(s), "tpot is 61000 ms"));
  CHECK(b.c.in_flight() == 0);
}

TEST_CASE("a request's own targets replace its class's") {
  bench b;
  auto s = prompt_of(2);
  s.slo_class = "batch";
  s.tpot = 20ms;
  auto arrived = only<to_scheduler_arrived>(b.on(s));
  CHECK(arrived.targets.ttft == 10s);
  CHECK(arrived.targets.tpot == 20ms);
  CHECK(arrived.targets.when_late == late_action::shed);
}

TEST_CASE("the queue is bounded and says so") {
  bench b;
  for (int i = 0; i < 3; ++i) b.submitted();
  CHECK(b.refusal(prompt_of(2)) == "queue full: 3 in flight, limit 3; retry later");
  b.on(cancel{alice, {1}});
  b.submitted();
}

} // namespace hflex::router_admission_test
