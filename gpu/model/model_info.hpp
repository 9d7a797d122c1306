// What a model directory or GGUF file holds and whether it will load: behind `hflex model info` and `hflex model
// check`. Reads headers and the tokenizer, never the weights themselves.
#pragma once
#include "actors/common/result.hpp"
#include "gpu/model/dtype.hpp"
#include "gpu/model/model_config.hpp"
#include <cstdint>
#include <string>
#include <vector>

namespace hflex::gpu {

/// A tensor that the architecture wants, by the name it has in a checkpoint; row-major, weights as [out, in].
struct expected_tensor {
  std::string name;
  std::vector<std::uint64_t> shape;
};

/// Every tensor that a model of this configuration is made of, in the order of the forward pass. lm_head.weight is not
/// among them when embeddings are tied.
std::vector<expected_tensor> expected_tensors(const model_config& config);

struct model_summary {
  model_config config;
  std::uint64_t parameters{}; ///< elements of all tensors
  std::uint64_t tensors{};
  struct dtype_share {
    dtype type{};
    std::uint64_t tensors{};
    std::uint64_t bytes{};
  };
  std::vector<dtype_share> dtypes; ///< those that occur
  struct file_size {
    std::string name; ///< inside the model directory
    std::uint64_t bytes{};
  };
  std::vector<file_size> files;       ///< everything in the directory, by name; or the one file
  std::uint32_t tokenizer_vocab{};    ///< one past the tokenizer's largest id
  std::uint64_t weights_bytes{};      ///< memory for the weights in use, as bf16, without padding
  std::uint64_t kv_bytes_per_token{}; ///< K and V of one token in all layers, as bf16; an f32 pool takes twice that
  std::uint64_t kv_bytes_per_1k_tokens() const { return kv_bytes_per_token * 1024; }
};

/// Blocks on the disk. errc::reject as checkpoint::open and tokenizer::load.
result<model_summary> summarize_model(const std::string& path);

/// Every fault that can be found without computing, one per entry, naming file and key or tensor: missing files, faults
/// of config, tensor layout and tokenizer, tensors that are missing, unexpected or of another shape than the
/// configuration says, token ids beyond the vocabulary. Empty: the model will load. Blocks on the disk.
std::vector<std::string> check_model(const std::string& model);

} // namespace hflex::gpu
