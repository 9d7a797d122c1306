// Writes one JSON document piece by piece: commas and escapes are its business, balance is the caller's (checked). For
// cores, which have no JSON library. Any byte string gives valid JSON: control characters are escaped, bytes that are
// not UTF-8 become U+FFFD.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace hflex::cluster {

class json_writer {
public:
  json_writer& begin_object() { return open('{'); }
  json_writer& end_object() { return close('}'); }
  json_writer& begin_array() { return open('['); }
  json_writer& end_array() { return close(']'); }
  json_writer& key(std::string_view name);
  json_writer& value(std::string_view text);
  json_writer& value(const char* text) { return value(std::string_view{text}); }
  json_writer& value(std::uint64_t number);
  json_writer& value(std::uint32_t number) { return value(std::uint64_t{number}); }
  /// null when it is no number: JSON has no infinities.
  json_writer& value(double number);
  json_writer& null();

  /// The finished document; everything opened must be closed.
  std::string take();

private:
  json_writer& open(char bracket);
  json_writer& close(char bracket);
  void separate();
  void quote(std::string_view text);

  std::string text_;
  std::size_t depth_{0};
  bool follows_value_{false}; ///< the next element needs a comma before it
};

/// Bytes of the UTF-8 character that `text` begins with; 0 when it begins with none (overlong forms and surrogates are
/// none).
std::size_t utf8_length(std::string_view text);

} // namespace hflex::cluster
