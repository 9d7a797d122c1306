#include "tools/sim/csv.hpp"
#include "config/fault.hpp"
#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <memory>
#include <zlib.h>

namespace hflex::sim {

namespace {

/// Cuts pieces of a file into lines.
class line_cutter {
public:
  line_cutter(const std::string& name, const line_limits& limits, const line_taker& take)
      : name_(name), limits_(limits), take_(take) {}

  result<void> piece(std::string_view bytes) {
    read_ += bytes.size();
    if (read_ > limits_.max_bytes)
      return fail(errc::reject, "{}: expected at most {} bytes, found more", name_, limits_.max_bytes);
    for (std::size_t end = bytes.find('\n'); end != bytes.npos; end = bytes.find('\n')) {
      const std::string_view rest = bytes.substr(0, end);
      bytes.remove_prefix(end + 1);
      if (auto ok = fits(rest.size()); !ok) return ok;
      if (!begun_.empty()) begun_ += rest;
      if (auto ok = line(begun_.empty() ? rest : begun_); !ok) return ok;
      begun_.clear();
    }
    if (auto ok = fits(bytes.size()); !ok) return ok;
    begun_ += bytes;
    return {};
  }

  result<void> end() { return begun_.empty() ? result<void>{} : line(begun_); }

private:
  result<void> fits(std::size_t more) const {
    if (begun_.size() + more <= limits_.max_line_bytes) return {};
    return fail(errc::reject, "{}:{}: expected lines of at most {} bytes, found a longer one", name_, lines_ + 1,
        limits_.max_line_bytes);
  }

  result<void> line(std::string_view text) {
    if (lines_++ == 0 && text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3); // a byte order mark
    text = trimmed(text);
    return text.empty() ? result<void>{} : take_(lines_, text);
  }

  const std::string& name_;
  const line_limits& limits_;
  const line_taker& take_;
  std::string begun_; ///< a line whose end has not come
  std::uint64_t lines_{};
  std::uint64_t read_{};
};

} // namespace

result<void> for_each_line(const std::string& file, const line_limits& limits, const line_taker& take) {
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored))
    return fail(errc::reject, "{}: expected a file, found a folder", file);
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> from(gzopen(file.c_str(), "rb"), gzclose);
  if (from == nullptr) return fail(errc::reject, "{}: expected a file that can be read, found none", file);
  gzbuffer(from.get(), 1U << 17U);
  line_cutter lines(file, limits, take);
  std::string buffer(std::size_t{1} << 17U, '\0');
  std::uint64_t unfolded = 0;
  for (;;) {
    const int n = gzread(from.get(), buffer.data(), static_cast<unsigned>(buffer.size()));
    int state = Z_OK;
    const char* why = gzerror(from.get(), &state);
    if (n < 0 || (state != Z_OK && state != Z_STREAM_END))
      return fail(errc::reject, "{}: expected a whole file, found one that is damaged or cut off ({})", file,
          config::shown(why == nullptr || *why == '\0' ? "read error" : why));
    if (n == 0) break;
    unfolded += static_cast<std::uint64_t>(n);
    const auto packed = static_cast<std::uint64_t>(std::max<z_off_t>(0, gzoffset(from.get())));
    if (gzdirect(from.get()) == 0 && unfolded > (std::uint64_t{16} << 20U) + packed * limits.max_expansion)
      return fail(errc::reject, "{}: expected a table, found data that unfolds to over {} times its size", file,
          limits.max_expansion);
    if (auto ok = lines.piece({buffer.data(), static_cast<std::size_t>(n)}); !ok) return ok;
  }
  return lines.end();
}

result<void> for_each_line_of(
    std::string_view text, const std::string& name, const line_limits& limits, const line_taker& take) {
  line_cutter lines(name, limits, take);
  if (auto ok = lines.piece(text); !ok) return ok;
  return lines.end();
}

void split_cells(std::string_view line, std::vector<std::string_view>& cells) {
  cells.clear();
  for (;;) {
    std::size_t end = line.find(',');
    if (line.starts_with('"')) {
      std::size_t close = line.find('"', 1);
      while (close != line.npos && close + 1 < line.size() && line[close + 1] == '"') close = line.find('"', close + 2);
      if (close != line.npos) end = line.find(',', close);
    }
    std::string_view cell = trimmed(line.substr(0, end));
    if (cell.size() >= 2 && cell.front() == '"' && cell.back() == '"') cell = cell.substr(1, cell.size() - 2);
    cells.push_back(cell);
    if (end == line.npos) return;
    line.remove_prefix(end + 1);
  }
}

std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

std::optional<double> to_real(std::string_view text) {
  double n{};
  const auto [stopped, failure] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (failure != std::errc{} || stopped != text.data() + text.size() || !std::isfinite(n)) return std::nullopt;
  return n;
}

std::optional<std::uint64_t> to_whole(std::string_view text) {
  if (const auto dot = text.find('.');
      dot != text.npos && dot + 1 < text.size() && text.find_first_not_of('0', dot + 1) == text.npos)
    text = text.substr(0, dot);
  std::uint64_t n{};
  const auto [stopped, failure] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (failure != std::errc{} || stopped != text.data() + text.size()) return std::nullopt;
  return n;
}

std::optional<std::size_t> column_of(const std::vector<std::string_view>& header, std::string_view name) {
  const auto found = std::find(header.begin(), header.end(), name);
  if (found == header.end()) return std::nullopt;
  return static_cast<std::size_t>(found - header.begin());
}

} // namespace hflex::sim
