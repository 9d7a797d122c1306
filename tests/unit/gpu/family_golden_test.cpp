// Every model family against Hugging Face transformers' own numbers, on tiny random checkpoints (tests/parity/
// make_golden.py), for every instruction set of this CPU.
#include "gpu/kernels/kernels.hpp"
#include "gpu/model/model_info.hpp"
#include "gpu/model/rope.hpp"
#include "tests/unit/gpu/engine_fixture.hpp"

namespace hflex::test::family_golden_test {
namespace {

std::string family_dir(const std::string& name) { return HFLEX_SOURCE_DIR "/tests/unit/gpu/golden/" + name; }

const std::vector<std::string>& families() {
  static const std::vector<std::string> names{"llama", "llama3-rope", "linear-rope", "mistral", "qwen2", "qwen3"};
  return names;
}

std::shared_ptr<const gpu::weight_region> weights_of(const std::string& dir) {
  auto region = gpu::load_weights(dir, {});
  if (!region) FAIL(region.error().message);
  return *region;
}

std::unique_ptr<gpu::llama> engine_of(const std::string& dir, gpu::compute_type compute, std::string_view isa = {}) {
  auto options = engine_options(compute);
  options.isa = std::string(isa);
  auto made = gpu::llama::make(weights_of(dir), options);
  if (!made) FAIL(made.error().message);
  return std::move(*made);
}

nlohmann::json golden_of(const std::string& dir) {
  return nlohmann::json::parse(slurp(dir + "/golden.json")).at("cases");
}

} // namespace

TEST_CASE("every family gives the reference's greedy tokens and logits in f32 mode") {
  for (const auto& name : families()) {
    for (const auto isa : gpu::available_isas()) {
      auto engine = engine_of(family_dir(name), gpu::compute_type::f32, isa);
      const auto cases = golden_of(family_dir(name));
      REQUIRE(cases.size() == 2);
      for (const auto& golden : cases) {
        const auto prompt = golden.at("prompt_ids").get<tokens>();
        const auto expected = golden.at("greedy_ids").get<tokens>();
        INFO(name << ", " << isa << ", prompt of " << prompt.size());
        const auto first = run_step(*engine, {item_of(prompt, 0, block_range(0, 16))});
        CHECK(relative_difference(first.logits[0], golden.at("logits").get<logit_row>()) < 1e-3);
        CHECK(generate(*engine, prompt, expected.size(), block_range(0, 16)) == expected);
      }
    }
  }
}

TEST_CASE("every family stays close to the reference in bf16 mode") {
  for (const auto& name : families()) {
    auto engine = engine_of(family_dir(name), gpu::compute_type::bf16);
    for (const auto& golden : golden_of(family_dir(name))) {
      const auto step = run_step(*engine, {item_of(golden.at("prompt_ids").get<tokens>(), 0, block_range(0, 16))});
      INFO(name);
      CHECK(relative_difference(step.logits[0], golden.at("logits").get<logit_row>()) < 0.05);
    }
  }
}

TEST_CASE("biases and norms of heads do not depend on the batch") {
  for (const auto* name : {"qwen2", "qwen3"}) {
    for (const auto compute : {gpu::compute_type::f32, gpu::compute_type::bf16}) {
      INFO(name);
      auto engine = engine_of(family_dir(name), compute);
      const auto prompt = golden_of(family_dir(name))[1].at("prompt_ids").get<tokens>();
      const auto whole = run_step(*engine, {item_of(prompt, 0, block_range(0, 16))}).logits[0];
      // The same sequence a token at a time, beside a neighbour.
      std::vector<logit_row> alone;
      for (std::uint32_t i = 0; i < prompt.size(); ++i)
        alone =
            run_step(*engine, {item_of({prompt[i]}, i, block_range(16, 16)), item_of({7, 9}, 0, block_range(40, 2))})
                .logits;
      CHECK(alone[0] == whole);
    }
  }
}

TEST_CASE("the checks of a model know every family's tensors") {
  for (const auto& name : families()) {
    const auto faults = gpu::check_model(family_dir(name));
    INFO(name << ": " << fmt::format("{}", fmt::join(faults, "; ")));
    CHECK(faults.size() == 1); // tokenizer.json is missing: these are numbers without words
  }
}

TEST_CASE("a mapped region brings the family's configuration along") {
  for (const auto& name : families()) {
    const auto region = weights_of(family_dir(name));
    const auto mapped = gpu::map_weights(::dup(region->fd()), region->digest());
    REQUIRE(mapped.has_value());
    auto expected = gpu::load_model_config(family_dir(name)).value();
    expected.uncut_context = 0; // says why the context is short; nothing to compute with
    CHECK(gpu::packed_model(**mapped).config() == expected);
  }
}

TEST_CASE("a model is served up to its sliding window and no further") {
  auto engine = engine_of(family_dir("mistral"), gpu::compute_type::f32);
  CHECK(engine->config().max_context == 64);
  gpu::step_plan plan;
  plan.items.push_back(item_of(tokens(65, 7), 0, block_range(0, 16)));
  CHECK(contains(engine->check(plan).error().message, "the model has 64 positions"));
}

TEST_CASE("a family's tensors that are missing or of no use to another are named") {
  const temp_dir dir;
  for (const auto* file : {"config.json", "model.safetensors"})
    std::filesystem::copy_file(family_dir("qwen2") + "/" + file, dir.file(file));
  auto config = nlohmann::json::parse(slurp(dir.file("config.json")));
  config["architectures"] = {"LlamaForCausalLM"};
  dir.write("config.json", config.dump());
  CHECK(contains(gpu::load_weights(dir.path(), {}).error().message, "q_proj.bias: not a tensor of a LlamaForCausalLM"));
  config["architectures"] = {"Qwen3ForCausalLM"};
  config["head_dim"] = 16;
  dir.write("config.json", config.dump());
  CHECK(contains(gpu::load_weights(dir.path(), {}).error().message, "layers.0.self_attn.q_norm.weight: missing"));
}

TEST_CASE("llama3 rope leaves short waves, stretches long ones and goes between them without a step") {
  gpu::model_config config;
  config.head_dim = 128;
  config.rope_theta = 500000.0F;
  const auto plain = gpu::rope_frequencies(config);
  config.rope = {gpu::rope_scaling::method::llama3, 8.0F, 1.0F, 4.0F, 8192};
  const auto scaled = gpu::rope_frequencies(config);
  REQUIRE(scaled.size() == 64);
  CHECK(scaled.front() == plain.front());
  CHECK(scaled.back() == plain.back() / 8);
  for (std::size_t i = 1; i < scaled.size(); ++i) {
    CHECK(scaled[i] < scaled[i - 1]);
    CHECK(scaled[i] <= plain[i]);
    CHECK(scaled[i] >= plain[i] / 8);
  }
}

} // namespace hflex::test::family_golden_test
