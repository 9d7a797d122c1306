// A checkpoint directory: config.json plus the tensors of model.safetensors (or the shards of model.safetensors.index.json),
// mapped into memory, not read. Checks the whole layout when it opens; who packs weights (load_weights) and who describes
// models (`hflex model`) build on it. Must not judge which tensors a model needs: model_info does.
#pragma once
#include "actors/common/result.hpp"
#include "gpu/model/model_config.hpp"
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::gpu {

enum class dtype : std::uint8_t { f32, f16, bf16 };

constexpr std::size_t bytes_of(dtype t) { return t == dtype::f32 ? 4 : 2; }
std::string_view to_string(dtype t); ///< "F32", "F16", "BF16", as safetensors writes them

/// One tensor, row-major, little-endian, in the checkpoint's mapping: valid as long as the checkpoint (or a copy) lives.
/// `data` need not be aligned to the element size. data.size() == product(shape) * bytes_of(type); an empty shape is one element.
struct tensor_view {
  dtype type{};
  std::vector<std::uint64_t> shape;
  std::span<const std::byte> data;
};

/// Cheap to copy and move: copies share the mapping. Immutable, so any number of threads may read it.
class checkpoint {
public:
  /// Maps the tensor files and checks every header: length, offsets inside the file, no overlap, no gap, size = product(shape) *
  /// element size, known dtypes, each name once. errc::reject names file and tensor; a directory or file that is missing
  /// is named together with what a model directory must hold. Reads headers only; blocks on the disk.
  static result<checkpoint> open(const std::string& dir);

  const std::string& directory() const;
  const model_config& config() const;

  /// errc::reject when there is no tensor of that name. The view's pages are read from disk when touched.
  result<tensor_view> tensor(std::string_view name) const;
  bool contains(std::string_view name) const;
  std::vector<std::string> names() const; ///< sorted
  std::uint64_t bytes() const;            ///< of all tensors' data
  std::uint64_t parameters() const;       ///< elements of all tensors

  /// The tensor files, as opened; in name order.
  struct file_info {
    std::string path;
    std::uint64_t bytes{};
  };
  const std::vector<file_info>& files() const;

  /// Hints that the tensor's pages are needed soon, or not again. Never changes what can be read.
  void will_need(std::string_view name) const;
  void done_with(std::string_view name) const;

private:
  struct state;
  explicit checkpoint(std::shared_ptr<const state> s);
  std::shared_ptr<const state> state_;
};

} // namespace hflex::gpu
