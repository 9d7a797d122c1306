// Checkpoints of no meaning in the shape of published models, for benchmarks that need files: as a serving engine finds
// them on its disk.
#pragma once
#include "actors/common/result.hpp"
#include "gpu/model/model_config.hpp"
#include <string>

namespace hflex::bench {

/// A folder that is removed with this object.
class temporary_folder {
public:
  static result<temporary_folder> make();
  temporary_folder(temporary_folder&& o) noexcept : path_(std::exchange(o.path_, {})) {}
  temporary_folder& operator=(temporary_folder&&) = delete;
  ~temporary_folder();
  const std::string& path() const { return path_; }

private:
  explicit temporary_folder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

/// Writes config.json and model.safetensors (bf16, random) into `dir`, and the tokenizer of `tokenizer_from` beside
/// them. errc::retry when the disk does not take it.
result<void> write_checkpoint(
    const std::string& dir, const gpu::model_config& shape, const std::string& tokenizer_from);

} // namespace hflex::bench
