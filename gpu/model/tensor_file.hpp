// What the tensor file formats (safetensors, gguf) have in common: a mapped file, the tensors found in it, and what is
// wrong with it. Knows neither formats nor models.
#pragma once
#include "actors/common/result.hpp"
#include "gpu/model/dtype.hpp"
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hflex::gpu {

/// One tensor, row-major, little-endian, inside a mapping that outlives the view. `data` need not be aligned to the
/// element size. data.size() == tensor_bytes(type, shape).
struct tensor_view {
  dtype type{};
  std::vector<std::uint64_t> shape;
  std::span<const std::byte> data;
  /// 0: rows in order. Otherwise the rows of each head of so many have the halves that rotary embedding pairs
  /// interleaved: row i of a head is stored as its row 2 * (i % half) + i / half, half = paired_rows / 2.
  std::uint32_t paired_rows{0};
};

using tensor_map = std::map<std::string, tensor_view, std::less<>>;

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

/// All tensors of a model.
struct tensor_files {
  std::vector<mapped_file> files; ///< in name order
  tensor_map tensors;             ///< views into `files`
};

/// Notes faults of one file, and only counts them when there are too many to read: the count is the last line.
class fault_list {
public:
  fault_list(std::string source, std::vector<std::string>& out) : source_(std::move(source)), out_(out) {}
  fault_list(const fault_list&) = delete;
  fault_list& operator=(const fault_list&) = delete;
  ~fault_list();
  void add(const std::string& what);

private:
  static constexpr std::size_t max_listed = 32;
  std::string source_;
  std::vector<std::string>& out_;
  std::size_t count_{0};
};

} // namespace hflex::gpu
