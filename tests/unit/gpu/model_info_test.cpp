#include "gpu/model/checkpoint.hpp"
#include "gpu/model/model_info.hpp"
#include "tests/support/model_dir.hpp"
#include <fmt/format.h>

namespace hflex::model_info_test {

using namespace hflex::gpu;
using namespace hflex::test;

namespace {

std::string faults_of(const temp_dir& dir) { return fmt::format("{}", fmt::join(check_model(dir.path()), "\n")); }

/// Renames one tensor in the header of the copy's weights; both names have the same length.
void rename_tensor(const model_copy& model, std::string_view from, std::string_view to) {
  auto file = slurp(model.file("model.safetensors"));
  const auto at = file.find("\"" + std::string(from) + "\"");
  REQUIRE(at != file.npos);
  REQUIRE(from.size() == to.size());
  file.replace(at + 1, from.size(), to);
  model.write("model.safetensors", file);
}

} // namespace

TEST_CASE("the demo model passes every check") { CHECK(check_model(demo_model()).empty()); }

TEST_CASE("a summary counts parameters, bytes and memory") {
  const auto info = summarize_model(demo_model());
  REQUIRE(info);
  CHECK(info->parameters == 2'755'008);
  CHECK(info->tensors == 56);
  REQUIRE(info->dtypes.size() == 1);
  CHECK(info->dtypes[0].type == dtype::bf16);
  CHECK(info->dtypes[0].tensors == 56);
  CHECK(info->dtypes[0].bytes == 5'510'016);
  CHECK(info->weights_bytes == 5'510'016);
  CHECK(info->tokenizer_vocab == 2048);
  CHECK(info->kv_bytes_per_token == 2 * 2 * 6 * 2 * 32);
  CHECK(info->kv_bytes_per_1k_tokens() == 1024 * 2 * 2 * 6 * 2 * 32);
  const auto file =
      std::find_if(info->files.begin(), info->files.end(), [](const auto& f) { return f.name == "model.safetensors"; });
  REQUIRE(file != info->files.end());
  CHECK(file->bytes == 5'516'032);
  CHECK_FALSE(summarize_model("/nonexistent"));
}

TEST_CASE("the expected tensors follow the configuration") {
  auto config = *load_model_config(demo_model());
  const auto tied = expected_tensors(config);
  CHECK(tied.size() == 56);
  config.tie_embeddings = false;
  config.qkv_bias = true;
  config.qk_norm = true;
  const auto full = expected_tensors(config);
  CHECK(full.size() == 56 + 1 + 6 * (3 + 2));
  CHECK(full.back().name == "lm_head.weight");
}

TEST_CASE("a missing and an unexpected tensor are named") {
  const model_copy model;
  rename_tensor(model, "model.layers.3.mlp.up_proj.weight", "model.layers.3.mlp.xx_proj.weight");
  const auto faults = check_model(model.path());
  REQUIRE(faults.size() == 2);
  check_says(faults[0], {"model.layers.3.mlp.up_proj.weight", "is missing", "[512, 192]"});
  check_says(faults[1], {"model.layers.3.mlp.xx_proj.weight", "has no place"});
}

TEST_CASE("every tensor of another shape than the configuration says is named") {
  const model_copy model;
  model.configure("intermediate_size", 256);
  const auto faults = check_model(model.path());
  CHECK(faults.size() == 18); // gate, up and down of six layers
  check_says(faults[0], {"model.layers.0.mlp.gate_proj.weight", "[512, 192]", "[256, 192]"});
  model.configure("intermediate_size", 512);
  model.configure("num_hidden_layers", 7);
  CHECK(check_model(model.path()).size() == 9);
  model.configure("num_hidden_layers", 6);
  model.configure("tie_word_embeddings", false);
  check_says(faults_of(model), {"lm_head.weight", "is missing"});
}

TEST_CASE("faults of all files are listed at once") {
  const model_copy model;
  model.configure("rms_norm_eps", "tiny");
  model.configure("mlp_bias", true);
  auto words = model.read("tokenizer.json");
  words["model"]["type"] = "Unigram";
  model.write_json("tokenizer.json", words);
  auto weights = slurp(model.file("model.safetensors"));
  model.write("model.safetensors", weights.substr(0, weights.size() - 100));
  const auto faults = check_model(model.path());
  CHECK(faults.size() == 4);
  check_says(faults_of(model), {"rms_norm_eps", "mlp_bias", "Unigram", "model.safetensors: tensor"});
}

TEST_CASE("a tokenizer that does not fit the vocabulary is a fault") {
  const model_copy model;
  auto words = model.read("tokenizer.json");
  words["added_tokens"].push_back({{"id", 2050}, {"content", "<extra>"}, {"special", true}});
  model.write_json("tokenizer.json", words);
  check_says(faults_of(model), {"tokenizer.json: has ids up to 2050", "vocab_size is 2048"});
}

TEST_CASE("an end token that the tokenizer does not know is a fault") {
  const model_copy model;
  auto words = model.read("tokenizer.json");
  words["added_tokens"].erase(1);
  words["model"]["vocab"].erase("<|end_of_text|>");
  model.write_json("tokenizer.json", words);
  check_says(faults_of(model), {"no token for eos_token_id 1"});
}

TEST_CASE("missing files are all named") {
  const temp_dir empty;
  const auto faults = check_model(empty.path());
  CHECK(faults.size() == 3);
  check_says(faults_of(empty), {"/config.json", "/tokenizer.json", "/model.safetensors", "a model directory holds"});
  CHECK(check_model("/nonexistent").size() == 1);
  const model_copy model;
  std::filesystem::remove(model.file("tokenizer.json"));
  CHECK(checkpoint::open(model.path())); // weights can be packed without it
  CHECK(check_model(model.path()).size() == 1);
}

} // namespace hflex::model_info_test
