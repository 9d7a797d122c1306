// What the loader says about files that are wrong: every fault, at its place, in words that suffice to repair it.
#include "config/loader.hpp"
#include "tests/support/catch.hpp"
#include <algorithm>
#include <filesystem>
#include <fstream>

namespace hflex::fault_test {

using namespace hflex::config;

namespace {

std::vector<fault> faults_of(const std::string& text, sources from = {}) {
  from.file = "f.yaml";
  auto loaded = read_config(text, from);
  return loaded ? std::vector<fault>{} : loaded.error();
}

/// The only fault's message.
std::string fault_of(const std::string& text, const sources& from = {}) {
  const auto faults = faults_of(text, from);
  if (faults.size() != 1) return "not one fault but these:\n" + to_string(faults);
  return to_string(faults.front());
}

} // namespace

TEST_CASE("a value out of range is named with its place and the range") {
  CHECK(fault_of("listen:\n  port: 70000\n") ==
        "f.yaml:2:9: listen.port: expected a whole number from 0 to 65535, found '70000'");
  CHECK(fault_of("scheduler: {safety: .nan}") ==
        "f.yaml:1:21: scheduler.safety: expected a number from 0 to 0.9, found '.nan'");
  CHECK(fault_of("scheduler: {max_wait_ms: -1}") ==
        "f.yaml:1:26: scheduler.max_wait_ms: expected a number of milliseconds from 1 to 86400000, found '-1'");
}

TEST_CASE("a value of the wrong type is named as what it is") {
  CHECK(fault_of("listen:\n  port: \"7450\"\n") ==
        "f.yaml:2:9: listen.port: expected a whole number from 0 to 65535, found '7450' in quotes");
  CHECK(fault_of("listen:\n  port: 74.5\n") ==
        "f.yaml:2:9: listen.port: expected a whole number from 0 to 65535, found '74.5'");
  CHECK(fault_of("listen:\n  port: [1, 2]\n") ==
        "f.yaml:2:9: listen.port: expected a whole number from 0 to 65535, found a list of 2");
  CHECK(fault_of("weights:\n  from_neighbours: yes\n") ==
        "f.yaml:2:20: weights.from_neighbours: expected true or false, found 'yes'");
  CHECK(fault_of("listen: 5\n") == "f.yaml:1:9: listen: expected a section of keys, found '5'");
  CHECK(fault_of("fleet: {role: mixed}\n") == "f.yaml:1:8: fleet: expected a list of {role, count}, found a section");
  CHECK(fault_of("- a\n- b\n") == "f.yaml:1:1: expected a section of keys, found a list of 2");
  CHECK(fault_of("mode:\n") == "f.yaml:1:1: mode: expected one of collocated, disaggregated, found nothing");
}

TEST_CASE("a wrong word is answered with the nearest right one") {
  CHECK(fault_of("mode: colocated\n") ==
        "f.yaml:1:7: mode: expected one of collocated, disaggregated, found 'colocated' (did you mean 'collocated'?)");
}

TEST_CASE("an unknown key is answered with the nearest known one") {
  CHECK(fault_of("scheduler:\n  max_queue: 3\n") ==
        "f.yaml:2:3: expected a known key, found 'scheduler.max_queue' (did you mean 'scheduler.max_queued'?)");
  CHECK(fault_of("shceduler:\n  max_queued: 3\n") ==
        "f.yaml:1:1: expected a known key, found 'shceduler' (did you mean 'scheduler'?)");
  CHECK(fault_of("max_attempts: 3\n") ==
        "f.yaml:1:1: expected a known key, found 'max_attempts' (did you mean 'router.max_attempts'?)");
  CHECK(fault_of("fleet:\n  - {role: mixed, cuont: 3}\n") ==
        "f.yaml:2:19: expected a known key, found 'fleet[0].cuont' (did you mean 'count'?)");
  CHECK(fault_of("zebra: 3\n") == "f.yaml:1:1: expected a known key, found 'zebra'");
  CHECK(fault_of("listen.port: 3\n") ==
        "f.yaml:1:1: expected a known key, found 'listen.port' (write a.b as b inside the section a)");
}

TEST_CASE("a key that comes twice is named with both places") {
  CHECK(fault_of("listen:\n  port: 1\n  host: localhost\n  port: 2\n") ==
        "f.yaml:4:3: listen.port: expected each key once, found it again after line 2");
  CHECK(fault_of("log: {level: info}\nmode: collocated\nlog: {level: off}\n") ==
        "f.yaml:3:1: log: expected each key once, found it again after line 1");
}

TEST_CASE("required keys of lists and classes are missed") {
  CHECK(fault_of("fleet:\n  - {count: 3}\n") ==
        "f.yaml:2:5: fleet[0].role: expected one of prefill, decode, mixed, found no such key here");
  CHECK(fault_of("slo:\n  default_class: a\n  classes:\n    a: {ttft_ms: 3}\n") ==
        "f.yaml:4:8: slo.classes.a.tpot_ms: expected a number of milliseconds from 0.001 to 3600000, found no such key "
        "here");
}

TEST_CASE("several faults are told at once, in the order of the file") {
  const auto faults = faults_of("mode: both\n"         // 1
                                "listen:\n"            // 2
                                "  port: 65536\n"      // 3
                                "  hots: localhost\n"  // 4
                                "fleet:\n"             // 5
                                "  - {role: mixer}\n"  // 6
                                "agents:\n"            // 7
                                "  - name: a b\n"      // 8
                                "    devices: [gpu]\n" // 9
                                "slo:\n"               // 10
                                "  classes:\n"         // 11
                                "    fast: {ttft_ms: x, tpot_ms: 4, weight: 0}\n");
  std::vector<std::uint32_t> lines;
  for (const fault& f : faults) lines.push_back(f.where.line);
  CHECK(lines == std::vector<std::uint32_t>{1, 3, 4, 6, 8, 9, 12, 12});
}

TEST_CASE("faults of file, environment and flags come together") {
  sources from;
  from.environment = {{"HFLEX_LISTEN_PORT", "many"}, {"HFLEX_MODEL_DIR", "x"}, {"HFLEX_SCHEDULER_POLCY", "x"}};
  from.flags = {{"instance.block_size", "0", "--block-size"}, {"fleet", "[{role: ", "--fleet"}};
  const auto faults = faults_of("mode: x\n", from);
  REQUIRE(faults.size() == 5);
  CHECK(faults[0].where.line == 1);
  CHECK(to_string(faults[1]) ==
        "environment variable HFLEX_LISTEN_PORT: listen.port: expected a whole number from 0 to 65535, found 'many'");
  CHECK(to_string(faults[2]).find("did you mean 'HFLEX_SCHEDULER_POLICY'?") != std::string::npos);
  CHECK(to_string(faults[3]) ==
        "flag --block-size: instance.block_size: expected a whole number from 1 to 1024, found '0'");
  INFO(to_string(faults));
  CHECK(to_string(faults[4]).starts_with("flag --fleet: fleet: expected a word as key and every bracket closed"));
}

TEST_CASE("values that contradict each other are found when each is right alone") {
  CHECK(fault_of("fleet:\n  - {role: prefill, count: 2}\n") ==
        "f.yaml:2:3: fleet: expected mixed instances only in mode collocated, found 2 prefill and 0 decode "
        "(or set mode: disaggregated)");
  CHECK(fault_of("mode: disaggregated\nfleet: [{role: decode}]\n") ==
        "f.yaml:2:8: fleet: expected prefill and decode instances in mode disaggregated, found 0 prefill and 1 decode");
  CHECK(fault_of("fleet: []\n") == "f.yaml:1:8: fleet: expected at least one instance, found an empty list");
  CHECK(fault_of("membership:\n  lost_after_ms: 1200\n") ==
        "f.yaml:2:18: membership.lost_after_ms: expected more than suspect_after_ms = 1200 ms, found 1200 ms");
  CHECK(fault_of("membership:\n  heartbeat_interval_ms: 1500\n") ==
        "default: membership.suspect_after_ms: expected more than heartbeat_interval_ms = 1500 ms, found 1200 ms");
  CHECK(fault_of("instance: {max_batched_tokens: 63}\n")
            .starts_with("f.yaml:1:32: instance.max_batched_tokens: expected at least"));
  CHECK(fault_of("router: {request_timeout_s: 5}\n").starts_with("default: router.stage_timeout_s: expected at most"));
  CHECK(fault_of("fleet: [{role: mixed, count: 1000}, {role: mixed, count: 25}]\n") ==
        "f.yaml:1:8: fleet: expected at most 1024 instances, found 1025");
}

TEST_CASE("rules between values are told beside other faults, unless one of their values is at fault already") {
  const auto told = [](const std::string& text) {
    std::vector<std::string> keys;
    for (const fault& f : faults_of(text)) keys.push_back(f.key);
    return keys;
  };
  using keys = std::vector<std::string>;
  CHECK(told("listen: {port: 65536}\nscaling: {min_instances: 5, max_instances: 2}\n") ==
        keys{"listen.port", "scaling.min_instances"});
  CHECK(told("scaling: {min_instances: 5, max_instances: x}\n") == keys{"scaling.max_instances"});
  CHECK(told("lsiten: {port: 1}\nmembership: {lost_after_ms: 1200}\n") == keys{"", "membership.lost_after_ms"});
  CHECK(told("mode: both\nfleet: [{role: prefill}]\n") == keys{"mode"});
  CHECK(told("fleet: [{role: prefill, count: -1}]\n") == keys{"fleet[0].count"});
  CHECK(told("slo: {default_class: a, classes: {b: {ttft_ms: 1}}}\n") == keys{"slo.classes.b.tpot_ms"});
  CHECK(told("slo: {classes_file: no-such-file.yaml, default_class: a}\n") == keys{""});
  CHECK(told("agents: [{name: a b}, {name: c, transport: {listen_host: 10.0.0.1}}]\n") ==
        keys{"agents[0].name", "agents[1].transport.listen_host"});
  CHECK(told("agents: [{name: a, transport: {tcp: x, listen_host: 10.0.0.1}}]\n") == keys{"agents[0].transport.tcp"});
  CHECK(told("scaling: {min_instances: 5, max_instances: 2\n").size() == 1); // no YAML: nothing is known of any value
}

TEST_CASE("names must be among those that exist") {
  CHECK(fault_of("slo: {default_class: standrad}\n") ==
        "f.yaml:1:22: slo.default_class: expected one of interactive, standard, batch, found 'standrad' "
        "(did you mean 'standard'?)");
  sources from;
  from.policies = {"hyperflexis", "round_robin"};
  CHECK(fault_of("scheduler: {policy: roundrobin}\n", from) ==
        "f.yaml:1:21: scheduler.policy: expected one of hyperflexis, round_robin, found 'roundrobin' "
        "(did you mean 'round_robin'?)");
}

TEST_CASE("an address beyond loopback needs a word that the network is trusted") {
  CHECK(fault_of("listen: {host: 0.0.0.0}\n")
            .starts_with("f.yaml:1:16: listen.host: expected a loopback address, found '0.0.0.0'"));
  CHECK(fault_of("agents: [{name: a, transport: {listen_host: 10.0.0.1}}]\n")
            .starts_with("f.yaml:1:45: agents[0].transport.listen_host: expected a loopback address"));
  CHECK(fault_of("listen: {host: 127.0.0.1.example.org}\n").find("loopback") != std::string::npos);
  CHECK(faults_of("listen: {host: 0.0.0.0, private_network: true}\n").empty());
  CHECK(faults_of("agents: [{name: a, transport: {tcp: false, listen_host: 10.0.0.1}}]\n").empty());
}

TEST_CASE("two agents of one name are refused") {
  CHECK(fault_of("agents:\n  - name: a\n  - name: b\n  - name: a\n") ==
        "f.yaml:4:11: agents[2].name: expected a name of its own, found 'a', which is agents[0]'s");
}

TEST_CASE("SLO classes come from one place") {
  CHECK(fault_of("slo:\n  classes_file: x.yaml\n  classes: {standard: {ttft_ms: 1, tpot_ms: 1}}\n") ==
        "f.yaml:2:17: slo.classes_file: expected either slo.classes_file or slo.classes, found both");
  CHECK(fault_of("slo:\n  classes_file: no-such-file.yaml\n") ==
        "no-such-file.yaml: expected a file that can be read, found none (named in f.yaml:2:17)");
}

TEST_CASE("syntax errors name their line") {
  CHECK(fault_of("mode: collocated\nlisten: {port: 3\n").starts_with("f.yaml:3:1: expected YAML, found "));
  CHECK(fault_of("a: b: c\n").starts_with("f.yaml:1:"));
  CHECK(fault_of("a: 1\n---\nb: 2\n") == "f.yaml:3:1: expected one YAML document, found a second one");
}

TEST_CASE("anchors, aliases, tags and odd keys are refused") {
  CHECK(fault_of("listen: &a {port: 3}\n") == "f.yaml:1:9: expected values written out, found an anchor (&name)");
  CHECK(fault_of("a: &x 1\nb: *x\n").starts_with("f.yaml:1:4: expected values written out"));
  CHECK(fault_of("mode: !!binary collocated\n").find("without a tag") != std::string::npos);
  CHECK(fault_of("[1, 2]: 3\n").starts_with("f.yaml:1:1: expected a word as key and every bracket closed"));
}

TEST_CASE("a file that is too deep, too large or too full is refused") {
  const auto nested = [](std::size_t depth) { return "fleet: " + std::string(depth, '[') + std::string(depth, ']'); };
  CHECK(fault_of(nested(15)).find("expected a section of keys") != std::string::npos);
  CHECK(fault_of(nested(16)) == "f.yaml:1:23: expected at most 16 levels, found a deeper one");
  CHECK(fault_of(nested(300'000)) == "f.yaml:1:23: expected at most 16 levels, found a deeper one");
  CHECK(fault_of(std::string(10'000'000, '#')) == "f.yaml:1:1: expected at most 1048576 bytes, found 10000000");
  std::string full = "fleet: [";
  for (int i = 0; i < 60'000; ++i) full += "1,";
  CHECK(fault_of(full + "1]").find("expected at most 50000 values, found more") != std::string::npos);
}

TEST_CASE("a flood of faults is cut, and says so") {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "zebra" + std::to_string(i) + ": 1\n";
  const auto faults = faults_of(text);
  REQUIRE(faults.size() == fault_list::max_faults + 1);
  CHECK(faults.back().found == "900 more than are listed");
}

TEST_CASE("a stranger's bytes are shown escaped and cut") {
  CHECK(fault_of("\"a\\x1b[31mb\": 1\n") == "f.yaml:1:1: expected a known key, found 'a\\x1b[31mb'");
  CHECK(fault_of("mode: " + std::string(5000, 'x')).find("xxx'... (5000 bytes)") != std::string::npos);
}

TEST_CASE("a file that is missing or a folder is a fault, not a default") {
  const auto missing = load_config("no/such/file.yaml");
  REQUIRE(!missing);
  CHECK(to_string(missing.error().front()) == "no/such/file.yaml: expected a file that can be read, found none");
  const auto folder = load_config(HFLEX_SOURCE_DIR);
  REQUIRE(!folder);
  CHECK(folder.error().front().found == "a folder");
}

TEST_CASE("an endless file is refused like a large one") {
  const auto endless = load_config("/dev/zero");
  REQUIRE(!endless);
  CHECK(to_string(endless.error().front()) == "/dev/zero:1:1: expected at most 1048576 bytes, found 1048577");
}

TEST_CASE("faults become one error that asks to reject the input") {
  const auto bad = load_config("no/such/file.yaml");
  REQUIRE(!bad);
  const error e = to_error(bad.error());
  CHECK(e.code == errc::reject);
  CHECK(e.message == "no/such/file.yaml: expected a file that can be read, found none");
}

} // namespace hflex::fault_test
