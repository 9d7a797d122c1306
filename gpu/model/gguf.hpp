// The GGUF format, versions 2 and 3, little-endian: key/value metadata and tensors in one file, as llama.cpp writes it.
// Judges the layout of files that may come from anyone; gguf_model and gguf_tokenizer say what the contents mean. Knows
// nothing of models.
#pragma once
#include "gpu/model/tensor_file.hpp"
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace hflex::gpu {

/// The type codes of metadata values as the file has them.
enum class gguf_type : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

/// A list of values of one type, still encoded. Its elements have been checked to lie inside `data`.
struct gguf_array {
  gguf_type element{};
  std::uint64_t count{};
  std::span<const std::byte> data;
};

/// Integers of all widths are widened. Strings are views into the file and may hold any bytes.
using gguf_value = std::variant<std::uint64_t, std::int64_t, double, bool, std::string_view, gguf_array>;

/// "the number 5", "a string", "a list of 300": for "expected X, found Y".
std::string described(const gguf_value& value);

/// The value as text, or as a whole number that is not negative; nothing for null and for other values.
std::optional<std::string_view> text_of(const gguf_value* value);
std::optional<std::uint64_t> natural_of(const gguf_value* value);

/// The elements of a list of strings; nothing when the value is something else. Views into the file.
std::optional<std::vector<std::string_view>> strings_of(const gguf_value& value);
/// The elements of a list of 8 to 32 bit integers; nothing when the value is something else.
std::optional<std::vector<std::int64_t>> integers_of(const gguf_value& value);
/// The elements of a list of f32; nothing when the value is something else.
std::optional<std::vector<float>> reals_of(const gguf_value& value);

/// What one file holds: views into its bytes, which must outlive them.
struct gguf_content {
  std::map<std::string, gguf_value, std::less<>> metadata;
  tensor_map tensors; ///< by the file's own names; shapes as [rows, columns], the reverse of the file's order

  const gguf_value* find(std::string_view key) const;
};

/// Reads the header of one whole file. Every fault is appended to `faults` (at most 32, and one line that counts the
/// others), naming `source` and the key or tensor: another magic or version, a big-endian file, a header that ends
/// early, a key or tensor that occurs twice, an unknown value type, lists nested more than 4 deep, an alignment that is
/// none, a tensor of a type that this engine does not decode, of more than 4 dimensions, with rows that are not whole
/// blocks, outside the file or overlapping another. Takes memory in proportion to what the file holds, whatever its
/// counts say. With faults, the tensors that could be understood are returned all the same, each inside `file`.
gguf_content parse_gguf(std::span<const std::byte> file, const std::string& source, std::vector<std::string>& faults);

/// A file that has been mapped and understood. Moving it keeps the views.
struct gguf_file {
  mapped_file file;
  gguf_content content;
};

/// Maps and parses; blocks on the disk, reads the header only. errc::reject with the faults, one a line.
result<gguf_file> open_gguf(const std::string& path);

/// The GGUF file that a model's name stands for: itself when it is a regular file, or the only one (*.gguf) in a
/// directory that holds no model.safetensors. Nothing when the name stands for Hugging Face's files,
/// or for nothing at all. errc::reject when a directory holds several.
result<std::optional<std::string>> gguf_path_of(const std::string& model);

} // namespace hflex::gpu
