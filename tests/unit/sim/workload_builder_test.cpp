// Several sources become one workload: order, classes, prefixes, scale.
#include "tests/unit/sim/says.hpp"
#include "tools/sim/workload_builder.hpp"
#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

namespace hflex::workload_builder_test {

using namespace hflex::sim;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

struct scratch_file {
  std::string path;
  scratch_file(const std::string& name, const std::string& text) : path(std::string{HFLEX_BINARY_DIR} + "/" + name) {
    std::ofstream(path) << text;
  }
  ~scratch_file() { std::filesystem::remove(path); }
  scratch_file(const scratch_file&) = delete;
  scratch_file& operator=(const scratch_file&) = delete;
};

workload_options options_with(const std::vector<std::string>& names) {
  workload_options o;
  for (const std::string& n : names) o.classes.push_back({n, {}, {}});
  return o;
}

const workload_options three = options_with({"interactive", "standard", "batch"});

workload must_build(const std::string& sources, const workload_options& options) {
  auto w = build_workload(sources, options);
  if (!w) FAIL(w.error().message);
  return *w;
}

std::string refusal(const std::string& sources, const workload_options& options = three) {
  const auto w = build_workload(sources, options);
  REQUIRE_FALSE(w.has_value());
  CHECK(w.error().code == errc::reject);
  return w.error().message;
}

const std::string header = "arrival_s,prompt_tokens,output_tokens";

} // namespace

TEST_CASE("sources are merged by arrival, each with its class") {
  const scratch_file a("merge_a.csv", header + "\n0,1,1\n2,2,1\n");
  const scratch_file b("merge_b.csv", header + "\n1,3,1\n2,4,1\n");
  const workload w = must_build(a.path + "@batch," + b.path + "@interactive", three);
  REQUIRE(w.requests.size() == 4);
  std::vector<std::uint32_t> prompts, classes;
  for (const request& r : w.requests) {
    prompts.push_back(r.prompt_tokens);
    classes.push_back(r.slo_class);
  }
  CHECK(prompts == std::vector<std::uint32_t>{1, 3, 2, 4}); // of equal arrivals, the first source's first
  CHECK(classes == std::vector<std::uint32_t>{2, 0, 2, 0});
  CHECK(w.classes.size() == 3);
  CHECK(w.length() == seconds{2});
}

TEST_CASE("a source's class wins over a row's, a row's over the mix, the mix over the default") {
  const scratch_file f("classes.csv", header + ",slo_class\n0,1,1,batch\n1,1,1,\n");
  workload_options o = three;
  o.default_class = "interactive";
  const auto classes = [&](const std::string& sources) {
    std::vector<std::uint32_t> all;
    for (const request& r : must_build(sources, o).requests) all.push_back(r.slo_class);
    return all;
  };
  CHECK(classes(f.path) == std::vector<std::uint32_t>{2, 0});
  CHECK(classes(f.path + "@standard") == std::vector<std::uint32_t>{1, 1});
  o.mix = "standard:1";
  CHECK(classes(f.path) == std::vector<std::uint32_t>{2, 1});
}

TEST_CASE("a mix has its shares, by seed and row") {
  workload_options o = three;
  o.mix = "interactive:0.3, standard:0.5, batch:0.2";
  const std::string source = "synthetic:poisson,rate=10,requests=20000,prompt=9,output=9";
  const workload w = must_build(source, o);
  std::array<int, 3> count{};
  for (const request& r : w.requests) ++count.at(r.slo_class);
  CHECK(count[0] == Approx(6000).epsilon(0.05));
  CHECK(count[1] == Approx(10000).epsilon(0.05));
  CHECK(count[2] == Approx(4000).epsilon(0.05));
  // The same rows keep their classes beside another source, and when the run is shorter.
  o.length = seconds{500};
  const workload shorter = must_build(source, o);
  REQUIRE(shorter.requests.size() < w.requests.size());
  for (std::size_t i = 0; i < shorter.requests.size(); ++i)
    CHECK(shorter.requests[i].slo_class == w.requests[i].slo_class);
}

