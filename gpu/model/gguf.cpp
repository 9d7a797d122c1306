#include "gpu/model/gguf.hpp"
#include "gpu/model/json_file.hpp"
#include <algorithm>
#include <cstring>
#include <filesystem>

namespace hflex::gpu {
namespace {

constexpr std::size_t max_key_bytes = 65535; // the format's own bound
constexpr std::size_t max_name_bytes = 256;  // four times the format's bound for tensor names
constexpr std::uint32_t max_dimensions = 4;
constexpr unsigned max_nesting = 4;
constexpr std::uint64_t default_alignment = 32;
constexpr std::uint64_t max_alignment = 1U << 20U;

/// ggml's type codes; those without a name are retired or of no use in files.
constexpr std::array<std::string_view, 40> ggml_names{"F32", "F16", "Q4_0", "Q4_1", "", "", "Q5_0", "Q5_1", "Q8_0",
    "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S",
    "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16", "", "", "", "TQ1_0", "TQ2_0", "", "", "",
    "MXFP4"};

std::string_view ggml_name(std::uint32_t code) { return code < ggml_names.size() ? ggml_names[code] : ""; }

std::optional<dtype> dtype_of(std::uint32_t code) {
  for (const auto t : all_dtypes) {
    if (to_string(t) == ggml_name(code)) return t;
  }
  return std::nullopt;
}

/// Bytes of a value of this type; 0 for strings and lists, which say their own length, and for types that are none.
std::size_t fixed_bytes(gguf_type type) {
  switch (type) {
  case gguf_type::u8:
  case gguf_type::i8:
  case gguf_type::boolean:
    return 1;
  case gguf_type::u16:
  case gguf_type::i16:
    return 2;
  case gguf_type::u32:
  case gguf_type::i32:
  case gguf_type::f32:
    return 4;
  case gguf_type::u64:
  case gguf_type::i64:
  case gguf_type::f64:
    return 8;
  case gguf_type::string:
  case gguf_type::array:
    break;
  }
  return 0;
}

template <class T>
T load_number(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

/// A value of fixed size; `at` holds as many bytes as its type takes.
gguf_value load_fixed(gguf_type type, const std::byte* at) {
  switch (type) {
  case gguf_type::u8:
    return std::uint64_t{load_number<std::uint8_t>(at)};
  case gguf_type::i8:
    return std::int64_t{load_number<std::int8_t>(at)};
  case gguf_type::u16:
    return std::uint64_t{load_number<std::uint16_t>(at)};
  case gguf_type::i16:
    return std::int64_t{load_number<std::int16_t>(at)};
  case gguf_type::u32:
    return std::uint64_t{load_number<std::uint32_t>(at)};
  case gguf_type::i32:
    return std::int64_t{load_number<std::int32_t>(at)};
  case gguf_type::f32:
    return double{load_number<float>(at)};
  case gguf_type::boolean:
    return load_number<std::uint8_t>(at) != 0;
  case gguf_type::u64:
    return load_number<std::uint64_t>(at);
  case gguf_type::i64:
    return load_number<std::int64_t>(at);
  default:
    return load_number<double>(at);
  }
}

/// Walks over bytes. Every method answers with nothing when they end too early, and then stays where it was.
class cursor {
public:
  explicit cursor(std::span<const std::byte> bytes) : rest_(bytes), all_(bytes.size()) {}
  std::size_t position() const { return all_ - rest_.size(); }
  std::span<const std::byte> rest() const { return rest_; }

  std::optional<std::span<const std::byte>> take(std::uint64_t bytes) {
    if (bytes > rest_.size()) return std::nullopt;
    const auto taken = rest_.first(bytes);
    rest_ = rest_.subspan(bytes);
    return taken;
  }
  template <class T>
  std::optional<T> number() {
    const auto bytes = take(sizeof(T));
    return bytes ? std::optional(load_number<T>(bytes->data())) : std::nullopt;
  }
  std::optional<std::string_view> string() {
    const auto before = rest_;
    const auto length = number<std::uint64_t>();
    const auto bytes = length ? take(*length) : std::nullopt;
    if (bytes) return std::string_view(reinterpret_cast<const char*>(bytes->data()), bytes->size());
    rest_ = before;
    return std::nullopt;
  }

private:
  std::span<const std::byte> rest_;
  std::size_t all_;
};

/// A tensor as the header lists it.
struct listed_tensor {
  std::string name;
  std::vector<std::uint64_t> shape; ///< [rows, columns]
  std::uint32_t type{};
  std::uint64_t offset{}; ///< from the start of the data
};

class file_parser {
public:
  file_parser(std::span<const std::byte> file, const std::string& source, std::vector<std::string>& faults)
      : file_(file), in_(file), faults_(source, faults) {}

  gguf_content run() {
    if (read_preamble() && read_metadata() && read_tensor_list()) place_tensors();
    return std::move(out_);
  }

private:
  bool fault(const std::string& what) {
    faults_.add(what);
    return false;
  }
  bool ends_early(const std::string& where) {
    return fault(fmt::format("{}: the file ends inside it ({} bytes): truncated or damaged", where, file_.size()));
  }

  bool read_preamble() {
    const auto magic = in_.take(4);
    if (!magic || std::memcmp(magic->data(), "GGUF", 4) != 0) return fault("is not a GGUF file: it begins otherwise");
    const auto version = in_.number<std::uint32_t>();
    const auto tensors = in_.number<std::uint64_t>();
    const auto keys = in_.number<std::uint64_t>();
    if (!version || !tensors || !keys) return ends_early("header");
    if (*version != 2 && *version != 3) {
      const bool swapped = (*version & 0xffffU) == 0;
      return fault(swapped ? "is a big-endian GGUF file; only little-endian ones are supported"
                           : fmt::format("GGUF version {} is not supported; 2 and 3 are", *version));
    }
    tensor_count_ = *tensors;
    key_count_ = *keys;
    return true;
  }

  bool read_metadata() {
    for (std::uint64_t i = 0; i < key_count_; ++i) {
      const auto key = in_.string();
      const auto type = in_.number<std::uint32_t>();
      if (!key || !type) return ends_early(fmt::format("metadata key {} of {}", i, key_count_));
      if (key->empty() || key->size() > max_key_bytes) {
        return fault(
            fmt::format("metadata key {}: a name of {} bytes; 1 to {} are expected", i, key->size(), max_key_bytes));
      }
      std::string why;
      auto value = read_value(static_cast<gguf_type>(*type), max_nesting, why);
      if (!value) return fault(fmt::format("key {}: {}", printable(*key), why));
      if (!out_.metadata.emplace(*key, std::move(*value)).second) fault(fmt::format("key {}: twice", printable(*key)));
    }
    return true;
  }

  /// What is wrong goes to `why`. `nesting`: how many more levels of lists there may be.
  std::optional<gguf_value> read_value(gguf_type type, unsigned nesting, std::string& why) {
    why = "the file ends inside its value: truncated or damaged";
    if (type == gguf_type::array) return read_array(nesting, why);
    if (type == gguf_type::string) {
      const auto text = in_.string();
      return text ? std::optional<gguf_value>(*text) : std::nullopt;
    }
    if (fixed_bytes(type) == 0) {
      why = fmt::format("value type {} is unknown", static_cast<std::uint32_t>(type));
      return std::nullopt;
    }
    const auto bytes = in_.take(fixed_bytes(type));
    return bytes ? std::optional<gguf_value>(load_fixed(type, bytes->data())) : std::nullopt;
  }

  std::optional<gguf_value> read_array(unsigned nesting, std::string& why) {
    const auto code = in_.number<std::uint32_t>();
    const auto count = in_.number<std::uint64_t>();
    if (!code || !count) return std::nullopt;
    const auto element = static_cast<gguf_type>(*code);
    const auto begin = in_.rest();
    if (const auto each = fixed_bytes(element); each != 0) {
      if (*count > begin.size() / each) {
        why = fmt::format("a list of {} values does not fit into the {} bytes that follow", *count, begin.size());
        return std::nullopt;
      }
      return gguf_array{element, *count, *in_.take(*count * each)};
    }
    if (nesting == 0) {
      why = fmt::format("lists nested more than {} deep", max_nesting);
      return std::nullopt;
    }
    // Each element takes at least 8 bytes, so the loop ends with the file at the latest.
    for (std::uint64_t i = 0; i < *count; ++i) {
      if (!read_value(element, nesting - 1, why)) return std::nullopt;
    }
    return gguf_array{element, *count, begin.first(begin.size() - in_.rest().size())};
  }

  bool read_tensor_list() {
    for (std::uint64_t i = 0; i < tensor_count_; ++i) {
      listed_tensor t;
      const auto name = in_.string();
      const auto dimensions = in_.number<std::uint32_t>();
      if (!name || !dimensions) return ends_early(fmt::format("tensor {} of {}", i, tensor_count_));
      if (name->empty() || name->size() > max_name_bytes) {
        return fault(
            fmt::format("tensor {}: a name of {} bytes; 1 to {} are expected", i, name->size(), max_name_bytes));
      }
      t.name = *name;
      if (*dimensions > max_dimensions) {
        return fault(fmt::format(
            "tensor {}: {} dimensions; at most {} are expected", printable(t.name), *dimensions, max_dimensions));
      }
      const auto sizes = in_.take(std::uint64_t{*dimensions} * 8);
      const auto type = in_.number<std::uint32_t>();
      const auto offset = in_.number<std::uint64_t>();
      if (!sizes || !type || !offset) return ends_early("tensor " + printable(t.name));
      for (std::uint32_t d = *dimensions; d-- > 0;)
        t.shape.push_back(load_number<std::uint64_t>(sizes->data() + d * 8));
      t.type = *type;
      t.offset = *offset;
      list_.push_back(std::move(t));
    }
    return true;
  }

  std::optional<std::uint64_t> alignment() {
    const auto* value = out_.find("general.alignment");
    if (value == nullptr) return default_alignment;
    const auto n = natural_of(value);
    if (n && *n >= 8 && *n <= max_alignment && (*n & (*n - 1)) == 0) return *n;
    fault(fmt::format(
        "general.alignment: expected a power of two from 8 to {}, found {}", max_alignment, described(*value)));
    return std::nullopt;
  }

  void place_tensors() {
    const auto align = alignment();
    if (!align) return;
    const auto begin = (in_.position() + *align - 1) / *align * *align;
    const auto data = file_.subspan(std::min<std::size_t>(begin, file_.size()));
    for (auto& t : list_) {
      if (const auto why = place(t, *align, data); !why.empty()) {
        fault(fmt::format("tensor {}: {}", printable(t.name), why));
      }
    }
    check_overlap();
  }

  /// What keeps the tensor from being used, or nothing.
  std::string place(listed_tensor& t, std::uint64_t align, std::span<const std::byte> data) {
    const auto type = dtype_of(t.type);
    if (!type) {
      const auto name = ggml_name(t.type);
      return fmt::format("type {} is not supported; supported: {}",
          name.empty() ? fmt::format("{}", t.type) : fmt::format("{} ({})", name, t.type), supported_types());
    }
    const auto bytes = tensor_bytes(*type, t.shape);
    if (!bytes) {
      return fmt::format("shape [{}] is too large, or its rows are not whole blocks of {} {} elements",
          fmt::join(t.shape, ", "), elements_of(*type), to_string(*type));
    }
    if (t.offset % align != 0) return fmt::format("offset {} is not a multiple of the alignment {}", t.offset, align);
    if (*bytes > data.size() || t.offset > data.size() - *bytes) {
      return fmt::format("its {} bytes at offset {} are not inside the {} bytes of data: truncated or damaged", *bytes,
          t.offset, data.size());
    }
    auto view = tensor_view{*type, std::move(t.shape), data.subspan(t.offset, *bytes)};
    return out_.tensors.emplace(t.name, std::move(view)).second ? "" : "is listed twice";
  }

  static std::string supported_types() {
    std::vector<std::string_view> names;
    for (const auto t : all_dtypes) names.push_back(to_string(t));
    return fmt::format("{}", fmt::join(names, ", "));
  }

  void check_overlap() {
    std::vector<const tensor_map::value_type*> order;
    for (const auto& item : out_.tensors) order.push_back(&item);
    std::sort(order.begin(), order.end(),
        [](const auto* a, const auto* b) { return a->second.data.data() < b->second.data.data(); });
    const std::byte* covered = nullptr;
    for (const auto* item : order) {
      const auto& data = item->second.data;
      if (covered != nullptr && data.data() < covered) {
        fault(fmt::format("tensor {} overlaps another tensor", printable(item->first)));
      }
      covered = std::max(covered, data.data() + data.size());
    }
  }

  std::span<const std::byte> file_;
  cursor in_;
  fault_list faults_;
  std::uint64_t tensor_count_{};
  std::uint64_t key_count_{};
  std::vector<listed_tensor> list_;
  gguf_content out_;
};

} // namespace

std::string described(const gguf_value& value) {
  if (const auto* text = std::get_if<std::string_view>(&value)) return "the string " + printable(*text);
  if (const auto* list = std::get_if<gguf_array>(&value)) return fmt::format("a list of {}", list->count);
  if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  if (const auto* n = std::get_if<std::uint64_t>(&value)) return fmt::format("{}", *n);
  if (const auto* n = std::get_if<std::int64_t>(&value)) return fmt::format("{}", *n);
  return fmt::format("{}", std::get<double>(value));
}

std::optional<std::string_view> text_of(const gguf_value* value) {
  const auto* text = value != nullptr ? std::get_if<std::string_view>(value) : nullptr;
  return text != nullptr ? std::optional(*text) : std::nullopt;
}

std::optional<std::uint64_t> natural_of(const gguf_value* value) {
  if (value == nullptr) return std::nullopt;
  if (const auto* n = std::get_if<std::uint64_t>(value)) return *n;
  const auto* n = std::get_if<std::int64_t>(value);
  return n != nullptr && *n >= 0 ? std::optional(static_cast<std::uint64_t>(*n)) : std::nullopt;
}

std::optional<std::vector<std::string_view>> strings_of(const gguf_value& value) {
  const auto* list = std::get_if<gguf_array>(&value);
  if (list == nullptr || list->element != gguf_type::string) return std::nullopt;
  std::vector<std::string_view> out;
  out.reserve(list->count); // the parser has found each of them
  for (cursor in(list->data); out.size() < list->count;) out.push_back(in.string().value_or(std::string_view()));
  return out;
}

std::optional<std::vector<std::int64_t>> integers_of(const gguf_value& value) {
  const auto* list = std::get_if<gguf_array>(&value);
  if (list == nullptr || list->element > gguf_type::i32) return std::nullopt;
  std::vector<std::int64_t> out;
  out.reserve(list->count);
  const auto each = fixed_bytes(list->element);
  for (std::uint64_t i = 0; i < list->count; ++i) {
    const auto item = load_fixed(list->element, list->data.data() + i * each);
    const auto* natural = std::get_if<std::uint64_t>(&item);
    out.push_back(natural != nullptr ? static_cast<std::int64_t>(*natural) : std::get<std::int64_t>(item));
  }
  return out;
}

std::optional<std::vector<float>> reals_of(const gguf_value& value) {
  const auto* list = std::get_if<gguf_array>(&value);
  if (list == nullptr || list->element != gguf_type::f32) return std::nullopt;
  std::vector<float> out(list->count);
  if (!out.empty()) std::memcpy(out.data(), list->data.data(), out.size() * sizeof(float));
  return out;
}

const gguf_value* gguf_content::find(std::string_view key) const {
  const auto at = metadata.find(key);
  return at == metadata.end() ? nullptr : &at->second;
}

gguf_content parse_gguf(std::span<const std::byte> file, const std::string& source, std::vector<std::string>& faults) {
  return file_parser(file, source, faults).run();
}

result<gguf_file> open_gguf(const std::string& path) {
  auto file = mapped_file::open(path);
  if (!file) return pass(std::move(file.error()));
  std::vector<std::string> faults;
  auto content = parse_gguf(file->bytes(), path, faults);
  if (!faults.empty()) return fail(errc::reject, "{}", fmt::join(faults, "\n"));
  return gguf_file{std::move(*file), std::move(content)};
}

result<std::optional<std::string>> gguf_path_of(const std::string& model) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (fs::is_regular_file(model, ignored)) return model;
  for (const auto* name : {"model.safetensors", "model.safetensors.index.json"}) {
    if (fs::exists(model + "/" + name, ignored)) return std::nullopt;
  }
  std::vector<std::string> found;
  for (fs::directory_iterator at(model, ignored), end; at != end; at.increment(ignored)) {
    if (at->path().extension() == ".gguf" && at->is_regular_file(ignored)) {
      found.push_back(at->path().filename().string());
    }
  }
  if (found.empty()) return std::nullopt;
  if (found.size() == 1) return model + "/" + found.front();
  std::sort(found.begin(), found.end());
  return fail(errc::reject, "{}: holds {} GGUF files; name the one that is meant: {}", model, found.size(),
      fmt::join(
          found.begin(), found.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(found.size(), 8)), ", "));
}

} // namespace hflex::gpu
