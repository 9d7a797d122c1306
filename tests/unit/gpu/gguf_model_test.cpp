// The demo model out of a GGUF file: the same configuration, weights and tokens as out of Hugging Face's files, and
// what is said about files that hold something else.
#include "gpu/model/gguf_model.hpp"
#include "gpu/model/gguf_tokenizer.hpp"
#include "gpu/model/model_info.hpp"
#include "gpu/model/tokenizer.hpp"
#include "tests/support/gguf_writer.hpp"
#include "tests/unit/gpu/engine_fixture.hpp"

namespace hflex::gguf_model_test {

using namespace hflex::gpu;
using namespace hflex::test;

namespace {

/// The demo model as a GGUF file of its own directory.
class gguf_copy : public temp_dir {
public:
  explicit gguf_copy(const std::string& bytes) { write("m.gguf", bytes); }
  explicit gguf_copy(dtype type) : gguf_copy(demo_gguf(type)) {}
  std::string model() const { return file("m.gguf"); }
};

std::string faults_of(const gguf_writer& out) {
  const auto file = out.bytes();
  std::vector<std::string> faults;
  const auto content = parse_gguf(std::as_bytes(std::span<const char>(file)), "m.gguf", faults);
  CHECK(faults.empty());
  return fmt::format("{}", fmt::join(gguf_config(content, "m.gguf").faults, "\n"));
}

/// The metadata that a configuration needs, without the keys that begin with `without`.
gguf_writer small(std::string_view without) {
  gguf_writer out;
  const auto natural = [&](std::string_view key, std::uint32_t n) {
    if (!key.starts_with(without)) out.natural(key, n);
  };
  if (without != "general.architecture") out.text("general.architecture", "llama");
  natural("llama.block_count", 2);
  natural("llama.context_length", 64);
  natural("llama.embedding_length", 64);
  natural("llama.feed_forward_length", 96);
  natural("llama.attention.head_count", 2);
  natural("llama.vocab_size", 300);
  if (without != "llama.attention.layer_norm_rms_epsilon") out.real("llama.attention.layer_norm_rms_epsilon", 1e-5F);
  return out;
}

std::unique_ptr<llama> engine_of(const std::string& model) {
  auto region = load_weights(model, {});
  if (!region) FAIL(region.error().message);
  return std::move(llama::make(*region, engine_options(compute_type::f32)).value());
}

} // namespace

TEST_CASE("a GGUF file in bf16 packs to the very weights of Hugging Face's files") {
  const gguf_copy gguf(dtype::bf16);
  CHECK(load_model_config(gguf.model()).value() == load_model_config(demo_model()).value());
  CHECK(checkpoint_digest(gguf.model()).value() == demo_weights()->digest());
  CHECK(checkpoint_digest(gguf.path()).value() == demo_weights()->digest());
  CHECK(load_weights(gguf.path(), {}).value()->digest() == demo_weights()->digest());
}

TEST_CASE("quantised weights pack to what they decode to, rounded to bf16", "[numbers]") {
  for (const auto type : {dtype::q8_0, dtype::q4_0, dtype::q4_1}) {
    INFO(to_string(type));
    const gguf_copy quantised(type);
    auto plain = demo_metadata();
    add_demo_tensors(
        plain, dtype::bf16, [&](const std::vector<float>& values) { return decoded(type, encoded(type, values)); });
    const gguf_copy decoded_copy(plain.bytes());
    CHECK(checkpoint_digest(quantised.model()).value() == checkpoint_digest(decoded_copy.model()).value());
    CHECK(checkpoint_digest(quantised.model()).value() != demo_weights()->digest());
  }
}

TEST_CASE("a quantised demo model speaks like the original", "[numbers]") {
  struct expectation {
    dtype type;
    double logits; ///< largest relative difference
    double agreed; ///< of the greedy choices
  };
  for (const auto& want : {expectation{dtype::q8_0, 0.02, 0.95}, expectation{dtype::q4_1, 0.2, 0.85},
           expectation{dtype::q4_0, 0.25, 0.8}}) {
    const gguf_copy gguf(want.type);
    const auto engine = engine_of(gguf.model());
    const auto table = block_range(0, 64);
    std::size_t agreed = 0;
    std::size_t total = 0;
    double difference = 0.0;
    for (const auto& golden : golden_cases()) {
      const auto expected = golden.at("greedy_ids").get<tokens>();
      auto next = golden.at("prompt_ids").get<tokens>();
      auto step = run_step(*engine, {item_of(next, 0, table)});
      difference = std::max(difference, relative_difference(step.logits[0], golden.at("last_logits").get<logit_row>()));
      // Teacher-forced: each position's choice given the reference's own past.
      auto position = static_cast<std::uint32_t>(next.size());
      for (const auto id : expected) {
        agreed += step.sampled[0] == id ? 1 : 0;
        ++total;
        step = run_step(*engine, {item_of({id}, position++, table)});
      }
    }
    INFO(to_string(want.type) << ": logits differ by " << difference << ", " << agreed << " of " << total);
    CHECK(difference < want.logits);
    CHECK(static_cast<double>(agreed) > want.agreed * static_cast<double>(total));
  }
}

TEST_CASE("the tokenizer inside a GGUF file gives the ids of tokenizer.json") {
  const gguf_copy gguf(dtype::q8_0);
  const auto found = tokenizer::load(gguf.path()).value();
  const auto expected = tokenizer::load(demo_model()).value();
  CHECK(found->vocab_size() == expected->vocab_size());
  for (const std::string text : {"It's a truth universally acknowledged, that 1234 men\r\n\n  want <|end_of_text|>",
           "caf\xc3\xa9 \xf0\x9f\x99\x82 \xff", ""}) {
    for (const bool parse_special : {false, true}) {
      const auto ids = found->encode(text, {true, parse_special});
      CHECK(ids == expected->encode(text, {true, parse_special}));
      CHECK(found->decode(ids, false) == expected->decode(ids, false));
    }
  }
}

TEST_CASE("a GGUF model is described and found fit to load, wherever its path is taken") {
  const gguf_copy gguf(dtype::q4_1);
  CHECK(check_model(gguf.model()).empty());
  CHECK(check_model(gguf.path()).empty());
  const auto summary = summarize_model(gguf.model()).value();
  const auto original = summarize_model(demo_model()).value();
  CHECK(summary.config == original.config);
  CHECK(summary.parameters == original.parameters);
  CHECK(summary.weights_bytes == original.weights_bytes);
  CHECK(summary.tokenizer_vocab == 2048);
  REQUIRE(summary.files.size() == 1);
  CHECK(summary.files[0].name == "m.gguf");
  REQUIRE(summary.dtypes.size() == 2);
  CHECK(summary.dtypes[0].type == dtype::f32);
  CHECK(summary.dtypes[1].type == dtype::q4_1);
  CHECK(gguf_chat_template(gguf.path()) == "{{ messages }}");
  CHECK_FALSE(gguf_chat_template(demo_model()));
}

TEST_CASE("the stamp of a GGUF file changes with the file") {
  const gguf_copy gguf(dtype::q8_0);
  const auto before = checkpoint_stamp(gguf.model());
  CHECK_FALSE(before.empty());
  CHECK(checkpoint_stamp(gguf.model()) == before);
  std::filesystem::resize_file(gguf.model(), 100);
  CHECK(checkpoint_stamp(gguf.model()) != before);
  std::filesystem::remove(gguf.model());
  CHECK(checkpoint_stamp(gguf.model()).empty());
}

TEST_CASE("faults of GGUF tensors name the file and the tensor by its name there") {
  auto missing = demo_metadata();
  missing.tensor("output_norm.weight", {100}, 0, std::string(400, '\0')).tensor("output.bias", {1}, 0, "abcd");
  const gguf_copy gguf(missing.bytes());
  const auto faults = fmt::format("{}", fmt::join(check_model(gguf.path()), "\n"));
  check_says(faults, {"m.gguf: tensor \"blk.3.attn_q.weight\" is missing", "shape [192, 192]",
                         "\"output_norm.weight\" has shape [100]", "\"output.bias\" has no place"});
  auto biased = demo_metadata();
  add_demo_tensors(biased, dtype::q8_0).tensor("blk.2.attn_q.bias", {192}, 0, std::string(768, '\0'));
  const gguf_copy with_bias(biased.bytes());
  CHECK(check_model(with_bias.path()).size() == 1);
  check_says(load_weights(with_bias.path(), {}).error().message, {"m.gguf", "blk.2.attn_q.bias: not a tensor"});
  const auto refused = load_weights(gguf.path(), {});
  REQUIRE_FALSE(refused);
  check_says(refused.error().message, {"m.gguf", "blk.0.attn_q.weight: missing"});
  const auto opened = checkpoint::open(gguf.path());
  check_says(opened->tensor("model.layers.5.mlp.up_proj.weight").error().message, {"m.gguf", "blk.5.ffn_up.weight"});
}

TEST_CASE("a file that is no GGUF file is refused by every reader of models") {
  const temp_dir dir;
  dir.write("m.gguf", "{}");
  for (const auto& model : {dir.path(), dir.file("m.gguf")}) {
    check_says(load_weights(model, {}).error().message, {"m.gguf: is not a GGUF file"});
    check_says(checkpoint_digest(model).error().message, {"m.gguf: is not a GGUF file"});
    check_says(tokenizer::load(model).error().message, {"m.gguf: is not a GGUF file"});
    check_says(load_model_config(model).error().message, {"m.gguf: is not a GGUF file"});
    check_says(summarize_model(model).error().message, {"m.gguf: is not a GGUF file"});
    check_says(check_model(model).at(0), {"m.gguf: is not a GGUF file"});
    CHECK_FALSE(gguf_chat_template(model));
  }
  dir.write("n.gguf", "{}");
  for (const auto& message : {load_weights(dir.path(), {}).error().message, tokenizer::load(dir.path()).error().message,
           load_model_config(dir.path()).error().message, check_model(dir.path()).at(0)}) {
    check_says(message, {"2 GGUF files"});
  }
}

TEST_CASE("metadata that make no model are refused by the key they lie under") {
  CHECK(faults_of(small("nothing")).empty());
  check_says(faults_of(small("general.architecture")), {"m.gguf: general.architecture: is missing"});
  for (const auto* key :
      {"llama.block_count", "llama.context_length", "llama.embedding_length", "llama.feed_forward_length",
          "llama.attention.head_count", "llama.vocab_size", "llama.attention.layer_norm_rms_epsilon"}) {
    check_says(faults_of(small(key)), {fmt::format("m.gguf: {}: is missing", key)});
  }
  const auto with = [](std::string_view key, std::uint32_t n) { return faults_of(small(key).natural(key, n)); };
  check_says(with("llama.embedding_length", 0), {"m.gguf: llama.embedding_length: expected an integer from 1"});
  check_says(with("llama.attention.head_count_kv", 3), {"llama.attention.head_count_kv", "does not divide"});
  check_says(with("llama.rope.dimension_count", 16), {"llama.rope.dimension_count: 16", "32"});
  check_says(with("llama.attention.value_length", 16), {"llama.attention.value_length: 16"});
  check_says(with("llama.expert_count", 8), {"llama.expert_count: 8", "experts"});
  check_says(with("general.quantization_version", 1), {"general.quantization_version: 1"});
  check_says(with("split.count", 3), {"split.count", "one of 3 files"});
  check_says(with("tokenizer.ggml.eos_token_id", 300), {"tokenizer.ggml.eos_token_id", "below vocab_size 300"});
  check_says(faults_of(small("").text("general.type", "adapter")), {"general.type", "\"adapter\""});
  check_says(faults_of(small("general.architecture").text("general.architecture", "mamba")),
      {"general.architecture: the string \"mamba\" is not supported; known: llama"});
  check_says(faults_of(small("llama.attention.head_count").integers("llama.attention.head_count", {2, 1})),
      {"llama.attention.head_count", "a list of 2"});
  check_says(faults_of(small("x").real("llama.rope.freq_base", std::numeric_limits<float>::quiet_NaN())),
      {"llama.rope.freq_base", "nan"});
  check_says(faults_of(small("x").real("llama.rope.freq_base", -1.0F)), {"llama.rope.freq_base: expected a number"});
}

TEST_CASE("Llama 3's divisors of rotary frequencies become its scaling, and others are refused") {
  // As llama.cpp's converter computes them, for heads of 32 and theta 10,000.
  const auto divisors = [](double factor) {
    std::string bytes;
    for (int i = 0; i < 16; ++i) {
      const double wave = 2 * 3.14159265358979 * std::pow(10000.0, i / 16.0);
      const double ramp = (8192 / wave - 1) / 3;
      bytes += raw(static_cast<float>(wave < 2048 ? 1 : wave > 8192 ? factor : 1 / ((1 - ramp) / factor + ramp)));
    }
    return bytes;
  };
  auto scaled = demo_metadata();
  add_demo_tensors(scaled, dtype::bf16).tensor("rope_freqs.weight", {16}, 0, divisors(8));
  const gguf_copy gguf(scaled.bytes());
  CHECK(check_model(gguf.path()).empty());
  const auto config = load_model_config(gguf.model()).value();
  CHECK(config.rope == rope_scaling{rope_scaling::method::llama3, 8, 1, 4, 8192});
  CHECK(load_weights(gguf.path(), {}).has_value());
  auto other = demo_metadata();
  auto wrong = divisors(8);
  wrong.replace(4, 4, raw(3.0F));
  add_demo_tensors(other, dtype::bf16).tensor("rope_freqs.weight", {16}, 0, wrong);
  const gguf_copy refused(other.bytes());
  check_says(fmt::format("{}", fmt::join(check_model(refused.path()), "\n")),
      {"m.gguf: rope_freqs.weight: is not Llama 3's scaling of rotary embeddings"});
}

TEST_CASE("tensor names are translated both ways, and others left alone") {
  for (const auto* name : {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight",
           "model.layers.0.input_layernorm.weight", "model.layers.12.self_attn.k_proj.weight",
           "model.layers.12.self_attn.k_proj.bias", "model.layers.7.self_attn.q_norm.weight"}) {
    INFO(name);
    CHECK(gguf_tensor_name(name) != name);
    CHECK(gguf_tensor_name(gguf_tensor_name(name)) == gguf_tensor_name(name));
  }
  CHECK(gguf_tensor_name("model.layers.12.mlp.down_proj.weight") == "blk.12.ffn_down.weight");
  for (const auto* name : {"model.layers..mlp.down_proj.weight", "model.layers.1", "model.layers.1.", "", "x",
           "model.layers.1mlp.down_proj.weight", "model.layers.1.mlp.down_proj"}) {
    CHECK(gguf_tensor_name(name) == name);
  }
}

} // namespace hflex::gguf_model_test