TEST_CASE("a rate scale divides the times, and the length is that of the run") {
  const scratch_file f("scale.csv", header + "\n0,1,1\n1,1,1\n2,1,1\n3,1,1\n");
  workload_options o = options_with({"only"});
  o.rate_scale = 2;
  workload w = must_build(f.path, o);
  REQUIRE(w.requests.size() == 4);
  CHECK(w.requests[3].arrival == milliseconds{1500});
  o.length = seconds{1};
  w = must_build(f.path, o);
  REQUIRE(w.requests.size() == 2);
  CHECK(w.requests[1].arrival == milliseconds{500});
  // What is made up lasts as long as the run when it does not say.
  w = must_build("synthetic:gamma,cv=0,rate=10,prompt=1,output=1", o);
  CHECK(w.requests.size() == 19);
}

TEST_CASE("prefixes of different sources never meet, those of one source do") {
  const scratch_file f("prefix.csv", header + ",prefix_block_ids\n0,1024,1,7-8\n1,1024,1,7;9\n");
  const workload w = must_build(f.path + "," + f.path, options_with({"only"}));
  REQUIRE(w.requests.size() == 4);
  CHECK(w.prefix_block_tokens == 512);
  const auto& first = w.requests[0].prefix_blocks;
  const auto& of_other_source = w.requests[1].prefix_blocks;
  const auto& second = w.requests[2].prefix_blocks;
  REQUIRE((first.size() == 2 && second.size() == 2 && of_other_source.size() == 2));
  CHECK(first[0] == second[0]);
  CHECK(first[1] != second[1]);
  CHECK(first[0] != of_other_source[0]);
}

TEST_CASE("prefix blocks are split to the smallest of all sources") {
  const scratch_file coarse("coarse.csv", header + ",prefix_block_ids\n0,1024,1,7-8\n");
  const std::string fine = ",synthetic:poisson,rate=1,requests=1,prompt=256,output=1,share=1,prefix=128";
  const workload w = must_build(coarse.path + fine, options_with({"only"}));
  CHECK(w.prefix_block_tokens == 128);
  const auto long_one =
      std::find_if(w.requests.begin(), w.requests.end(), [](const request& r) { return r.prompt_tokens == 1024; });
  REQUIRE(long_one != w.requests.end());
  CHECK(std::set<std::uint64_t>(long_one->prefix_blocks.begin(), long_one->prefix_blocks.end()).size() == 8);
}

TEST_CASE("a part of a trace begins at 0") {
  const scratch_file f("part.csv", header + "\n0,1,1\n10,2,1\n20,3,1\n30,4,1\n");
  const workload w = must_build(f.path + "@only,from=10,duration=15", options_with({"only"}));
  REQUIRE(w.requests.size() == 2);
  CHECK(w.requests[0].arrival == duration{0});
  CHECK(w.requests[0].prompt_tokens == 2);
  CHECK(w.requests[1].arrival == seconds{10});
}

TEST_CASE("requests that no model could hold can be left out") {
  const scratch_file f("long.csv", header + "\n0,100,10\n1,101,10\n2,5,1\n");
  CHECK(must_build(f.path + ",max_tokens=110", options_with({"only"})).requests.size() == 2);
  CHECK(says(refusal(f.path + ",max_tokens=5"), "max_tokens: expected room for at least one request"));
}

