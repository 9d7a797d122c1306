// The loader end to end: shipped files, precedence, paths, printing.
#include "actors/common/time.hpp"
#include "config/loader.hpp"
#include "config/schema.hpp"
#include "config/validate.hpp"
#include "tests/support/catch.hpp"
#include <filesystem>
#include <fstream>

namespace hflex::load_test {

using namespace hflex::config;

namespace {

const std::string root = HFLEX_SOURCE_DIR;

/// The file's configuration; faults fail the test in words.
loaded_config must_load(const sources& from) {
  auto loaded = load_config(from);
  if (!loaded) FAIL(to_string(loaded.error()));
  return *loaded;
}

loaded_config must_read(const std::string& text, sources from = {}) {
  if (from.file.empty()) from.file = "dir/test.yaml";
  auto loaded = read_config(text, from);
  if (!loaded) FAIL(to_string(loaded.error()));
  return *loaded;
}

} // namespace

TEST_CASE("the shipped local configuration loads without a fault") {
  const loaded_config got = must_load({root + "/config/local.yaml", {}, {}, {}});
  CHECK(got.config.mode == serving_mode::collocated);
  CHECK(got.config.fleet == std::vector<fleet_entry>{{instance_role::mixed, 1}});
  CHECK(got.config.model == root + "/examples/models/austen-2.7m");
  CHECK(got.config.slo.classes_file == root + "/config/slo_classes.yaml");
  CHECK(is_loopback(got.config.listen.host));
}

TEST_CASE("the shipped cluster example loads without a fault") {
  const loaded_config got = must_load({root + "/config/cluster.example.yaml", {}, {}, {"hyperflexis"}});
  CHECK(got.config.mode == serving_mode::disaggregated);
  CHECK(got.config.agents.size() == 3);
  CHECK(got.config.agents[2].devices == std::vector<std::string>{"cpu:32", "cpu:32"});
  CHECK(got.config.agents[1].transport.listen_host == "10.0.0.12");
  CHECK(got.config.slo.classes.at(0).targets.when_late == late_action::shed);
  CHECK(got.config.slo.default_class == "chat");
}

TEST_CASE("a step-time profile is read back as it was written") {
  const step_profile profile{"some CPU", "avx2", 4, "a model", "bf16", 120, 0.04, 0.11,
      {.c0_ms = 3.5,
          .c1_ms = 0.25,
          .m0 = 32,
          .c2_ms = 6.5e-6,
          .c3_ms = 0.125,
          .c4_ms = 3e-4,
          .c5_ms = 0,
          .safety = 1.25}};
  const auto dir = std::filesystem::temp_directory_path() / fmt::format("hflex-profile-{}", ::getpid());
  std::filesystem::create_directories(dir);
  const std::string file = (dir / "p.yaml").string();
  std::ofstream(file) << written_profile(profile);
  const auto back = load_profile(file);
  if (!back) FAIL(to_string(back.error()));
  CHECK(back->step_time == profile.step_time);
  CHECK(back->device == profile.device);
  CHECK(back->threads == 4);
  sources from;
  from.file = (dir / "cluster.yaml").string();
  CHECK(must_read("instance: {profile: p.yaml}\n", from).config.instance.step_time == profile.step_time);
  std::ofstream(file) << "step_time: {c0_ms: -1, c1_m: 2}\n";
  const auto bad = load_profile(file);
  REQUIRE_FALSE(bad);
  const auto told = to_string(bad.error());
  CHECK(told.find("step_time.c0_ms: expected a number from 0 to 1000000, found '-1'") != std::string::npos);
  CHECK(told.find("did you mean 'step_time.c1_ms'?") != std::string::npos);
  std::filesystem::remove_all(dir);
}

TEST_CASE("the shipped SLO classes are those compiled in and name their sources") {
  const auto shipped = load_slo_classes(root + "/config/slo_classes.yaml");
  REQUIRE(shipped);
  const auto built_in = default_slo_classes();
  REQUIRE(shipped->size() == built_in.size());
  for (std::size_t i = 0; i < built_in.size(); ++i) {
    const slo_class &a = (*shipped)[i], &b = built_in[i];
    CHECK(a.name == b.name);
    CHECK(a.targets.ttft == b.targets.ttft);
    CHECK(a.targets.tpot == b.targets.tpot);
    CHECK(a.targets.e2e == b.targets.e2e);
    CHECK(a.targets.weight == b.targets.weight);
    CHECK(a.targets.when_late == b.targets.when_late);
    CHECK(a.source == b.source);
    CHECK(!a.source.empty());
  }
}

TEST_CASE("an empty file means every default") {
  const loaded_config got = must_read("");
  CHECK(got.config.listen.port == 7450);
  CHECK(got.config.fleet == default_fleet(serving_mode::collocated));
  CHECK(got.origins.empty());
}

TEST_CASE("a section whose keys are all commented out means its defaults") {
  CHECK(must_read("scheduler:\n  # max_queued: 3\nmode: collocated\n").config.scheduler.max_queued == 4096);
}

TEST_CASE("a disaggregated cluster without a fleet gets one instance of each role") {
  CHECK(must_read("mode: disaggregated\n").config.fleet ==
        std::vector<fleet_entry>{{instance_role::prefill, 1}, {instance_role::decode, 1}});
}

TEST_CASE("units of keys become durations exactly") {
  const cluster_config c = must_read("scheduler: {max_wait_ms: 0.3e4}\nrouter: {stage_timeout_s: 1.5}\n"
                                     "membership: {heartbeat_interval_ms: 2.3}\n")
                               .config;
  CHECK(c.scheduler.max_wait == from_s(3));
  CHECK(c.router.stage_timeout == std::chrono::milliseconds{1500});
  CHECK(c.membership.heartbeat_interval == std::chrono::microseconds{2300});
}

TEST_CASE("a flag beats the environment, which beats the file, which beats the default") {
  const std::string file =
      "listen: {port: 1001}\nscheduler: {max_queued: 11, safety: 0.2}\nrouter: {max_attempts: 7}\n";
  sources from;
  from.environment = {{"HFLEX_LISTEN_PORT", "1002"}, {"HFLEX_SCHEDULER_MAX_QUEUED", "12"}, {"HOME", "/root"}};
  from.flags = {{"listen.port", "1003", "--port"}};
  const loaded_config got = must_read(file, from);
  CHECK(got.config.listen.port == 1003);
  CHECK(got.config.scheduler.max_queued == 12);
  CHECK(got.config.scheduler.safety == 0.2);
  CHECK(got.config.scheduler.max_wait == from_s(60));
  CHECK(to_string(got.origins.at("listen.port")) == "flag --port");
  CHECK(to_string(got.origins.at("scheduler.max_queued")) == "environment variable HFLEX_SCHEDULER_MAX_QUEUED");
  CHECK(to_string(got.origins.at("router.max_attempts")) == "dir/test.yaml:3:24");
}

TEST_CASE("the later of two equal flags wins") {
  sources from;
  from.flags = {{"mode", "collocated", "--mode"}, {"mode", "disaggregated", "--mode"}};
  CHECK(must_read("", from).config.mode == serving_mode::disaggregated);
}

TEST_CASE("lists come from the environment as YAML") {
  sources from;
  from.environment = {{"HFLEX_FLEET", "[{role: prefill, count: 2}, {role: decode}]"}, {"HFLEX_MODE", "disaggregated"}};
  CHECK(must_read("", from).config.fleet ==
        std::vector<fleet_entry>{{instance_role::prefill, 2}, {instance_role::decode, 1}});
}

TEST_CASE("a relative path starts at the file that names it, elsewhere at the working directory") {
  CHECK(must_read("model: ../models/x\n").config.model == "models/x");
  CHECK(must_read("model: /abs/x\n").config.model == "/abs/x");
  sources from;
  from.environment = {{"HFLEX_MODEL", "../models/x: #1"}};
  CHECK(must_read("model: y\n", from).config.model == "../models/x: #1");
}

TEST_CASE("classes in a variable beat a class file in the configuration file") {
  sources from;
  from.file = root + "/config/test.yaml";
  from.environment = {
      {"HFLEX_SLO_CLASSES", "{only: {ttft_ms: 1, tpot_ms: 2, e2e_ms: 30}}"}, {"HFLEX_SLO_DEFAULT_CLASS", "only"}};
  const cluster_config c = must_read("slo: {classes_file: slo_classes.yaml}\n", from).config;
  REQUIRE(c.slo.classes.size() == 1);
  CHECK(c.slo.classes[0].targets.e2e == std::chrono::milliseconds{30});
  CHECK(c.slo.classes_file.empty());
}

TEST_CASE("a printed configuration is a file that means the same") {
  sources from;
  from.file = root + "/config/cluster.example.yaml";
  from.environment = {{"HFLEX_SCHEDULER_MAX_WAIT_MS", "12.5"}, {"HFLEX_INSTANCE_ISA", "avx2"}};
  const loaded_config original = must_load(from);
  const std::string printed = print_config(original);
  const loaded_config again = must_read(printed, {root + "/config/printed.yaml", {}, {}, {}});
  for (std::size_t i = 0; i < keys().size(); ++i) {
    INFO(keys()[i].key);
    CHECK(value_of(again.config, i) == value_of(original.config, i));
  }
  CHECK(again.config.scheduler.max_wait == std::chrono::microseconds{12500});
  CHECK(printed.find("max_wait_ms: 12.5 # environment variable HFLEX_SCHEDULER_MAX_WAIT_MS") != printed.npos);
  CHECK(printed.find("# default") != printed.npos);
}

TEST_CASE("every key is documented, has a variable of its own, and a default that it accepts itself") {
  std::map<std::string, std::string> variables;
  sources from;
  for (const key_info& k : keys()) {
    INFO(k.key);
    CHECK(k.doc.size() > 10);
    CHECK(k.doc.back() == '.');
    CHECK(variables.emplace(k.environment, k.key).second);
    from.environment[k.environment] = k.default_value == "\"\"" ? "" : k.default_value; // variables need no quotes
  }
  CHECK(variables.at("HFLEX_SCHEDULER_MAX_WAIT_MS") == "scheduler.max_wait_ms");
  must_read("", from);
}

} // namespace hflex::load_test
