// What the tensor file formats (safetensors, gguf) have in common: a mapped file, the tensors found in it, and what is
// wrong with it. Knows neither formats nor models.
#pragma once
#include "actors/common/result.hpp"
#include "gpu/model/dtype.hpp"
#include "gpu/transport/unique_fd.hpp"
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

/// A file mapped read-only, which is how headers are understood, and read by who wants much of it. The mapping is
/// private, but when somebody truncates the file, touching the pages that are gone raises SIGBUS; reading says so.
class mapped_file {
public:
  static result<mapped_file> open(const std::string& path);
  mapped_file(mapped_file&& other) noexcept;
  mapped_file& operator=(mapped_file&& other) noexcept;
  ~mapped_file();
  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }
  bool holds(std::span<const std::byte> part) const {
    return part.data() >= bytes_.data() && part.data() + part.size() <= bytes_.data() + bytes_.size();
  }

  /// Copies a part of bytes() to `to` without touching the mapping: whole blocks at a time, and in the kernel, where a
  /// page fault for each few pages would keep a disk waiting. errc::reject: the file has become shorter, or its disk
  /// fails. Any thread.
  result<void> read(std::span<const std::byte> part, std::byte* to) const;
  /// The part will be read soon: the disk may begin. Any thread.
  void expect(std::span<const std::byte> part) const;

private:
  mapped_file(std::string path, unique_fd fd, std::span<const std::byte> bytes)
      : path_(std::move(path)), fd_(std::move(fd)), bytes_(bytes) {}
  off_t offset_of(std::span<const std::byte> part) const { return part.data() - bytes_.data(); }
  std::string path_;
  unique_fd fd_;
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
