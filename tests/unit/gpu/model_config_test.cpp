#include "gpu/model/json_file.hpp"
#include "gpu/model/model_config.hpp"
#include "tests/support/model_dir.hpp"
#include <sys/stat.h>

namespace hflex::model_config_test {

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
  const auto linear = judged({{"rope_scaling", {{"type", "linear"}, {"factor", 4}}}});
  CHECK(linear.faults.empty());
  CHECK(linear.config.rope == rope_scaling{rope_scaling::method::linear, 4.0F, 0, 0, 0});
  const json llama3{{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0},
      {"original_max_position_embeddings", 8192}};
  const rope_scaling expected{rope_scaling::method::llama3, 8.0F, 1.0F, 4.0F, 8192};
  CHECK(judged({{"rope_scaling", llama3}}).config.rope == expected);
  CHECK(judged({{"rope_parameters", llama3}}).config.rope == expected);
}

TEST_CASE("rotary settings that are not supported or not complete are named") {
  check_says(faults_of({{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4}}}}),
      {"rope_scaling", "rope_type", "yarn", "supported:"});
  check_says(faults_of({{"rope_scaling", {{"type", "dynamic"}, {"factor", 4}}}}), {"type", "dynamic", "supported:"});
  check_says(faults_of({{"rope_scaling", {{"type", "linear"}}}}), {"rope_scaling", "factor: is missing"});
  check_says(faults_of({{"rope_scaling", {{"type", "linear"}, {"factor", 0.5}}}}), {"factor", "0.5"});
  const auto llama3 = faults_of({{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}}});
  check_says(llama3,
      {"low_freq_factor: is missing", "high_freq_factor: is missing", "original_max_position_embeddings: is missing"});
  check_says(faults_of({{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 4.0},
                                             {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 64}}}}),
      {"high_freq_factor: 4 is not above low_freq_factor 4"});
  check_says(faults_of({{"rope_parameters", {{"rope_theta", 1e4}, {"partial_rotary_factor", 0.5}}}}),
      {"partial_rotary_factor", "0.5"});
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
  check_says(faults_of({{"head_dim", 33}}), {"head_dim: 33 is not supported; expected a multiple of 16"});
  check_says(faults_of({{"hidden_size", 193}, {"head_dim", nullptr}}), {"head_dim: is missing", "193"});
  check_says(faults_of({{"bos_token_id", 2048}}), {"bos_token_id", "below vocab_size 2048"});
  check_says(faults_of({{"eos_token_id", {1, -1}}}), {"eos_token_id", "-1"});
  CHECK(judged({{"hidden_size", 0}, {"vocab_size", "x"}, {"mlp_bias", true}}).faults.size() == 3);
}

TEST_CASE("what is not supported is refused with what is") {
  check_says(
      faults_of({{"architectures", {"MixtralForCausalLM"}}}), {"MixtralForCausalLM", "supported: LlamaForCausalLM"});
  check_says(faults_of({{"architectures", nullptr}}), {"architectures: is missing"});
  check_says(faults_of({{"architectures", {1}}}), {"architectures: expected"});
  check_says(faults_of({{"mlp_bias", true}}), {"mlp_bias", "not supported"});
  check_says(faults_of({{"hidden_act", "gelu"}}), {"hidden_act", "gelu"});
  check_says(faults_of({{"quantization_config", {{"bits", 4}}}}), {"quantization_config"});
  check_says(faults_of({{"sliding_window", 4096}}), {"sliding_window", "4096"});
  check_says(faults_of({{"attention_bias", true}}), {"attention_bias: true is not supported for LlamaForCausalLM"});
  check_says(faults_of({{"partial_rotary_factor", 0.25}}), {"partial_rotary_factor", "0.25"});
  check_says(faults_of({{"layer_types", {"full_attention", "linear_attention"}}}), {"layer_types", "linear_attention"});
  for (const auto* key : {"num_local_experts", "num_experts", "n_routed_experts", "q_lora_rank", "kv_lora_rank",
           "attn_logit_softcapping", "final_logit_softcapping"}) {
    check_says(faults_of({{key, 8}}), {key, "8 is not supported", "supported:"});
  }
}

TEST_CASE("each family says what it adds to Llama") {
  const auto of = [](const char* name) { return judged({{"architectures", {name}}}); };
  CHECK_FALSE(of("LlamaForCausalLM").config.qkv_bias);
  CHECK_FALSE(of("MistralForCausalLM").config.qkv_bias);
  const auto qwen2 = of("Qwen2ForCausalLM");
  CHECK(qwen2.faults.empty());
  CHECK(qwen2.config.qkv_bias);
  CHECK_FALSE(qwen2.config.qk_norm);
  const auto qwen3 = of("Qwen3ForCausalLM");
  CHECK(qwen3.faults.empty());
  CHECK_FALSE(qwen3.config.qkv_bias);
  CHECK(qwen3.config.qk_norm);
  check_says(faults_of({{"architectures", {"Qwen3ForCausalLM"}}, {"head_dim", nullptr}}), {"head_dim: is missing"});
  check_says(faults_of({{"architectures", {"MistralForCausalLM"}}, {"num_key_value_heads", nullptr}}),
      {"num_key_value_heads: is missing"});
}

TEST_CASE("a sliding window shorter than the context limits the context to itself") {
  const auto mistral = [](const json& window) {
    auto report = judged({{"architectures", {"MistralForCausalLM"}}, {"sliding_window", window}});
    CHECK(report.faults.empty());
    return report.config;
  };
  CHECK(mistral(nullptr).max_context == 1024);
  CHECK(mistral(1024).uncut_context == 0);
  CHECK(mistral(4096).max_context == 1024);
  CHECK(mistral(256).max_context == 256);
  CHECK(mistral(256).uncut_context == 1024);
  const auto qwen = [](bool used) {
    return judged({{"architectures", {"Qwen2ForCausalLM"}}, {"sliding_window", 256}, {"use_sliding_window", used}});
  };
  CHECK(qwen(false).config.max_context == 1024);
  CHECK(qwen(true).config.max_context == 256);
  check_says(faults_of({{"architectures", {"MistralForCausalLM"}}, {"sliding_window", "x"}}), {"sliding_window"});
  check_says(faults_of({{"architectures", {"Qwen2ForCausalLM"}}, {"layer_types", {"sliding_attention"}}}),
      {"layer_types", "sliding_attention"});
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

} // namespace hflex::model_config_test
