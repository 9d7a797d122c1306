// Lines, cells and numbers of tables that strangers wrote: plain or gzip, read piece by piece within bounds. Used by
// the readers of traces, rate curves and lengths. Knows no columns.
#pragma once
#include "actors/common/result.hpp"
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::sim {

struct line_limits {
  std::uint64_t max_bytes{std::uint64_t{8} << 30U}; ///< after decompression
  std::size_t max_line_bytes{std::size_t{1} << 20U};
  /// A gzip file may unfold to this many times its size (real traces: 3 to 20), beyond a first 16 MiB.
  std::uint64_t max_expansion{200};
};

/// One line, without its end; `number` counts from 1. An error ends the reading.
using line_taker = std::function<result<void>(std::uint64_t number, std::string_view line)>;

/// Reads a file, gzip or not. Lines of blanks only are left out. errc::reject names the file and the line: none such,
/// damaged or cut off gzip data, over a limit. Blocks on the disk.
result<void> for_each_line(const std::string& file, const line_limits& limits, const line_taker& take);
/// The same for a text; `name` stands for the file in messages.
result<void> for_each_line_of(
    std::string_view text, const std::string& name, const line_limits& limits, const line_taker& take);

/// The cells of one line, as views into it. A cell in double quotes may hold commas; its quotes are taken off, doubled
/// ones inside stay doubled.
void split_cells(std::string_view line, std::vector<std::string_view>& cells);

/// Without the blanks at both ends.
std::string_view trimmed(std::string_view text);

/// The whole of `text` as a finite number; nothing otherwise.
std::optional<double> to_real(std::string_view text);
/// As a whole number >= 0 below 2^64; "374.0" counts as one.
std::optional<std::uint64_t> to_whole(std::string_view text);

/// The index of column `name` in a header.
std::optional<std::size_t> column_of(const std::vector<std::string_view>& header, std::string_view name);

} // namespace hflex::sim
