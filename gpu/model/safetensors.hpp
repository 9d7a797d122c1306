// The safetensors format: which bytes of a file are which tensor. Judges the layout of files that may come from anyone
// and maps them into memory; checkpoint builds on it. Knows nothing of models.
#pragma once
#include "actors/common/result.hpp"
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::gpu {

enum class dtype : std::uint8_t { f32, f16, bf16 };

constexpr std::size_t bytes_of(dtype t) { return t == dtype::f32 ? 4 : 2; }
std::string_view to_string(dtype t); ///< "F32", "F16", "BF16", as safetensors writes them

/// One tensor, row-major, little-endian, inside a mapping that outlives the view. `data` need not be aligned to the
/// element size. data.size() == product(shape) * bytes_of(type); an empty shape is one element.
struct tensor_view {
  dtype type{};
  std::vector<std::uint64_t> shape;
  std::span<const std::byte> data;
};

using tensor_map = std::map<std::string, tensor_view, std::less<>>;

/// Finds the tensors of one whole file. Every fault is appended to `faults` (at most 32, and one line that counts the
/// others), naming `source` and the tensor: header longer than the file or 100 MB, malformed JSON, an unknown dtype, a
/// size that is not product(shape) * element size, offsets outside the file, tensors that overlap, bytes that belong to
/// none. With faults, the tensors that could be understood are returned all the same, each inside `file`.
tensor_map parse_safetensors(
    std::span<const std::byte> file, const std::string& source, std::vector<std::string>& faults);

/// A file mapped read-only. The mapping is private, but POSIX leaves one hole that no check at open can close: when
/// somebody truncates the file while it is mapped, touching the pages that are gone raises SIGBUS. Model files must be
/// replaced by rename, never in place, while a process loads them.
class mapped_file {
public:
  static result<mapped_file> open(const std::string& path);
  mapped_file(mapped_file&& other) noexcept;
  mapped_file& operator=(mapped_file&& other) noexcept;
  ~mapped_file();
  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }

private:
  mapped_file(std::string path, std::span<const std::byte> bytes) : path_(std::move(path)), bytes_(bytes) {}
  std::string path_;
  std::span<const std::byte> bytes_;
};

/// All tensors of a model directory: of model.safetensors, or of the shards that model.safetensors.index.json lists.
struct tensor_files {
  std::vector<mapped_file> files; ///< in name order
  tensor_map tensors;             ///< views into `files`
};

/// Maps and parses the tensor files of `dir`. Blocks on the disk, reads headers only. Faults as above, and: a file that
/// is missing, a tensor in two shards, a shard that does not hold what the index says.
tensor_files open_tensor_files(const std::string& dir, std::vector<std::string>& faults);

} // namespace hflex::gpu
