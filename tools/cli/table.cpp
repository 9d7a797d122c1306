#include "tools/cli/table.hpp"
#include "actors/common/check.hpp"
#include <algorithm>
#include <numeric>

namespace hflex::cli {

namespace {

constexpr std::size_t gap = 2;          ///< blanks between columns
constexpr std::size_t least_shrunk = 8; ///< columns that a cut cell keeps, however narrow the terminal is

} // namespace

table::table(std::vector<column> columns) : columns_(std::move(columns)) { HFLEX_CHECK(!columns_.empty()); }

void table::add(std::vector<cell> row) {
  HFLEX_CHECK(row.size() == columns_.size());
  for (cell& c : row) c.text = one_line(c.text);
  rows_.push_back(std::move(row));
}

std::vector<std::size_t> table::widths(const terminal& on) const {
  std::vector<std::size_t> widest;
  for (const column& c : columns_) widest.push_back(display_width(c.header));
  for (const auto& row : rows_)
    for (std::size_t i = 0; i < row.size(); ++i) widest[i] = std::max(widest[i], display_width(row[i].text));
  const auto shrinks = std::find_if(columns_.begin(), columns_.end(), [](const column& c) { return c.may_shrink; });
  if (on.width == 0 || shrinks == columns_.end()) return widest;
  const std::size_t all = std::accumulate(widest.begin(), widest.end(), gap * (columns_.size() - 1));
  std::size_t& shrunk = widest[static_cast<std::size_t>(shrinks - columns_.begin())];
  const std::size_t excess = all > on.width ? all - on.width : 0;
  shrunk = std::max(std::min(shrunk, least_shrunk), shrunk - std::min(shrunk, excess));
  return widest;
}

std::string table::render(const terminal& on) const {
  const std::vector<std::size_t> width = widths(on);
  std::string out;
  const auto line = [&](const auto& cell_of) {
    std::string text;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      const cell c = cell_of(i);
      const std::string shown = shorten(c.text, width[i]);
      const std::string blanks(width[i] - display_width(shown), ' ');
      const bool right = columns_[i].side == align::right;
      text += (i > 0 ? std::string(gap, ' ') : "") + (right ? blanks : "") + paint(shown, c.look, on) +
              (right ? "" : blanks);
    }
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + "\n";
  };
  line([&](std::size_t i) { return cell{columns_[i].header, style::bold}; });
  for (const auto& row : rows_) line([&](std::size_t i) { return row[i]; });
  return out;
}

} // namespace hflex::cli
