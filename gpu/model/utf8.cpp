#include "gpu/model/utf8.hpp"
#include "actors/common/check.hpp"
#include <algorithm>
#include <utf8proc.h>
#include <vector>

namespace hflex::gpu {
namespace {

/// What may stand at one place of a character: table 3-7 of the Unicode standard.
struct lead {
  std::size_t bytes; ///< of the whole character; 0: no character begins so
  unsigned char second_min;
  unsigned char second_max;
};

lead classify(unsigned char first) {
  if (first < 0x80) return {1, 0, 0};
  if (first < 0xc2) return {0, 0, 0};
  if (first < 0xe0) return {2, 0x80, 0xbf};
  if (first == 0xe0) return {3, 0xa0, 0xbf}; // no over-long forms
  if (first == 0xed) return {3, 0x80, 0x9f}; // no surrogates
  if (first < 0xf0) return {3, 0x80, 0xbf};
  if (first == 0xf0) return {4, 0x90, 0xbf};
  if (first < 0xf4) return {4, 0x80, 0xbf};
  if (first == 0xf4) return {4, 0x80, 0x8f}; // nothing beyond U+10FFFF
  return {0, 0, 0};
}

/// Marks between two starters, in the order of their combining class. utf8proc's own ordering swaps neighbours, which
/// is quadratic in the length of a run: a prompt of a megabyte of marks would take minutes.
void order_marks(std::vector<utf8proc_int32_t>& text) {
  const auto rank = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  for (auto at = text.begin(); at != text.end();) {
    const auto begin = std::find_if(at, text.end(), [&](auto c) { return rank(c) != 0; });
    at = std::find_if(begin, text.end(), [&](auto c) { return rank(c) == 0; });
    std::stable_sort(begin, at, [&](auto a, auto b) { return rank(a) < rank(b); });
  }
}

} // namespace

utf8_step next_utf8(std::string_view text) {
  using kind = utf8_step::kind;
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto [length, second_min, second_max] = classify(byte(0));
  if (length == 0) return {kind::invalid, 1};
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {kind::incomplete, i};
    const auto min = i == 1 ? second_min : 0x80;
    const auto max = i == 1 ? second_max : 0xbf;
    if (byte(i) < min || byte(i) > max) return {kind::invalid, i};
  }
  return {kind::character, length};
}

std::string lossy_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const auto step = next_utf8(text);
    out += step.what == utf8_step::kind::character ? text.substr(0, step.bytes) : replacement_character;
    text.remove_prefix(step.bytes);
  }
  return out;
}

char32_t code_point(std::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  if (first < 0x80) return first;
  char32_t value = first & (0x7fU >> character.size());
  for (const unsigned char c : character.substr(1)) value = value << 6U | (c & 0x3fU);
  return value;
}

void append_utf8(std::string& out, char32_t code_point) {
  utf8proc_uint8_t bytes[4];
  const auto n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(n));
}

std::string compose_nfc(std::string_view text) {
  const auto ascii = [](unsigned char c) { return c < 0x80; };
  if (std::all_of(text.begin(), text.end(), ascii)) return std::string(text);

  constexpr auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  while (!text.empty()) {
    const auto step = next_utf8(text);
    HFLEX_CHECK(step.what == utf8_step::kind::character);
    utf8proc_int32_t parts[32]; // the longest canonical decomposition has 4
    int boundary = 0;
    const auto n = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(code_point(text.substr(0, step.bytes))), parts, 32, options, &boundary);
    HFLEX_CHECK(n >= 0 && n <= 32);
    points.insert(points.end(), parts, parts + n);
    text.remove_prefix(step.bytes);
  }
  order_marks(points);
  const auto composed = utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()), options);
  HFLEX_CHECK(composed >= 0);
  points.resize(static_cast<std::size_t>(composed));
  std::string out;
  for (const auto c : points) append_utf8(out, static_cast<char32_t>(c));
  return out;
}

} // namespace hflex::gpu
