#include "tools/cli/terminal.hpp"
#include <array>
#include <cstdlib>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utf8proc.h>

namespace hflex::cli {

namespace {

struct letter {
  std::size_t bytes{1};
  std::size_t columns{1};
  bool printable{false};
};

/// The letter at the head of `text`, which is not empty.
letter first_letter(std::string_view text) {
  utf8proc_int32_t code = 0;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  const auto taken = utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(text.size()), &code);
  if (taken <= 0) return {};
  const utf8proc_category_t category = utf8proc_category(code);
  // Bidirectional overrides and the like are "format" characters: they can make a line read as something else.
  const bool printable = category != UTF8PROC_CATEGORY_CC && category != UTF8PROC_CATEGORY_CF &&
                         category != UTF8PROC_CATEGORY_ZL && category != UTF8PROC_CATEGORY_ZP;
  const int columns = utf8proc_charwidth(code);
  return {static_cast<std::size_t>(taken), static_cast<std::size_t>(columns > 0 ? columns : 0), printable};
}

} // namespace

terminal detect_terminal(int descriptor) {
  terminal found;
  found.is_terminal = isatty(descriptor) == 1;
  if (!found.is_terminal) return found;
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  found.colours = (no_color == nullptr || *no_color == '\0') && term != nullptr && std::string_view{term} != "dumb";
  winsize size{};
  if (ioctl(descriptor, TIOCGWINSZ, &size) == 0) found.width = size.ws_col;
  return found;
}

bool reader_gone(int descriptor) {
  pollfd ask{descriptor, 0, 0};
  return ::poll(&ask, 1, 0) > 0 && (ask.revents & (POLLERR | POLLHUP)) != 0;
}

std::string paint(std::string_view text, style s, const terminal& on) {
  constexpr std::array<std::string_view, 7> codes{"", "1", "2", "31", "32", "33", "36"};
  if (!on.colours || s == style::plain || text.empty()) return std::string{text};
  std::string painted = "\x1b[";
  painted += codes[static_cast<std::size_t>(s)];
  painted += "m";
  painted += text;
  return painted + "\x1b[0m";
}

std::size_t display_width(std::string_view text) {
  std::size_t columns = 0;
  while (!text.empty()) {
    const letter l = first_letter(text);
    columns += l.columns;
    text.remove_prefix(l.bytes);
  }
  return columns;
}

std::string one_line(std::string_view text) {
  std::string safe;
  while (!text.empty()) {
    const letter l = first_letter(text);
    if (l.printable)
      safe += text.substr(0, l.bytes);
    else
      safe += '?';
    text.remove_prefix(l.bytes);
  }
  return safe;
}

std::string shorten(std::string_view text, std::size_t columns) {
  if (display_width(text) <= columns) return std::string{text};
  if (columns == 0) return {};
  std::string kept;
  std::size_t used = 1; // the ellipsis
  while (!text.empty()) {
    const letter l = first_letter(text);
    if (used + l.columns > columns) break;
    kept += text.substr(0, l.bytes);
    used += l.columns;
    text.remove_prefix(l.bytes);
  }
  return kept + "…";
}

} // namespace hflex::cli
