// `hflex profile`: what it measures and writes beside neighbours that compute. Times are the machine's affair: only
// what was measured is checked.
#include "tests/system/cluster.hpp"
#include <filesystem>

namespace hflex::test::profile_test {
namespace {

/// A small grid beside one neighbour; 24 points, all of which fit the demo model's context and the pool.
ended profile_beside(const std::string& work, const std::string& file) {
  return run_hflex({"profile", "--model", demo_model(), "--threads", "1", "--beside", "1", "--beside-work", work,
      "--kv-memory-mib", "32", "--prefill", "0,16,64", "--decode", "0,1,4", "--context", "16,64,256", "--repeats", "1",
      "--out", file, "-o", "json"});
}

} // namespace

TEST_CASE("a profile beside a neighbour measures the whole grid, whatever the neighbour does, and can be used") {
  for (const std::string work : {"decode", "prefill", "opposite"}) {
    INFO(work);
    temp_dir dir;
    const auto file = dir.file("profile.yaml");
    const auto done = profile_beside(work, file);
    INFO(done.err);
    REQUIRE(done.code == 0);
    const auto result = json::parse(done.out);
    CHECK(result["steps"] == 24);
    CHECK(result["held_out"] == 6);
    CHECK(result["threads"] == 1);
    CHECK(result["compute"] == "bf16");
    const auto& fit = result["step_time"];
    for (const char* key : {"c0_ms", "c1_ms", "c2_ms", "c3_ms", "c4_ms", "c5_ms"}) CHECK(fit[key] >= 0.0);
    CHECK(fit["c0_ms"].get<double>() + fit["c1_ms"].get<double>() > 0); // no step takes no time

    dir.write("cluster.yaml", "instance:\n  profile: " + file + "\n");
    const auto used = run_hflex({"head", "-C", dir.file("cluster.yaml"), "--print-config"});
    INFO(used.err);
    CHECK(used.code == 0);
    check_says(slurp(file), {"step_time:\n", "c0_ms: ", "steps: 24 "});
  }
}

TEST_CASE("a neighbour's work that is none is a usage error that lists what there is, and nothing is measured") {
  temp_dir dir;
  const auto done = profile_beside("sleep", dir.file("profile.yaml"));
  CHECK(done.code == 2);
  check_says(done.err, {"--beside-work", "decode", "prefill", "opposite"});
  CHECK(!std::filesystem::exists(dir.file("profile.yaml")));
}

} // namespace hflex::test::profile_test
