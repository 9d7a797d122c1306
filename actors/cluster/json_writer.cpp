#include "actors/cluster/json_writer.hpp"
#include "actors/common/check.hpp"
#include <cmath>
#include <fmt/format.h>
#include <iterator>
#include <utility>

namespace hflex::cluster {

std::size_t utf8_length(std::string_view text) {
  auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  auto tail = [&](std::size_t i) { return (byte(i) & 0xC0U) == 0x80U; };
  auto first = byte(0);
  if (text.empty()) return 0;
  if (first < 0x80U) return 1;
  if (first >= 0xC2U && first <= 0xDFU) return tail(1) ? 2 : 0;
  if ((first & 0xF0U) == 0xE0U) {
    if (first == 0xE0U && byte(1) < 0xA0U) return 0; // overlong
    if (first == 0xEDU && byte(1) > 0x9FU) return 0; // surrogate
    return tail(1) && tail(2) ? 3 : 0;
  }
  if (first >= 0xF0U && first <= 0xF4U) {
    if (first == 0xF0U && byte(1) < 0x90U) return 0; // overlong
    if (first == 0xF4U && byte(1) > 0x8FU) return 0; // beyond U+10FFFF
    return tail(1) && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

json_writer& json_writer::key(std::string_view name) {
  separate();
  quote(name);
  text_ += ':';
  follows_value_ = false;
  return *this;
}

json_writer& json_writer::value(std::string_view text) {
  separate();
  quote(text);
  return *this;
}

json_writer& json_writer::value(std::uint64_t number) {
  separate();
  text_ += std::to_string(number);
  return *this;
}

json_writer& json_writer::value(double number) {
  if (!std::isfinite(number)) return null();
  separate();
  fmt::format_to(std::back_inserter(text_), "{}", number);
  return *this;
}

json_writer& json_writer::null() {
  separate();
  text_ += "null";
  return *this;
}

std::string json_writer::take() {
  HFLEX_CHECK(depth_ == 0);
  follows_value_ = false;
  return std::exchange(text_, {});
}

json_writer& json_writer::open(char bracket) {
  separate();
  text_ += bracket;
  ++depth_;
  follows_value_ = false;
  return *this;
}

json_writer& json_writer::close(char bracket) {
  HFLEX_CHECK(depth_ > 0);
  --depth_;
  text_ += bracket;
  follows_value_ = true;
  return *this;
}

void json_writer::separate() {
  if (follows_value_) text_ += ',';
  follows_value_ = true;
}

void json_writer::quote(std::string_view text) {
  text_ += '"';
  while (!text.empty()) {
    auto length = utf8_length(text);
    auto c = text.front();
    if (length == 0)
      text_ += "\\ufffd";
    else if (c == '"' || c == '\\')
      (text_ += '\\') += c;
    else if (static_cast<unsigned char>(c) < 0x20U || c == 0x7F)
      fmt::format_to(std::back_inserter(text_), "\\u{:04x}", static_cast<unsigned>(c));
    else
      text_ += text.substr(0, length);
    text.remove_prefix(length == 0 ? 1 : length);
  }
  text_ += '"';
}

} // namespace hflex::cluster
