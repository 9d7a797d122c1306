// UTF-8 as tokenizers need it: text of unknown origin made valid, characters that arrive in parts, canonical
// composition.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace hflex::gpu {

/// The first character of a text, or the first part that is none.
struct utf8_step {
  enum class kind : std::uint8_t {
    character,  ///< `bytes` hold one code point
    invalid,    ///< `bytes` can not become one, whatever follows
    incomplete, ///< the text ends inside what may become one
  };
  kind what{};
  std::size_t bytes{}; ///< at least 1
};

/// Judges the start of `text` (not empty). What is invalid is the longest start of a character ("maximal subpart",
/// Unicode 15, section 3.9): the cut that Rust, Python and the web's decoders make too.
utf8_step next_utf8(std::string_view text);

/// The text itself when it is valid UTF-8, otherwise a copy with U+FFFD for each invalid or incomplete part.
std::string lossy_utf8(std::string_view text);

inline constexpr std::string_view replacement_character = "\xef\xbf\xbd"; // U+FFFD

/// The code point of a valid character.
char32_t code_point(std::string_view character);

void append_utf8(std::string& out, char32_t code_point);

/// Canonical composition (NFC) of valid UTF-8. O(n log n), also for long runs of combining marks.
std::string compose_nfc(std::string_view text);

} // namespace hflex::gpu
