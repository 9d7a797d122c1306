#include "gpu/model/json_file.hpp"
#include "gpu/model/model_config.hpp"
#include "tests/support/model_dir.hpp"
#include <sys/stat.h>

using namespace hflex;
using namespace hflex::gpu;
using namespace hflex::test;
using nlohmann::json;

namespace {

json demo_config() { return json::parse(slurp(demo_model() + "/config.json")); }

config_report judged(const json& patch) {
  auto config = demo_config();
  config.merge_patch(patch);
  return parse_model_config(config.dump(), "m/config.json");
}

std::string faults_of(const json& patch) { return fmt::format("{}", fmt::join(judged(patch).faults, "\n")); }

} // namespace

TEST_CASE("the demo configuration is read as it stands") {
  const auto config = load_model_config(demo_model());
  REQUIRE(config);
  const model_config expected{
      "LlamaForCausalLM", 192, 512, 6, 6, 2, 32, 2048, 1024, 1e-5F, 10000.0F, true, false, 0, {1}};
  CHECK(*config == expected);
}

TEST_CASE("keys that older files lack mean what Hugging Face takes for them") {
  const auto report = judged({{"num_key_value_heads", nullptr}, {"head_dim", nullptr}, {"rope_theta", nullptr},
      {"tie_word_embeddings", nullptr}, {"attention_bias", nullptr}, {"mlp_bias", nullptr}, {"bos_token_id", nullptr},
      {"eos_token_id", nullptr}});
  CHECK(report.faults.empty());
  CHECK(report.config.kv_heads == 6);
  CHECK(report.config.head_dim == 32);
  CHECK(report.config.rope_theta == 10000.0F);
  CHECK_FALSE(report.config.tie_embeddings);
  CHECK(report.config.bos == -1);
  CHECK(report.config.eos.empty());
}

TEST_CASE("rotary settings are read in the old and the new way of writing") {
  CHECK(judged({{"rope_theta", 500000}}).config.rope_theta == 500000.0F);
  const auto fresh =
      judged({{"rope_theta", nullptr}, {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e6}}}});
  CHECK(fresh.faults.empty());
  CHECK(fresh.config.rope_theta == 1e6F);
  check_says(faults_of({{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}}}),
      {"rope_scaling", "llama3", "supported:"});
  check_says(faults_of({{"rope_scaling", {{"type", "linear"}}}}), {"rope_scaling", "linear"});
  check_says(faults_of({{"rope_scaling", {{"factor", 2}}}}), {"rope_scaling", "rope_type"});
  check_says(faults_of({{"rope_scaling", 2}}), {"rope_scaling", "expected an object"});
}

TEST_CASE("every fault names file and key and what was expected") {
  for (const auto* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
           "max_position_embeddings", "num_key_value_heads", "head_dim"}) {
    for (const auto& bad : {json(0), json(-1), json(1.5), json("8"), json(true), json(1e300),
             json(18446744073709551615ULL), json::array({1}), json::object({{"a", 1}})}) {
      check_says(faults_of({{key, bad}}), {fmt::format("m/config.json: {}", key), "expected an integer from 1 to"});
    }
  }
  for (const auto& bad : {json(0), json(-1e-5), json("1e-5"), json(1.0)}) {
    check_says(faults_of({{"rms_norm_eps", bad}}), {"m/config.json: rms_norm_eps: expected a number"});
  }
  check_says(faults_of({{"rope_theta", "x"}}), {"rope_theta: expected a number"});
  check_says(faults_of({{"hidden_size", nullptr}}), {"hidden_size: is missing"});
  check_says(faults_of({{"rms_norm_eps", nullptr}}), {"rms_norm_eps: is missing"});
  check_says(faults_of({{"tie_word_embeddings", 1}}), {"tie_word_embeddings: expected true or false"});
  check_says(faults_of({{"num_key_value_heads", 4}}), {"num_key_value_heads: 4 does not divide"});
  check_says(faults_of({{"head_dim", 33}}), {"head_dim: 33 is odd"});
  check_says(faults_of({{"hidden_size", 193}, {"head_dim", nullptr}}), {"head_dim: is missing", "193"});
  check_says(faults_of({{"bos_token_id", 2048}}), {"bos_token_id", "below vocab_size 2048"});
  check_says(faults_of({{"eos_token_id", {1, -1}}}), {"eos_token_id", "-1"});
  CHECK(judged({{"hidden_size", 0}, {"vocab_size", "x"}, {"mlp_bias", true}}).faults.size() == 3);
}

TEST_CASE("what is not supported is refused with what is") {
  check_says(
      faults_of({{"architectures", {"Qwen2ForCausalLM"}}}), {"Qwen2ForCausalLM", "supported: \"LlamaForCausalLM\""});
  check_says(faults_of({{"architectures", nullptr}}), {"architectures: is missing"});
  check_says(faults_of({{"architectures", {1}}}), {"architectures: expected"});
  check_says(faults_of({{"mlp_bias", true}}), {"mlp_bias", "not supported"});
  check_says(faults_of({{"hidden_act", "gelu"}}), {"hidden_act", "gelu"});
  check_says(faults_of({{"quantization_config", {{"bits", 4}}}}), {"quantization_config"});
  check_says(faults_of({{"sliding_window", 4096}}), {"sliding_window", "4096"});
}

TEST_CASE("eos tokens of both files are joined, each once") {
  const model_copy model;
  model.configure("eos_token_id", {1, 5});
  model.write("generation_config.json", R"({"eos_token_id": [5, 7, 1]})");
  CHECK(load_model_config(model.path())->eos == std::vector<token_id>{1, 5, 7});
  model.write("generation_config.json", R"({"eos_token_id": 9})");
  CHECK(load_model_config(model.path())->eos == std::vector<token_id>{1, 5, 9});
  model.write("generation_config.json", "{");
  check_says(load_model_config(model.path()).error().message, {"generation_config.json", "not valid JSON"});
}

TEST_CASE("JSON of strangers is bounded, unambiguous and never quoted at length") {
  check_says(parse_json(std::string(1'000'000, '['), "f").error().message, {"f: nested deeper than 32"});
  check_says(parse_json(R"({"a":1,"b":{"a":2,"a":3}})", "f").error().message, {"\"a\" appears twice"});
  check_says(parse_json("NaN", "f").error().message, {"not valid JSON"});
  check_says(parse_json("[1e999]", "f").error().message, {"not valid JSON"});
  check_says(parse_json("\"\xff\"", "f").error().message, {"not valid JSON"});
  check_says(parse_json("[1] x", "f").error().message, {"not valid JSON"});
  CHECK(parse_json("", "f").error().message.size() < 300);
  CHECK(parse_json("\"" + std::string(100'000, 'x'), "f").error().message.size() < 300);
  CHECK(parse_json(R"({"a":[1,{"b":null}],"c":-2.5})", "f")->dump() == R"({"a":[1,{"b":null}],"c":-2.5})");
  CHECK(printable("a\n\x1b[31m\"") == R"("a\x0a\x1b[31m\x22")");
}

TEST_CASE("only regular files of a sane size are read") {
  const temp_dir dir;
  dir.write("big", std::string(100, 'x'));
  check_says(read_file(dir.file("big"), 99).error().message, {"/big", "100 bytes; at most 99"});
  CHECK(read_file(dir.file("big"), 100) == std::string(100, 'x'));
  check_says(read_file(dir.path(), 99).error().message, {"not a regular file"});
  REQUIRE(::mkfifo(dir.file("pipe").c_str(), 0600) == 0);
  check_says(read_file(dir.file("pipe"), 99).error().message, {"not a regular file"});
}
