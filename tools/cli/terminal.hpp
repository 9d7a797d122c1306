// What an output stream can show: decided once per stream, passed to everything that prints. Colours and redrawn lines
// only where a person looks at a terminal.
#pragma once
#include <string>
#include <string_view>

namespace hflex::cli {

struct terminal {
  bool is_terminal{false};
  bool colours{false};
  unsigned width{0}; ///< columns; 0 = unknown or unlimited
};

/// Asks the system about a file descriptor. Colours need a terminal, no NO_COLOR in the environment (any value but the
/// empty one) and a TERM other than "dumb".
terminal detect_terminal(int descriptor);

/// True when the pipe behind a descriptor has lost its reader: what is still written there is lost.
bool reader_gone(int descriptor);

enum class style : unsigned char { plain, bold, dim, red, green, yellow, cyan };

/// `text` in a style, or as it is where there are no colours.
std::string paint(std::string_view text, style s, const terminal& on);

/// Columns that UTF-8 text takes: wide letters two, combining ones none. A byte that is no UTF-8 takes one.
std::size_t display_width(std::string_view text);

/// Text of a stranger made safe to print on one line: control characters (escape sequences, newlines) and bytes that
/// are no UTF-8 become '?'.
std::string one_line(std::string_view text);

/// The longest beginning that fits into `columns`, with "…" at its end when something was cut.
std::string shorten(std::string_view text, std::size_t columns);

} // namespace hflex::cli
