#include "gpu/model/safetensors.hpp"
#include "gpu/model/json_file.hpp"
#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>
#include <utility>

namespace hflex::gpu {
namespace {

using nlohmann::json;

constexpr std::uint64_t max_header_bytes = 100'000'000; // the bound of the format's own reader
constexpr std::uint64_t max_index_bytes = 64U << 20U;
constexpr std::size_t max_shape = 8;
constexpr std::size_t max_shards = 4096;

std::uint64_t read_little_endian(std::span<const std::byte> bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = 8; i-- > 0;) value = value << 8U | std::to_integer<std::uint64_t>(bytes[i]);
  return value;
}

std::optional<dtype> parse_dtype(const json& value) {
  for (const auto t : {dtype::f32, dtype::f16, dtype::bf16}) {
    if (value == to_string(t)) return t;
  }
  return std::nullopt;
}

/// The list as whole numbers, or nothing when it is not a list of them or longer than `max`.
std::optional<std::vector<std::uint64_t>> parse_numbers(const json& list, std::size_t max) {
  if (!list.is_array() || list.size() > max) return std::nullopt;
  std::vector<std::uint64_t> numbers;
  for (const auto& item : list) {
    if (!item.is_number_unsigned()) return std::nullopt;
    numbers.push_back(item.get<std::uint64_t>());
  }
  return numbers;
}

/// One entry of the header; `data` is what follows the header in the file. What is wrong goes to `why`; where that is
/// that the file is too short, `needs` becomes the bytes of data that there should be.
std::optional<tensor_view> parse_tensor(
    const json& entry, std::span<const std::byte> data, std::string& why, std::uint64_t& needs) {
  const auto refuse = [&](std::string what) {
    why = std::move(what);
    return std::nullopt;
  };
  if (!entry.is_object()) return refuse("expected an object, found " + described(entry));
  for (const auto* key : {"dtype", "shape", "data_offsets"}) {
    if (!entry.contains(key)) return refuse(fmt::format("has no {}", key));
  }
  const auto type = parse_dtype(entry["dtype"]);
  if (!type)
    return refuse(fmt::format("dtype: expected \"F32\", \"F16\" or \"BF16\", found {}", described(entry["dtype"])));
  auto shape = parse_numbers(entry["shape"], max_shape);
  if (!shape) return refuse(fmt::format("shape: expected a list of at most {} whole numbers", max_shape));
  const auto range = parse_numbers(entry["data_offsets"], 2);
  if (!range || range->size() != 2) return refuse("data_offsets: expected a list of two whole numbers");
  const auto [begin, end] = std::pair{range->front(), range->back()};
  if (begin > end || end > data.size()) {
    if (begin <= end) needs = end;
    return refuse(fmt::format("data_offsets [{}, {}] are not inside the {} bytes of data", begin, end, data.size()));
  }
  if (tensor_bytes(*type, *shape) != end - begin) {
    return refuse(fmt::format("{} of shape [{}] does not take the {} bytes that data_offsets give it", to_string(*type),
        fmt::join(*shape, ", "), end - begin));
  }
  return tensor_view{*type, std::move(*shape), data.subspan(begin, end - begin)};
}

/// The format wants every byte of the data in exactly one tensor: an overlap or a hole is a damaged or doctored file.
void check_coverage(const tensor_map& tensors, std::span<const std::byte> data, fault_list& faults) {
  std::vector<const tensor_map::value_type*> order;
  for (const auto& item : tensors) order.push_back(&item);
  const auto begin = [&](const auto* item) { return static_cast<std::size_t>(item->second.data.data() - data.data()); };
  std::stable_sort(order.begin(), order.end(), [&](const auto* a, const auto* b) {
    return std::pair{begin(a), a->second.data.size()} < std::pair{begin(b), b->second.data.size()};
  });
  std::size_t covered = 0;
  for (const auto* item : order) {
    if (begin(item) < covered) faults.add(fmt::format("tensor {} overlaps another tensor", printable(item->first)));
    if (begin(item) > covered) {
      faults.add(fmt::format(
          "tensor {}: {} bytes before it belong to no tensor", printable(item->first), begin(item) - covered));
    }
    covered = std::max(covered, begin(item) + item->second.data.size());
  }
  if (covered != data.size()) {
    faults.add(fmt::format("{} bytes after the last tensor belong to no tensor", data.size() - covered));
  }
}

void check_metadata(const json& metadata, fault_list& faults) {
  bool good = metadata.is_object();
  for (const auto& value : metadata) good = good && value.is_string();
  if (!good) faults.add("__metadata__: expected an object of strings");
}

/// File name of each tensor's shard by model.safetensors.index.json; empty after a fault.
std::map<std::string, std::string> read_index(const std::string& path, std::vector<std::string>& faults) {
  const auto document = load_json(path, max_index_bytes);
  if (!document) return faults.push_back(document.error().message), std::map<std::string, std::string>{};
  std::map<std::string, std::string> shards;
  fault_list list(path, faults);
  if (!document->is_object() || !document->contains("weight_map") || !(*document)["weight_map"].is_object()) {
    list.add("expected an object with weight_map, an object of tensor names and file names");
    return shards;
  }
  for (const auto& [tensor, file] : (*document)["weight_map"].items()) {
    // A plain name only: an index must not make us map files outside the model's directory.
    const auto* name = file.get_ptr<const std::string*>();
    if (!name || name->find('/') != name->npos || name->find('\0') != name->npos || !name->ends_with(".safetensors")) {
      list.add(fmt::format("weight_map: {}: expected the name of a .safetensors file here, found {}", printable(tensor),
          described(file)));
    } else {
      shards.emplace(tensor, *name);
    }
  }
  return shards;
}

/// Maps one file and adds its tensors; those that another file has already are faults.
void add_file(const std::string& path, tensor_files& out, std::vector<std::string>& faults) {
  auto file = mapped_file::open(path);
  if (!file) return faults.push_back(file.error().message);
  auto tensors = parse_safetensors(file->bytes(), path, faults);
  out.files.push_back(std::move(*file));
  out.tensors.merge(tensors);
  fault_list list(path, faults);
  for (const auto& item : tensors) list.add(fmt::format("tensor {} is in another shard too", printable(item.first)));
}

void check_shard_contents(const std::string& dir, const std::map<std::string, std::string>& shards,
    const tensor_files& opened, std::vector<std::string>& faults) {
  const auto index = dir + "/model.safetensors.index.json";
  fault_list list(index, faults);
  for (const auto& [tensor, name] : shards) {
    const auto path = dir + "/" + name;
    const auto file =
        std::find_if(opened.files.begin(), opened.files.end(), [&](const auto& f) { return f.path() == path; });
    if (file == opened.files.end()) continue; // said already
    const auto found = opened.tensors.find(tensor);
    const auto* begin = file->bytes().data();
    if (found == opened.tensors.end() || found->second.data.data() < begin ||
        found->second.data.data() > begin + file->bytes().size()) {
      list.add(fmt::format("weight_map: {} does not hold tensor {}", printable(name), printable(tensor)));
    }
  }
}

} // namespace

