#include "gpu/model/json_file.hpp"
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace hflex::gpu {
namespace {

using nlohmann::json;

/// Builds the document from the parser's events. nlohmann's own builder neither bounds the depth nor minds repeated
/// keys.
class document_builder {
public:
  explicit document_builder(std::size_t max_depth) : max_depth_(max_depth) {}

  bool null() { return place(nullptr); }
  bool boolean(bool v) { return place(v); }
  bool number_integer(json::number_integer_t v) { return place(v); }
  bool number_unsigned(json::number_unsigned_t v) { return place(v); }
  bool number_float(json::number_float_t v, const std::string&) { return place(v); }
  bool string(std::string& v) { return place(std::move(v)); }
  bool binary(json::binary_t&) { return refuse("binary value"); }
  bool start_object(std::size_t) { return enter(json::object()); }
  bool start_array(std::size_t) { return enter(json::array()); }
  bool end_object() { return leave(); }
  bool end_array() { return leave(); }
  bool key(std::string& v) {
    const auto [at, fresh] = open_.back()->get_ref<json::object_t&>().emplace(std::move(v), nullptr);
    slot_ = &at->second;
    return fresh || refuse("key " + printable(at->first) + " appears twice");
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) {
    // The text is "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error ...; last read:
    // '...'", and what was read last may be megabytes of somebody's bytes.
    std::string_view what = e.what();
    if (const auto bracket = what.find("] "); bracket != what.npos) what.remove_prefix(bracket + 2);
    if (const auto last = what.find("; last read"); last != what.npos) what = what.substr(0, last);
    if (const auto last = what.find(" - "); last != what.npos) what.remove_prefix(last + 3);
    return refuse("not valid JSON near byte " + std::to_string(position) + ": " + std::string(what.substr(0, 120)));
  }

  json document;
  std::string fault;

private:
  bool refuse(std::string why) {
    fault = std::move(why);
    return false;
  }
  template <class Value>
  bool place(Value&& v) {
    put(json(std::forward<Value>(v)));
    return true;
  }
  json* put(json v) {
    if (open_.empty()) return &(document = std::move(v));
    if (auto* list = open_.back()->get_ptr<json::array_t*>()) return &list->emplace_back(std::move(v));
    return &(*slot_ = std::move(v));
  }
  bool enter(json v) {
    if (open_.size() >= max_depth_) return refuse("nested deeper than " + std::to_string(max_depth_) + " levels");
    open_.push_back(put(std::move(v)));
    return true;
  }
  bool leave() {
    open_.pop_back();
    return true;
  }

  std::size_t max_depth_;
  std::vector<json*>
      open_;            ///< containers being filled; a parent never grows while its child is open, so these stay valid
  json* slot_{nullptr}; ///< where the value of the last key goes
};

struct file_closer {
  int fd;
  explicit file_closer(int f) : fd(f) {}
  ~file_closer() { ::close(fd); }
  file_closer(const file_closer&) = delete;
  file_closer& operator=(const file_closer&) = delete;
};

} // namespace

result<std::string> read_file(const std::string& path, std::uint64_t max_bytes) {
  // O_NONBLOCK: opening a FIFO that somebody put there must not hang; it has no effect on regular files.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return fail(errc::reject, "{}: cannot be opened: {}", path, std::strerror(errno));
  const file_closer closer(fd);
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) return fail(errc::reject, "{}: is not a regular file", path);
  const auto size = static_cast<std::uint64_t>(info.st_size);
  if (size > max_bytes) {
    return fail(errc::reject, "{}: {} bytes; at most {} are expected in such a file", path, size, max_bytes);
  }
  std::string text(size, '\0');
  std::size_t filled = 0;
  while (filled < text.size()) {
    const auto n = ::read(fd, text.data() + filled, text.size() - filled);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(errc::reject, "{}: cannot be read: {}", path, std::strerror(errno));
    if (n == 0) return fail(errc::reject, "{}: became shorter while it was read", path);
    filled += static_cast<std::size_t>(n);
  }
  return text;
}

result<json> parse_json(std::string_view text, std::string_view source, std::size_t max_depth) {
  document_builder builder(max_depth);
  if (!json::sax_parse(text, &builder)) return fail(errc::reject, "{}: {}", source, builder.fault);
  return std::move(builder.document);
}

result<json> load_json(const std::string& path, std::uint64_t max_bytes) {
  return read_file(path, max_bytes).and_then([&](const std::string& text) { return parse_json(text, path); });
}

std::string printable(std::string_view text) {
  constexpr std::size_t longest = 80;
  std::string out = "\"";
  for (const unsigned char c : text.substr(0, longest)) {
    if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
      out += static_cast<char>(c);
    } else {
      out += fmt::format("\\x{:02x}", c);
    }
  }
  return out + (text.size() > longest ? "...\"" : "\"");
}

std::string described(const json& value) {
  switch (value.type()) {
  case json::value_t::string:
    return "the string " + printable(value.get_ref<const std::string&>());
  case json::value_t::array:
    return fmt::format("a list of {}", value.size());
  case json::value_t::object:
    return fmt::format("an object of {}", value.size());
  default:
    return value.dump();
  }
}

} // namespace hflex::gpu
