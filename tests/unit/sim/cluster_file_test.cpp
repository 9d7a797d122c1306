// Cluster files: what ships, what profiles give, and every fault with its place.
#include "config/schema.hpp"
#include "tests/unit/sim/says.hpp"
#include "tools/sim/cluster_file.hpp"
#include <filesystem>
#include <fstream>

namespace hflex::cluster_file_test {

using namespace hflex::sim;

namespace {

const std::string root = HFLEX_SOURCE_DIR;

cluster must_load(const std::string& file) {
  auto c = load_cluster(file);
  if (!c) FAIL(to_string(c.error()));
  return *c;
}

std::string refusal(const std::string& text, const std::string& file = root + "/config/sim/test.yaml") {
  const auto c = read_cluster(text, file);
  REQUIRE_FALSE(c.has_value());
  return to_string(c.error());
}

const std::string in_place = R"(device:
  name: made up
  step_time: { c0_ms: 10, c1_ms: 0.02, m0: 64, c2_ms: 1e-6, c3_ms: 0.01, c4_ms: 5e-5 }
  kv_tokens: 100000
  kv_bytes_per_token: 131072
  weight_bytes: 16000000000
)";

const std::string rest = R"(name: test
collocated: [{role: mixed, count: 2}]
disaggregated: [{role: prefill, count: 1}, {role: decode, count: 1}]
instances_per_node: 8
links:
  same_node: {bytes_per_s: 100e9, latency_us: 10}
  network: {bytes_per_s: 25e9, latency_us: 30.5}
start: {spawn_s: 1, warm_up_s: 2.5, disk_bytes_per_s: 2e9, host_cache_bytes_per_s: 20e9, link_up_ms: 5, role_flip_ms: 20}
)";

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  const auto at = text.find(what);
  REQUIRE(at != std::string::npos);
  return text.replace(at, what.size(), by);
}

} // namespace

TEST_CASE("every shipped cluster file and profile can be read") {
  std::size_t clusters = 0;
  for (const auto& entry : std::filesystem::directory_iterator(root + "/config/sim")) {
    if (entry.path().filename().string().starts_with("slo_")) continue;
    INFO(entry.path());
    const cluster c = must_load(entry.path().string());
    ++clusters;
    CHECK_FALSE(c.collocated.empty());
    CHECK_FALSE(c.disaggregated.empty());
    CHECK_FALSE(c.device.name.empty());
    CHECK(c.device.steps.c0_ms > 0);
  }
  CHECK(clusters >= 5);
  for (const auto& entry : std::filesystem::directory_iterator(root + "/config/profiles")) {
    INFO(entry.path());
    const auto p = load_device_profile(entry.path().string());
    if (!p) FAIL(to_string(p.error()));
    CHECK(p->kv_tokens > 0);
    if (entry.path().filename().string().starts_with("laptop")) continue;
    // The fits give the coefficient per million pairs and per thousand tokens: a slip of units would show here.
    step_shape prefill, decode;
    prefill.add_prefill(2048, 0);
    for (int i = 0; i < 64; ++i) decode.add_decode(1024);
    CHECK(p->steps.predict(prefill) > p->steps.predict(decode));
    CHECK(p->steps.predict(decode) < std::chrono::milliseconds{60});
    CHECK(p->steps.predict(prefill) < std::chrono::milliseconds{400});
  }
}

TEST_CASE("the device of 8 H100 is what the fit and the memory say") {
  const cluster c = must_load(root + "/config/sim/h100x8-8b.yaml");
  CHECK(c.device.steps.c0_ms == Approx(8.61576));
  CHECK(c.device.steps.m0 == 224);
  CHECK(c.device.steps.c4_ms == Approx(0.0425322e-3));
  CHECK(c.device.kv_tokens * c.device.kv_bytes_per_token + c.device.weight_bytes < 0.9 * 80 * (1U << 30U));
  CHECK(c.collocated.at(0).role == instance_role::mixed);
  CHECK(c.collocated.at(0).count == 8);
  CHECK(c.same_node.bytes_per_s == Approx(348e9));
}