TEST_CASE("sessions are overlaid with arrivals of their own") {
  const scratch_file f("sessions.csv", "session,arrival_s,prompt_tokens,output_tokens,prefix_block_ids\n"
                                       "a,0,100,1,1-2\na,5,164,1,1-2\nb,0,100,1,1-2\nb,7,164,1,1-2\n");
  const workload once = must_build(f.path + ",session_rate=1", options_with({"only"}));
  CHECK(once.requests.size() == 4);
  const workload again = must_build(f.path + ",session_rate=2,duration=1000", options_with({"only"}));
  CHECK(again.requests.size() == Approx(4000).epsilon(0.1));
  CHECK(again.prefix_block_tokens == 64);
  std::map<std::uint64_t, int> uses;
  for (const request& r : again.requests) ++uses[r.prefix_blocks.at(0)];
  for (const auto& [id, n] : uses) CHECK(n <= 2); // the two requests of one session share, no others
  const scratch_file none("no_sessions.csv", header + "\n0,1,1\n");
  CHECK(says(refusal(none.path + ",session_rate=1"), "no_sessions.csv:2: expected a session_id"));
}

TEST_CASE("commas divide sources, and key=value parts belong to the one before") {
  const workload w = must_build("synthetic:poisson@batch,rate=5,requests=3,prompt=8,output=1,"
                                "synthetic:poisson,rate=5,requests=2,prompt=9,output=1@interactive",
      three);
  REQUIRE(w.requests.size() == 5);
  for (const request& r : w.requests) CHECK(r.slo_class == (r.prompt_tokens == 8 ? 2 : 0));
  CHECK(says(refusal("synthetic:poisson@batch,rate=5@standard,requests=1,prompt=1,output=1"), "expected one class"));
  CHECK(says(refusal(""), "expected a trace file"));
  CHECK(says(refusal("a.csv,,b.csv"), "expected a trace file"));
}

TEST_CASE("equal synthetic sources are not the same requests twice") {
  const std::string one = "synthetic:poisson,rate=5,requests=50,prompt=p50:100/p90:900,output=1";
  const workload w = must_build(one + "," + one, options_with({"only"}));
  std::set<std::int64_t> arrivals;
  for (const request& r : w.requests) arrivals.insert(r.arrival.count());
  CHECK(arrivals.size() == 100);
}

TEST_CASE("unknown classes and settings are told with the nearest known one") {
  const scratch_file f("faulty.csv", header + ",slo_class\n0,1,1,interactiv\n");
  CHECK(says(refusal(f.path), "faulty.csv:2: expected an SLO class, one of interactive, standard, batch, found "
                              "'interactiv'; did you mean 'interactive'?"));
  CHECK(says(refusal(f.path + "@batsh"), "did you mean 'batch'?"));
  CHECK(says(refusal(f.path + "@batch,fron=3"), "did you mean 'from'?"));
  CHECK(says(refusal(f.path + "@batch,block=48"), "block: expected a power of two"));
  const std::string source = "synthetic:poisson,rate=5,requests=3,prompt=8,output=1";
  CHECK(says(refusal(source), "expected SLO classes"));
  workload_options o = three;
  for (const char* mix : {"interactive", "interactive:x", "interactive:-1", "interactive:nan"}) {
    o.mix = mix;
    CHECK(says(refusal(source, o), "mix: expected CLASS:SHARE"));
  }
  o.mix = "interactive:0";
  CHECK(says(refusal(source, o), "a share above 0"));
  o.mix = "standart:1";
  CHECK(says(refusal(source, o), "did you mean 'standard'?"));
  o.mix = {};
  o.default_class = "bach";
  CHECK(says(refusal(source, o), "the default class: expected an SLO class"));
}

TEST_CASE("the shipped classes can be read, and so can those of the evidence") {
  const auto built_in = read_classes("");
  REQUIRE(built_in.has_value());
  CHECK(built_in->size() == 3);
  const auto paper = read_classes(std::string{HFLEX_SOURCE_DIR} + "/config/sim/slo_paper.yaml");
  if (!paper) FAIL(paper.error().message);
  CHECK(paper->size() == 7);
  for (const slo_class& c : *paper) CHECK_FALSE(c.source.empty());
  CHECK_FALSE(read_classes("no/such/file.yaml").has_value());
}

} // namespace hflex::workload_builder_test
