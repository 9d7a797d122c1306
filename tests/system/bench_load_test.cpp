// `hflex bench load`: a few requests against clusters of its own and against a running one.
#include "tests/system/cluster.hpp"
#include <fstream>

namespace hflex::test::bench_load_test {

namespace {

const std::string trace = "synthetic:poisson,rate=40,requests=12,prompt=60,output=12";

void check_distribution(const json& d) {
  for (const char* key : {"mean", "p50", "p90", "p99"}) CHECK(d[key].is_number());
  CHECK(d["p50"] <= d["p99"]);
}

void check_run(const json& run, const std::string& policy, unsigned requests) {
  CHECK(run["policy"] == policy);
  CHECK(run["requests"] == requests);
  CHECK(run["finished"] == requests);
  for (const char* key : {"ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"}) check_distribution(run["overall"][key]);
  CHECK(run["overall"]["ttft_ms"]["mean"] > 0);
  CHECK(run["overall"]["e2e_ms"]["mean"] > run["overall"]["ttft_ms"]["mean"]);
}

} // namespace

TEST_CASE("bench load finds a faulty cluster file before it measures anything") {
  const auto answer = run_hflex(
      {"bench", "load", "--trace", trace, "--policy", "least_loaded", "--compare-simulation", "nowhere.yaml"});
  CHECK(answer.code == 2);
  CHECK(answer.out.empty());
  CHECK(answer.err.find("nowhere.yaml: expected a file that can be read") != std::string::npos);
  CHECK(answer.err.find("joins") == std::string::npos); // no agent was started
}

TEST_CASE("bench load runs a trace under two policies, each on a cluster of its own, and compares them") {
  temp_dir dir;
  const auto file = dir.file("result.json");
  auto done = run_hflex({"bench", "load", "--trace", trace, "--policy", "round_robin,hyperflexis", "--instances", "2",
      "--model", demo_model(), "--mix", "interactive:0.5,batch:0.5", "--save-result", file, "-o", "json"});
  INFO(done.err);
  REQUIRE(done.code == 0);
  const auto result = json::parse(done.out);
  CHECK(result["bench"] == "load");
  CHECK(result["length_scale"] == 1.0);
  REQUIRE(result["runs"].size() == 2);
  check_run(result["runs"][0], "round_robin", 12);
  check_run(result["runs"][1], "hyperflexis", 12);
  CHECK(result["runs"][0]["classes"].size() == 2);
  REQUIRE(result["ratios"].size() == 1);
  CHECK(result["ratios"][0]["policy"] == "hyperflexis");
  CHECK(result["ratios"][0]["against"] == "round_robin");
  CHECK(result["ratios"][0]["ttft_mean"].is_number());

  std::ifstream saved(file);
  const auto all = json::parse(saved);
  for (const auto& run : all["runs"]) {
    REQUIRE(run["records"].size() == 12);
    for (const auto& r : run["records"]) { // the lengths of the trace, to the token
      CHECK(r["outcome"] == "finished");
      CHECK(r["prompt_tokens"] == 60);
      CHECK(r["output_tokens"] == 12);
    }
  }
}

TEST_CASE("bench load on a running cluster scales a trace to its model, and counts what is late as missed") {
  cluster c{{"collocated", "f32", {"a"}, {}, {}}};
  auto done = c.run({"bench", "load", "--trace", "synthetic:poisson,rate=50,requests=6,prompt=4000,output=96",
      "--model", demo_model(), "--goodput", "ttft:0.01", "tpot:1000", "-o", "json"});
  INFO(done.err);
  REQUIRE(done.code == 0);
  const auto result = json::parse(done.out);
  CHECK(result["length_scale"].get<double>() == Approx(0.25).epsilon(0.01));
  check_says(done.err, {"0.25", "1024"});
  REQUIRE(result["runs"].size() == 1);
  check_run(result["runs"][0], "running cluster", 6);
  CHECK(result["runs"][0]["overall"]["attainment"] == 0.0); // nobody has a first token in 10 us
  CHECK(result["runs"][0]["overall"]["goodput_rps"] == 0.0);
  c.until("every KV block free", at_rest);
}

TEST_CASE("bench load says what is wrong with its command line and starts nothing") {
  auto policy = run_hflex({"bench", "load", "--trace", trace, "--policy", "fastest", "--model", demo_model()});
  CHECK(policy.code == 2);
  check_says(policy.err, {"fastest", "hyperflexis"});
  auto file = run_hflex({"bench", "load", "--trace", "/nowhere.csv", "--model", demo_model()});
  CHECK(file.code == 2);
  check_says(file.err, {"/nowhere.csv"});
  auto goal = run_hflex({"bench", "load", "--trace", trace, "--goodput", "ttft=5", "--model", demo_model()});
  CHECK(goal.code == 2);
  check_says(goal.err, {"ttft:MS"});
  auto both = run_hflex({"bench", "load", "--trace", trace, "--rate-scale", "2", "--compress-to-s", "3"});
  CHECK(both.code == 2);
  auto head = run_hflex({"bench", "load", "--trace", trace, "--head", "127.0.0.1:1", "--model", demo_model()});
  CHECK(head.code == 1);
}

} // namespace hflex::test::bench_load_test
