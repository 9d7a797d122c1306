// Tables for people: aligned columns, a header, nothing else. Scripts get JSON instead.
#pragma once
#include "tools/cli/terminal.hpp"
#include <initializer_list>
#include <string>
#include <vector>

namespace hflex::cli {

enum class align : unsigned char { left, right };

struct column {
  std::string header;
  align side{align::left};
  bool may_shrink{false}; ///< cut to what the terminal has left; at most one column
};

struct cell {
  cell(std::string t, style s = style::plain) : text(std::move(t)), look(s) {} // NOLINT(google-explicit-constructor)
  cell(const char* t) : text(t) {}                                             // NOLINT(google-explicit-constructor)
  std::string text; ///< made safe for one line when the table is rendered
  style look{style::plain};
};

class table {
public:
  explicit table(std::vector<column> columns);
  /// One cell per column.
  void add(std::vector<cell> row);
  /// Lines with a newline each; no blanks at their ends. A table without rows is its header.
  std::string render(const terminal& on) const;

private:
  std::vector<std::size_t> widths(const terminal& on) const;

  std::vector<column> columns_;
  std::vector<std::vector<cell>> rows_;
};

} // namespace hflex::cli
