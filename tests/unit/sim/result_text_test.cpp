// Results as table, JSON and CSV.
#include "tests/unit/sim/says.hpp"
#include "tools/sim/csv.hpp"
#include "tools/sim/result_text.hpp"
#include <algorithm>
#include <sstream>

namespace hflex::result_text_test {

using namespace hflex::sim;

namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

run_result run(const std::string& policy, double attainment) {
  slo_summary s;
  s.requests = 200;
  s.finished = 180;
  s.shed = 15;
  s.failed = 5;
  s.attained = static_cast<std::uint64_t>(200 * attainment);
  s.attainment = attainment;
  s.goodput_per_s = 12.5;
  s.ttft = {180, 120.5, 100, 200, 400};
  s.tpot = {180, 20, 19, 25, 38.5};
  s.e2e = {180, 4000, 3500, 6000, 9000};
  run_result r;
  r.policy = policy;
  r.mode = "collocated";
  r.scaling = "fixed";
  r.report.overall = s;
  s.strict_attainment = 0.5;
  for (const char* name : {"batch", "chat"}) {
    s.slo_class = name;
    r.report.classes.push_back(s);
  }
  r.cost_instance_s = 7200;
  r.cost_device_s = 28'800;
  r.peak_instances = 8;
  r.migrations = 3;
  r.simulated = std::chrono::seconds{900};
  r.wall = std::chrono::milliseconds{250};
  return r;
}

} // namespace

TEST_CASE("the table has a line per run, and one per class and run") {
  const std::vector<run_result> runs{run("hyperflexis", 0.973), run("round_robin", 0.5)};
  const std::string table = result_table(runs, {}, 3.0);
  CHECK(std::count(table.begin(), table.end(), '\n') == (1 + 2) + 1 + (1 + 2) + 1 + (1 + 4));
  for (const char* text : {"97.3 %", "50.0 %", "12.50", "400 ms", "38.5 ms", "4.00 s", "2.00", "24.00"})
    CHECK(says(table, text));
  CHECK(table.find("collocated") == table.npos); // the same in all runs
}

TEST_CASE("modes and scaling policies are shown where they differ") {
  std::vector<run_result> runs{run("hyperflexis", 0.9), run("hyperflexis", 0.8)};
  runs[1].mode = "disaggregated";
  const std::string table = result_table(runs, {});
  CHECK(says(table, "hyperflexis / collocated"));
  CHECK(says(table, "hyperflexis / disaggregated"));
  CHECK(table.find("fixed") == table.npos);
  CHECK(table.find("cost") == table.npos); // no price
  CHECK(result_table({}, {}).empty());
}

TEST_CASE("figures of nothing are not shown as zero") {
  run_result r = run("shed_all", 0);
  r.report.overall.ttft = {};
  r.report.classes.clear();
  const auto lines = lines_of(result_table({&r, 1}, {}));
  std::istringstream words(lines.at(1));
  std::vector<std::string> cells{std::istream_iterator<std::string>{words}, {}};
  CHECK(std::count(cells.begin(), cells.end(), "-") == 3); // strict attainment, TTFT p50 and p99
  std::vector<std::string_view> csv;
  const auto csv_lines = lines_of(result_csv({&r, 1}));
  split_cells(csv_lines.at(1), csv);
  std::vector<std::string_view> header;
  split_cells(csv_lines.at(0), header);
  CHECK(csv.at(*column_of(header, "ttft_ms_p99")).empty());
}

TEST_CASE("a bound stands once below the runs that it holds for, and in every run's JSON and CSV") {
  std::vector<run_result> runs{run("hyperflexis", 0.9), run("oracle", 0.8), run("hyperflexis", 0.7)};
  runs[0].bound = runs[1].bound = attainment_bound{0.953, 0.9, 0.99};
  runs[2].bound = attainment_bound{0.851, 0.8, 0.99};
  runs[2].rate_scale = 2;
  const auto lines = lines_of(result_table(runs, {}));
  CHECK(says(lines.at(3), "any policy x 1"));
  CHECK(says(lines.at(3), "<= 95.3 %"));
  CHECK(says(lines.at(5), "any policy x 2"));
  CHECK(says(lines.at(5), "<= 85.1 %"));
  CHECK(result_json(runs)[1]["bound"].dump() == R"({"attainment":0.953,"weighted_attainment":0.9,"alone":0.99})");
  CHECK(result_json(std::vector<run_result>{run("oracle", 0.8)})[0]["bound"].is_null());
  std::vector<std::string_view> header, cells;
  const auto csv_lines = lines_of(result_csv(runs));
  split_cells(csv_lines.at(0), header);
  split_cells(csv_lines.at(7), cells);
  CHECK(cells.at(*column_of(header, "attainment_bound")) == "0.851");
}

