// A model opened for reading: its configuration and its tensors, mapped into memory, not copied. A model is a directory
// of Hugging Face's files, a GGUF file, or a directory with one GGUF file. Checks the whole layout when it opens; who
// packs weights (load_weights) and who describes models (`hflex model`) build on it. Must not judge which tensors a
// model needs: model_info does.
#pragma once
#include "actors/common/result.hpp"
#include "gpu/model/model_config.hpp"
#include "gpu/model/tensor_file.hpp"
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::gpu {

/// Cheap to copy and move: copies share the files. Immutable, so any number of threads may read it.
class checkpoint {
public:
  /// Reads the configuration, maps the tensor files and checks every header (see safetensors.hpp, gguf.hpp).
  /// errc::reject names file and tensor, one fault a line; when the directory or a file in it is missing, the message
  /// says which and what a model directory must hold. Reads headers only; blocks on the disk.
  static result<checkpoint> open(const std::string& model);

  const std::string& path() const; ///< the directory or the GGUF file
  const model_config& config() const;

  /// By Hugging Face's names, whatever the format. errc::reject when there is no tensor of that name. The view is valid
  /// as long as a copy of this checkpoint lives; its pages are read from disk when they are touched (SIGBUS when the
  /// file has been truncated).
  result<tensor_view> tensor(std::string_view name) const;
  bool contains(std::string_view name) const;
  /// As mapped_file, of a part of a view that tensor() gave: for who reads much.
  result<void> read(std::span<const std::byte> part, std::byte* to) const;
  void expect(std::span<const std::byte> part) const;
  /// What the file itself calls a tensor, there or not: for messages.
  std::string name_in_file(std::string_view name) const;
  std::vector<std::string> names() const; ///< sorted
  std::uint64_t bytes() const;            ///< of all tensors' data
  std::uint64_t parameters() const;       ///< elements of all tensors

private:
  struct state;
  explicit checkpoint(std::shared_ptr<const state> s) : state_(std::move(s)) {}
  std::shared_ptr<const state> state_;
};

/// Weights can be packed without a tokenizer; a model can not be served without one.
enum class needs_tokenizer : bool { no, yes };

/// One line per file that a directory of Hugging Face's files must hold and `dir` does not; empty when it has them all.
std::vector<std::string> missing_model_files(const std::string& dir, needs_tokenizer tokenizer);

} // namespace hflex::gpu