tensor_map parse_safetensors(
    std::span<const std::byte> file, const std::string& source, std::vector<std::string>& faults) {
  fault_list list(source, faults);
  constexpr std::size_t prefix = 8;
  tensor_map tensors;
  if (file.size() < prefix) {
    list.add(fmt::format("{} bytes are too short for a safetensors file", file.size()));
    return tensors;
  }
  const auto header_bytes = read_little_endian(file);
  if (header_bytes > max_header_bytes || header_bytes > file.size() - prefix) {
    list.add(fmt::format("header of {} bytes in a file of {} (at most {}): truncated, or not a safetensors file",
        header_bytes, file.size(), max_header_bytes));
    return tensors;
  }
  const auto* text = reinterpret_cast<const char*>(file.data() + prefix);
  const auto header = parse_json({text, header_bytes}, "header", 8);
  if (!header || !header->is_object()) {
    list.add(header ? "header: expected an object, found " + described(*header) : header.error().message);
    return tensors;
  }
  const auto data = file.subspan(prefix + header_bytes);
  bool all_understood = true;
  // Tensors that end beyond the end of the file are one fault, as an incomplete copy is.
  std::string first_beyond;
  std::size_t beyond = 0;
  std::uint64_t needed = 0;
  for (const auto& [name, entry] : header->items()) {
    if (name == "__metadata__") {
      check_metadata(entry, list);
      continue;
    }
    std::string why;
    std::uint64_t needs = 0;
    auto tensor = parse_tensor(entry, data, why, needs);
    if (tensor) {
      tensors.emplace(name, std::move(*tensor));
      continue;
    }
    all_understood = false;
    const auto fault = fmt::format("tensor {}: {}", printable(name), why);
    if (needs == 0)
      list.add(fault);
    else if (beyond++ == 0)
      first_beyond = fault;
    needed = std::max(needed, needs);
  }
  if (beyond > 0)
    list.add(
        fmt::format("{}; {} in all end beyond the end of the file, which lacks {} bytes: truncated, or an incomplete "
                    "copy or download",
            first_beyond, beyond, needed - data.size()));
  if (all_understood) check_coverage(tensors, data, list);
  return tensors;
}

tensor_files open_tensor_files(const std::string& dir, std::vector<std::string>& faults) {
  namespace fs = std::filesystem;
  tensor_files out;
  std::error_code ignored;
  const auto single = dir + "/model.safetensors";
  const auto index = single + ".index.json";
  if (fs::exists(single, ignored) || !fs::exists(index, ignored)) {
    add_file(single, out, faults);
    return out;
  }
  const auto shards = read_index(index, faults);
  std::set<std::string> names;
  for (const auto& item : shards) names.insert(item.second);
  if (names.size() > max_shards) {
    faults.push_back(fmt::format("{}: {} shards; at most {} are expected", index, names.size(), max_shards));
    return out;
  }
  for (const auto& name : names) add_file(dir + "/" + name, out, faults);
  check_shard_contents(dir, shards, out, faults);
  return out;
}

} // namespace hflex::gpu