TEST_CASE("JSON has the keys that scripts rely on") {
  const std::vector<run_result> runs{run("hyperflexis", 0.973)};
  const auto j = result_json(runs);
  REQUIRE(j.size() == 1);
  const std::vector<std::string> promised{"policy", "mode", "scaling", "requests", "finished", "shed", "failed",
      "overall", "classes", "cost_instance_s", "peak_instances", "role_flips", "migrations", "scale_outs", "scale_ins",
      "simulated_s", "wall_s"};
  std::vector<std::string> keys;
  for (const auto& [key, value] : j[0].items()) keys.push_back(key);
  REQUIRE(keys.size() >= promised.size());
  CHECK(std::equal(promised.begin(), promised.end(), keys.begin()));
  std::vector<std::string> figures;
  for (const auto& [key, value] : j[0]["overall"].items()) figures.push_back(key);
  CHECK(figures == std::vector<std::string>{
                       "attainment", "strict_attainment", "goodput_rps", "ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"});
  CHECK(j[0]["overall"]["strict_attainment"].is_null());
  CHECK(j[0]["classes"]["chat"]["strict_attainment"] == 0.5);
  CHECK(j[0]["overall"]["ttft_ms"].dump() == R"({"mean":120.5,"p50":100.0,"p90":200.0,"p99":400.0})");
  CHECK(j[0]["cost_instance_s"] == 7200.0);
  CHECK(j[0]["simulated_s"] == 900.0);
  CHECK(result_json({}).dump() == "[]");
}

TEST_CASE("CSV has a line for each run and class, with as many cells as the header") {
  std::vector<run_result> runs{run("a,\"b\"", 0.9), run("=cmd", 0.8)};
  const auto lines = lines_of(result_csv(runs));
  REQUIRE(lines.size() == 7);
  std::vector<std::string_view> header, cells;
  split_cells(lines[0], header);
  for (const std::string& line : lines) {
    split_cells(line, cells);
    CHECK(cells.size() == header.size());
  }
  split_cells(lines[1], cells);
  CHECK(cells.at(*column_of(header, "class")) == "(all)");
  CHECK(cells.at(*column_of(header, "attainment")) == "0.9");
  CHECK(cells.at(*column_of(header, "strict_attainment")).empty());
  CHECK(cells.at(*column_of(header, "cost_device_s")) == "28800");
  split_cells(lines[3], cells);
  CHECK(cells.at(*column_of(header, "class")) == "chat");
  CHECK(cells.at(*column_of(header, "strict_attainment")) == "0.5");
  CHECK(cells.at(*column_of(header, "cost_device_s")).empty());
  CHECK(lines[1].starts_with("\"a,\"\"b\"\"\",collocated"));
  CHECK(lines[4].starts_with("'=cmd,"));
}

TEST_CASE("decisions are a line each, and one about the fleet names no request") {
  auto one = run("a", 0.9);
  one.decisions = {{std::chrono::milliseconds{1500}, std::nullopt, 0, "scaling", "", "start i3 (mixed): 2 of 3 run"},
      {std::chrono::seconds{2}, 7, 1, "dispatched", "i1 > i2", "earliest deadline: due in 450 ms, planned in 9 ms"}};
  const auto lines = lines_of(decisions_csv(std::vector{one}));
  REQUIRE(lines.size() == 3);
  CHECK(lines[0] == "policy,mode,scaling,rate_scale,time_s,request,attempt,what,instances,why");
  CHECK(lines[1].ends_with(",1.500000,,,scaling,,start i3 (mixed): 2 of 3 run"));
  CHECK(lines[2].ends_with(",2.000000,7,1,dispatched,i1 > i2,\"earliest deadline: due in 450 ms, planned in 9 ms\""));
}

} // namespace hflex::result_text_test
