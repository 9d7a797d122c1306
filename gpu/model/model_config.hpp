// Reads and judges a model's config.json. Decides which models this runtime can run at all; callers are the checkpoint,
// the tokenizer's checks and `hflex model`. Must not touch weights.
#pragma once
#include "actors/common/request.hpp"
#include "actors/common/result.hpp"
#include <cstdint>
#include <string>
#include <vector>

namespace hflex::gpu {

/// Shape and constants of a Llama-family model. Every field comes from the file (or is what Hugging Face's Llama code
/// takes for a key that older files lack) and has been checked: sizes are at least 1, heads is a multiple of kv_heads,
/// head_dim is even, token ids lie inside the vocabulary.
struct model_config {
  std::string architecture;     ///< "LlamaForCausalLM"
  std::uint32_t hidden{};       ///< hidden_size
  std::uint32_t intermediate{}; ///< intermediate_size (width of the MLP)
  std::uint32_t layers{};       ///< num_hidden_layers
  std::uint32_t heads{};        ///< num_attention_heads
  std::uint32_t kv_heads{};     ///< num_key_value_heads; absent: heads
  std::uint32_t head_dim{};     ///< head_dim; absent: hidden / heads
  std::uint32_t vocab{};        ///< vocab_size
  std::uint32_t max_context{};  ///< max_position_embeddings
  float rms_norm_eps{};
  float rope_theta{};        ///< rope_theta or rope_parameters.rope_theta; absent: 10000
  bool tie_embeddings{};     ///< tie_word_embeddings: lm_head.weight is model.embed_tokens.weight; absent: false
  bool attention_bias{};     ///< q, k, v and o projections have a bias; absent: false
  token_id bos{-1};          ///< -1: none
  std::vector<token_id> eos; ///< any of them ends a sequence: config.json's, then generation_config.json's others

  friend bool operator==(const model_config&, const model_config&) = default;
};

/// Reads `dir`/config.json and, when there, `dir`/generation_config.json, or a GGUF file's metadata (gguf_path_of).
/// Blocks on the disk. errc::reject with one line per fault, each naming file and key, when a key is missing, of
/// another type, out of range, or asks for something that is not supported (another architecture, rope_scaling, an MLP
/// bias, another activation, quantisation).
result<model_config> load_model_config(const std::string& dir);

/// The same with the faults one by one (for `hflex model check`). `config` is filled as far as the files allow and must
/// not be used unless `faults` is empty.
struct config_report {
  model_config config;
  std::vector<std::string> faults;
};
config_report inspect_model_config(const std::string& dir);

/// The judgement alone, on the text of config.json; `source` is named in the faults.
config_report parse_model_config(std::string_view text, const std::string& source);

} // namespace hflex::gpu