TEST_CASE("a cluster can be written in place") {
  const auto c = read_cluster(rest + in_place, "test.yaml");
  if (!c) FAIL(to_string(c.error()));
  CHECK(c->device.name == "made up");
  CHECK(c->device.steps.m0 == 64);
  CHECK(c->device.weight_bytes == 16'000'000'000U);
  CHECK(c->network.latency == std::chrono::nanoseconds{30'500});
  CHECK(c->start.warm_up == std::chrono::milliseconds{2500});
  CHECK(c->start.role_flip == std::chrono::milliseconds{20});
  CHECK(c->disaggregated.size() == 2);
}

TEST_CASE("what stands in place wins over the profile") {
  const std::string file = root + "/config/sim/test.yaml";
  const auto c =
      read_cluster(rest + "device: {max_sequences: 7, profile: h100-llama-3.1-8b, step_time: {m0: 1}}\n", file);
  if (!c) FAIL(to_string(c.error()));
  CHECK(c->device.max_sequences == 7);
  CHECK(c->device.steps.m0 == 1);
  CHECK(c->device.steps.c0_ms == Approx(8.61576));
  CHECK(c->device.kv_bytes_per_token == 131072);
}

TEST_CASE("a profile that `hflex profile` wrote serves as a device, with its memory beside it") {
  const std::string path = std::string{HFLEX_BINARY_DIR} + "/measured_profile.yaml";
  const config::step_profile measured{"some CPU", "avx2", 4, "a model", "bf16", 120, 0.04, 0.11,
      {.c0_ms = 3.5,
          .c1_ms = 0.25,
          .m0 = 32,
          .c2_ms = 6.5e-6,
          .c3_ms = 0.125,
          .c4_ms = 3e-4,
          .c5_ms = 0,
          .safety = 1.2}};
  std::ofstream(path) << config::written_profile(measured);
  const auto c = read_cluster(
      rest + "device: {profile: " + path + ", kv_tokens: 5000, kv_bytes_per_token: 100, weight_bytes: 7}\n",
      "test.yaml");
  const std::string without_memory = refusal(rest + "device: {profile: " + path + "}\n");
  std::filesystem::remove(path);
  if (!c) FAIL(to_string(c.error()));
  CHECK(c->device.steps == measured.step_time);
  CHECK(c->device.name == "some CPU, a model");
  CHECK(says(without_memory, "device.kv_tokens: expected a whole number"));
  CHECK(says(without_memory, "device.weight_bytes: expected"));
}

TEST_CASE("every fault of a cluster file is told at once, with its line and the nearest key") {
  const std::string found = refusal("name: x\n"
                                    "device:\n"
                                    "  profil: h100-llama-3.1-8b\n"
                                    "  kv_tokens: many\n"
                                    "collocated: [{role: mxied, count: 0}]\n"
                                    "links: {same_node: {bytes_per_s: -1, latncy_us: 3}}\n");
  CHECK(says(found, "test.yaml:3:3: expected a known key, found 'device.profil' (did you mean 'profile'?)"));
  CHECK(says(found, "test.yaml:4:14: device.kv_tokens: expected a whole number"));
  CHECK(says(found, "test.yaml:5:21: collocated[0].role: expected one of prefill, decode, mixed"));
  CHECK(says(found, "collocated[0].count: expected"));
  CHECK(says(found, "links.same_node.bytes_per_s: expected a number"));
  CHECK(says(found, "did you mean 'links.same_node.latency_us'?"));
  CHECK(says(found, "start.spawn_s"));
  CHECK_FALSE(says(found, "nor one in a profile")); // a key that is wrong is not also missing
}

TEST_CASE("an unknown profile is told with the known ones") {
  const std::string found = refusal(rest + "device: {profile: h100-lama-3.1-8b}\n");
  CHECK(says(found, "device.profile: expected a profile's file or name"));
  CHECK(says(found, "did you mean 'h100-llama-3.1-8b'?"));
  CHECK(says(refusal(rest + "device: {profile: ./none.yaml}\n"), "none.yaml: expected a file that can be read"));
}

TEST_CASE("faults inside a profile are told with the profile's place") {
  const std::string path = std::string{HFLEX_BINARY_DIR} + "/faulty_profile.yaml";
  std::ofstream(path) << "step_time: {c0_ms: 1, c1_m: 2}\n";
  const std::string found = refusal(rest + "device: {profile: " + path + "}\n");
  std::filesystem::remove(path);
  CHECK(says(found, "faulty_profile.yaml:1:"));
  CHECK(says(found, "did you mean 'step_time.c1_ms'?"));
}

TEST_CASE("values that do not fit each other are refused") {
  const auto with = [&](const std::string& what, const std::string& by) {
    return refusal(replaced(rest + in_place, what, by));
  };
  CHECK(says(with("role: mixed", "role: decode"), "collocated: expected mixed instances only"));
  CHECK(says(with("role: prefill", "role: decode"), "disaggregated: expected prefill and decode instances"));
  CHECK(says(with("name: test\n", "name: test\nscaling: {min_instances: 3, max_instances: 8}\n"),
      "from scaling.min_instances = 3 to"));
  CHECK(says(
      with("name: test\n", "name: test\nscaling: {min_instances: 9, max_instances: 8}\n"), "at most max_instances"));
  CHECK(says(with("kv_tokens: 100000", "kv_tokens: 8"), "device.kv_tokens: expected at least a block of 16"));
  CHECK(says(with("  kv_tokens", "  max_batched_tokens: 100\n  kv_tokens"), "at least max_sequences = 256"));
  CHECK(says(with("c0_ms: 10, c1_ms: 0.02, m0: 64, c2_ms: 1e-6, c3_ms: 0.01, c4_ms: 5e-5",
                 "c0_ms: 0, c1_ms: 0, m0: 0, c2_ms: 0, c3_ms: 0, c4_ms: 0"),
      "steps that take time"));
  CHECK(says(refusal(""), "expected a section with name"));
  CHECK(says(refusal("- 1\n"), "expected a section of keys"));
}

} // namespace hflex::cluster_file_test
