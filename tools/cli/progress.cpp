#include "tools/cli/progress.hpp"
#include "tools/cli/units.hpp"
#include <algorithm>
#include <chrono>
#include <fmt/format.h>

namespace hflex::cli {

namespace {

constexpr duration redraw_every = std::chrono::milliseconds{100};
constexpr duration line_every = std::chrono::seconds{5};
constexpr std::string_view erase_line = "\r\x1b[K";

} // namespace

progress::progress(std::string_view what, const terminal& on, time_point start)
    : what_(one_line(what)), on_(on), start_(start) {}

std::string progress::update(std::uint64_t done, std::uint64_t total, std::string_view note, time_point now) {
  const duration silence = now - last_.value_or(start_);
  const bool first_on_terminal = on_.is_terminal && !last_;
  if (!first_on_terminal && silence < (on_.is_terminal ? redraw_every : line_every)) return {};
  last_ = now;
  std::string text = what_;
  if (total > 0) {
    const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
    text += fmt::format(" {:.0f} % ({}/{})", share * 100, done, total);
  } else {
    text += fmt::format(" {}", done);
  }
  text += fmt::format(", {}", human_duration(now - start_));
  if (!note.empty()) text += ", " + one_line(note);
  if (!on_.is_terminal) return text + "\n";
  line_open_ = true;
  // One column stays free: a full line would wrap, and the next redraw would leave it behind.
  return std::string{erase_line} + (on_.width > 1 ? shorten(text, on_.width - 1) : text);
}

std::string progress::finish(std::string_view result, time_point now) {
  const std::string start = line_open_ ? std::string{erase_line} : std::string{};
  line_open_ = false;
  return fmt::format("{}{} {} in {}\n", start, what_, one_line(result), human_duration(now - start_));
}

} // namespace hflex::cli
