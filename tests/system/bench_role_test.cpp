// `hflex bench role`: changes of role while clients keep a real cluster busy.
#include "tests/system/cluster.hpp"

namespace hflex::test::bench_role_test {

TEST_CASE("bench role changes roles under load, and no request fails and no weights are loaded") {
  auto done = run_hflex({"bench", "role", "--flips", "6", "--instances", "2", "--concurrency", "12", "--output-tokens",
      "24", "--model", demo_model(), "-o", "json"});
  INFO(done.err);
  REQUIRE(done.code == 0);
  const auto result = json::parse(done.out);
  CHECK(result["bench"] == "role");
  CHECK(result["failed"] == 0);
  CHECK(result["weight_loads"] == 0);
  CHECK(result["requests"] == result["finished"]);
  CHECK(result["requests"] > 12);
  REQUIRE(result["each"].size() == 6);
  for (const auto& flip : result["each"]) {
    CHECK(flip["from"] != flip["to"]);
    CHECK(flip["drain_ms"] >= 0);
    CHECK(flip["beyond_drain_ms"] > 0);
  }
  CHECK(result["transitions"][0]["transition"] == "all");
  CHECK(result["transitions"][0]["flips"] == 6);
}

} // namespace hflex::test::bench_role_test
