#include "tools/bench/model_maker.hpp"
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

namespace hflex::bench {
namespace {

struct tensor {
  std::string name;
  std::vector<std::uint64_t> shape;
  std::uint64_t bytes() const {
    std::uint64_t n = 2;
    for (const auto d : shape) n *= d;
    return n;
  }
};

std::vector<tensor> tensors_of(const gpu::model_config& c) {
  std::vector<tensor> all{{"model.embed_tokens.weight", {c.vocab, c.hidden}}};
  if (!c.tie_embeddings) all.push_back({"lm_head.weight", {c.vocab, c.hidden}});
  const std::uint64_t q = std::uint64_t{c.heads} * c.head_dim;
  const std::uint64_t kv = std::uint64_t{c.kv_heads} * c.head_dim;
  for (std::uint32_t i = 0; i < c.layers; ++i) {
    const auto at = fmt::format("model.layers.{}.", i);
    all.push_back({at + "input_layernorm.weight", {c.hidden}});
    all.push_back({at + "self_attn.q_proj.weight", {q, c.hidden}});
    all.push_back({at + "self_attn.k_proj.weight", {kv, c.hidden}});
    all.push_back({at + "self_attn.v_proj.weight", {kv, c.hidden}});
    all.push_back({at + "self_attn.o_proj.weight", {c.hidden, q}});
    all.push_back({at + "post_attention_layernorm.weight", {c.hidden}});
    all.push_back({at + "mlp.gate_proj.weight", {c.intermediate, c.hidden}});
    all.push_back({at + "mlp.up_proj.weight", {c.intermediate, c.hidden}});
    all.push_back({at + "mlp.down_proj.weight", {c.hidden, c.intermediate}});
  }
  all.push_back({"model.norm.weight", {c.hidden}});
  return all;
}

nlohmann::json config_json(const gpu::model_config& c) {
  return {{"architectures", {c.architecture}}, {"hidden_size", c.hidden}, {"intermediate_size", c.intermediate},
      {"num_hidden_layers", c.layers}, {"num_attention_heads", c.heads}, {"num_key_value_heads", c.kv_heads},
      {"head_dim", c.head_dim}, {"vocab_size", c.vocab}, {"max_position_embeddings", c.max_context},
      {"rms_norm_eps", c.rms_norm_eps}, {"rope_theta", c.rope_theta}, {"tie_word_embeddings", c.tie_embeddings},
      {"bos_token_id", 0}, {"eos_token_id", 0}, {"torch_dtype", "bfloat16"}, {"model_type", "llama"},
      {"hidden_act", "silu"}};
}

/// Small bf16 of either sign, as an initialised network has them.
void fill(std::vector<std::uint16_t>& out, std::uint64_t& state) {
  for (auto& value : out) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    const auto random = static_cast<std::uint16_t>(state >> 48U);
    value = static_cast<std::uint16_t>((random & 0x807fU) | (random & 0x0100U ? 0x3c80U : 0x3c00U));
  }
}

} // namespace

result<temporary_folder> temporary_folder::make() {
  std::error_code failed;
  auto name = (std::filesystem::temp_directory_path(failed) / "hflex-bench-XXXXXX").string();
  if (failed || ::mkdtemp(name.data()) == nullptr)
    return fail(errc::retry, "no temporary folder: {}", std::generic_category().message(errno));
  return temporary_folder(name);
}

temporary_folder::~temporary_folder() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

result<void> write_checkpoint(
    const std::string& dir, const gpu::model_config& shape, const std::string& tokenizer_from) {
  const auto all = tensors_of(shape);
  nlohmann::ordered_json header;
  std::uint64_t at = 0;
  for (const auto& t : all) {
    header[t.name] = {{"dtype", "BF16"}, {"shape", t.shape}, {"data_offsets", {at, at + t.bytes()}}};
    at += t.bytes();
  }
  auto text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t size = text.size();
  std::ofstream file(dir + "/model.safetensors", std::ios::binary);
  file.write(reinterpret_cast<const char*>(&size), sizeof size); // the format is little-endian, as are our hosts
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  std::vector<std::uint16_t> block(1U << 19U);
  std::uint64_t state = 1;
  for (std::uint64_t left = at; left > 0;) {
    fill(block, state);
    const auto some = std::min<std::uint64_t>(left, block.size() * 2);
    file.write(reinterpret_cast<const char*>(block.data()), static_cast<std::streamsize>(some));
    left -= some;
  }
  std::ofstream(dir + "/config.json") << config_json(shape).dump(1);
  std::error_code failed;
  std::filesystem::copy_file(tokenizer_from + "/tokenizer.json", dir + "/tokenizer.json", failed);
  file.close();
  if (failed || !file) return fail(errc::retry, "{}: cannot write a checkpoint of {} bytes", dir, at);
  return {};
}

} // namespace hflex::bench
