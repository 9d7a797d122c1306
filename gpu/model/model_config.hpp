// Reads and judges a model's config.json. Decides which models this runtime can run at all; callers are the checkpoint,
// the tokenizer's checks and `hflex model`. Must not touch weights. A new family is a line in the table of
// model_config.cpp, and what it computes differently a field here.
#pragma once
#include "actors/common/request.hpp"
#include "actors/common/result.hpp"
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::gpu {

// Far above any model there is; they keep every product of two of them inside 64 bits and every row index inside 32.
inline constexpr std::uint32_t max_width = 1U << 20U;
inline constexpr std::uint32_t max_layers = 1U << 12U;
inline constexpr std::uint32_t max_vocab = 1U << 24U;
inline constexpr std::uint32_t max_positions = 1U << 26U;

/// How rotary frequencies are stretched past the context that the model was trained on first (see rope.hpp).
struct rope_scaling {
  enum class method : std::uint32_t { none, linear, llama3 };
  method type{method::none};
  float factor{1};                  ///< at least 1
  float low_freq_factor{};          ///< llama3 only: waves longer than original_context / this are stretched in full,
  float high_freq_factor{};         ///< and those shorter than original_context / this not at all
  std::uint32_t original_context{}; ///< llama3 only: positions

  friend bool operator==(const rope_scaling&, const rope_scaling&) = default;
};

/// Shape and constants of a Llama-family model. Every field comes from the file (or is what Hugging Face's Llama code
/// takes for a key that older files lack) and has been checked: sizes are at least 1, heads is a multiple of kv_heads,
/// head_dim is a multiple of 16, token ids lie inside the vocabulary.
struct model_config {
  std::string architecture;     ///< one of known_architectures()
  std::uint32_t hidden{};       ///< hidden_size
  std::uint32_t intermediate{}; ///< intermediate_size (width of the MLP)
  std::uint32_t layers{};       ///< num_hidden_layers
  std::uint32_t heads{};        ///< num_attention_heads
  std::uint32_t kv_heads{};     ///< num_key_value_heads; absent: heads
  std::uint32_t head_dim{};     ///< head_dim; absent: hidden / heads (Qwen3 must say)
  std::uint32_t vocab{};        ///< vocab_size
  std::uint32_t max_context{};  ///< max_position_embeddings, or the sliding window where that is shorter
  float rms_norm_eps{};
  float rope_theta{};    ///< rope_theta or rope_parameters.rope_theta; absent: 10000
  bool tie_embeddings{}; ///< tie_word_embeddings: lm_head.weight is model.embed_tokens.weight; absent: false
  bool qkv_bias{};       ///< q, k and v projections have a bias (Qwen2)
  token_id bos{-1};      ///< -1: none
  /// Any of them ends a sequence: config.json's, then generation_config.json's others, then the chat template's.
  std::vector<token_id> eos;
  bool qk_norm{}; ///< every head of q and k is normalised before it is rotated (Qwen3)
  rope_scaling rope{};
  /// max_position_embeddings where a sliding window made max_context shorter: within its window such a model computes
  /// what full attention does, and this engine goes no further. 0: nothing was cut.
  std::uint32_t uncut_context{};

  friend bool operator==(const model_config&, const model_config&) = default;
};

/// What `architectures` in config.json may say.
std::vector<std::string_view> known_architectures();

/// Reads `dir`/config.json and, when there, `dir`/generation_config.json, or a GGUF
/// file's metadata (gguf_path_of). Blocks on the disk. errc::reject with one
/// line per fault, each naming file and key, when a key is missing, of another type, out of range, or asks for
/// something that is not supported (another architecture or rope type, experts, an MLP bias, quantisation, ...).
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
