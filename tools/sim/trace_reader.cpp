#include "tools/sim/trace_reader.hpp"
#include "actors/common/nearest.hpp"
#include "config/fault.hpp"
#include <algorithm>
#include <array>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

namespace hflex::sim {

namespace {

using std::string_view;

constexpr std::uint64_t max_tokens = std::uint64_t{1} << 24U;
constexpr double max_arrival_s = 1e9; ///< 31 years, which nanoseconds in 64 bits hold
constexpr std::size_t max_row_blocks = std::size_t{1} << 20U;

enum class format : std::uint8_t { unknown, ours, azure, mooncake };

/// Where a CSV has what.
struct columns {
  std::size_t arrival{};
  std::size_t prompt{};
  std::size_t output{};
  std::optional<std::size_t> slo_class;
  std::optional<std::size_t> session;
  std::optional<std::size_t> blocks;
  std::size_t count{};
};

/// Days from 1970-01-01 in the Gregorian calendar; years from 1970 on.
std::int64_t days_since_epoch(std::int64_t year, std::int64_t month, std::int64_t day) {
  // Years that begin in March: the leap day is their last.
  const std::int64_t y = month <= 2 ? year - 1 : year;
  const std::int64_t month_from_march = (month + 9) % 12;
  const std::int64_t leap_days = y / 4 - y / 100 + y / 400;
  constexpr std::int64_t from_year_0_to_epoch = 719'468;
  return y * 365 + leap_days + (month_from_march * 153 + 2) / 5 + day - 1 - from_year_0_to_epoch;
}

/// `width` digits at `at`, at most 18.
std::optional<std::int64_t> digits(string_view text, std::size_t at, std::size_t width) {
  if (at + width > text.size()) return std::nullopt;
  std::int64_t n = 0;
  for (char c : text.substr(at, width)) {
    if (c < '0' || c > '9') return std::nullopt;
    n = n * 10 + (c - '0');
  }
  return n;
}

/// "2023-11-16 18:17:03.9799600", with 'T' for the blank, "Z" or "+00:00" behind: nanoseconds since 1970.
std::optional<duration> stamp(string_view text) {
  for (string_view utc : {"Z", "+00:00"})
    if (text.ends_with(utc)) text.remove_suffix(utc.size());
  if (text.size() < 19 || text[4] != '-' || text[7] != '-' || (text[10] != ' ' && text[10] != 'T') || text[13] != ':' ||
      text[16] != ':')
    return std::nullopt;
  const auto year = digits(text, 0, 4), month = digits(text, 5, 2), day = digits(text, 8, 2);
  const auto hour = digits(text, 11, 2), minute = digits(text, 14, 2), second = digits(text, 17, 2);
  if (!year || !month || !day || !hour || !minute || !second) return std::nullopt;
  if (*year < 1970 || *year > 2200 || *month < 1 || *month > 12 || *day < 1 || *day > 31) return std::nullopt;
  if (*hour > 23 || *minute > 59 || *second > 60) return std::nullopt;
  std::int64_t fraction_ns = 0;
  if (text.size() > 19) {
    const string_view fraction = text.substr(20);
    if (text[19] != '.' || fraction.empty() || fraction.size() > 9) return std::nullopt;
    const auto n = digits(text, 20, fraction.size());
    if (!n) return std::nullopt;
    fraction_ns = *n;
    for (std::size_t i = fraction.size(); i < 9; ++i) fraction_ns *= 10;
  }
  const std::int64_t days = days_since_epoch(*year, *month, *day);
  return std::chrono::seconds{((days * 24 + *hour) * 60 + *minute) * 60 + *second} + duration{fraction_ns};
}

class trace_parser {
public:
  trace_parser(const std::string& name, const trace_window& window, const trace_limits& limits)
      : name_(name), window_(window), limits_(limits) {}

  result<void> line(std::uint64_t number, string_view text) {
    line_ = number;
    if (format_ == format::unknown) {
      if (!text.starts_with('{')) return header(text);
      format_ = format::mooncake;
    }
    return format_ == format::mooncake ? object(text) : cells(text);
  }

  result<trace> finish() {
    if (format_ == format::unknown) return fail(errc::reject, "{}: expected a trace, found an empty file", name_);
    if (!any_row_) return fail(errc::reject, "{}: expected at least one row, found none", name_);
    if (out_.rows.empty())
      return fail(errc::reject, "{}: expected rows between {} s and {} s, found none", name_, to_s(window_.from),
          window_.length ? to_s(window_.from + *window_.length) : max_arrival_s);
    std::stable_sort(out_.rows.begin(), out_.rows.end(),
        [](const trace_row& a, const trace_row& b) { return a.arrival < b.arrival; });
    // Stamps count from the file's first row, which need not be the earliest.
    if (const duration first = out_.rows.front().arrival; first < duration{0})
      for (trace_row& r : out_.rows) r.arrival -= first;
    out_.prefix_block_tokens = block_tokens();
    return std::move(out_);
  }

private:
  template <class... Ts>
  [[nodiscard]] tl::unexpected<error> expected(string_view what, string_view found, string_view hint = {}) const {
    return fail(errc::reject, "{}:{}: expected {}, found {}{}{}", name_, line_, what, config::shown(found),
        hint.empty() ? "" : "; ", hint);
  }

  /// A file of ours that is no request trace: whoever wrote it down here meant something else.
  result<void> no_trace(const std::vector<string_view>& names, string_view text) const {
    if (column_of(names, "t_s"))
      return expected("arrival_s,prompt_tokens,output_tokens", text,
          "a curve of rates is read by synthetic:diurnal,rates=FILE:COLUMN,...");
    if (column_of(names, "percentile") || (column_of(names, "prompt_tokens") && column_of(names, "output_tokens")))
      return expected("arrival_s,prompt_tokens,output_tokens", text,
          "lengths without arrivals are read by synthetic:poisson,lengths=FILE,...");
    std::string hint;
    static constexpr std::array known{
        string_view{"arrival_s"}, string_view{"prompt_tokens"}, string_view{"output_tokens"}};
    for (string_view name : names)
      if (hint.empty() && !column_of({known.begin(), known.end()}, name)) hint = did_you_mean(name, known);
    return expected("a header with arrival_s,prompt_tokens,output_tokens (or TIMESTAMP,ContextTokens,GeneratedTokens, "
                    "or lines of JSON)",
        text, hint);
  }

  result<void> header(string_view text) {
    std::vector<string_view> names;
    split_cells(text, names);
    const auto at = [&](string_view name) { return column_of(names, name); };
    columns_.count = names.size();
    if (at("TIMESTAMP") && at("ContextTokens") && at("GeneratedTokens")) {
      format_ = format::azure;
      columns_.arrival = *at("TIMESTAMP");
      columns_.prompt = *at("ContextTokens");
      columns_.output = *at("GeneratedTokens");
      return {};
    }
    if (!at("arrival_s") || !at("prompt_tokens") || !at("output_tokens")) return no_trace(names, text);
    for (std::size_t i = 0; i < names.size(); ++i)
      if (column_of(names, names[i]) != i && !names[i].empty()) return expected("each column once", names[i]);
    format_ = format::ours;
    columns_.arrival = at("arrival_spread_s").value_or(*at("arrival_s"));
    columns_.prompt = *at("prompt_tokens");
    columns_.output = *at("output_tokens");
    columns_.slo_class = at("slo_class");
    columns_.session = at("session_id") ? at("session_id") : at("session");
    columns_.blocks = at("prefix_block_ids");
    return {};
  }

  result<void> cells(string_view text) {
    split_cells(text, cells_);
    if (cells_.size() != columns_.count)
      return fail(errc::reject, "{}:{}: expected {} cells as in the header, found {}", name_, line_, columns_.count,
          cells_.size());
    trace_row row;
    const string_view when = cells_[columns_.arrival];
    if (format_ == format::azure) {
      const auto t = stamp(when);
      if (!t) return expected("a time such as 2023-11-16 18:17:03.9799600", when);
      if (!any_row_) base_ = *t;
      row.arrival = *t - base_;
    } else {
      const auto t = to_real(when);
      if (!t || *t < 0 || *t > max_arrival_s) return expected("seconds from 0 to 1e9 as arrival", when);
      row.arrival = from_s(*t);
    }
    if (auto ok = tokens("prompt", cells_[columns_.prompt], 1, row.prompt_tokens); !ok) return ok;
    if (auto ok = tokens("output", cells_[columns_.output], 0, row.output_tokens); !ok) return ok;
    if (!keeps(row.arrival)) return {};
    if (columns_.slo_class) row.slo_class = cells_[*columns_.slo_class];
    if (columns_.session) row.session = cells_[*columns_.session];
    if (columns_.blocks)
      if (auto ok = runs(cells_[*columns_.blocks], row.prefix_blocks); !ok) return ok;
    return add(std::move(row));
  }

  result<void> tokens(string_view of, string_view text, std::uint64_t least, std::uint32_t& out) const {
    const auto n = to_whole(text);
    if (!n || *n < least || *n > max_tokens)
      return expected(fmt::format("from {} to {} {} tokens", least, max_tokens, of), text);
    out = static_cast<std::uint32_t>(std::max<std::uint64_t>(*n, 1));
    return {};
  }

  /// "0;65-73"
  result<void> runs(string_view text, std::vector<std::uint64_t>& out) const {
    string_view rest = text;
    while (!rest.empty()) {
      const auto end = rest.find(';');
      const string_view run = trimmed(rest.substr(0, end));
      rest = end == rest.npos ? string_view{} : rest.substr(end + 1);
      const auto dash = run.find('-');
      const auto first = to_whole(run.substr(0, dash));
      const auto last = dash == run.npos ? first : to_whole(run.substr(dash + 1));
      if (!first || !last || *last < *first) return expected("runs of block ids such as 0;65-73", run);
      if (*last - *first >= max_row_blocks - out.size()) return expected("at most 2^20 block ids in a row", run);
      for (std::uint64_t id = *first;; ++id) {
        out.push_back(id);
        if (id == *last) break;
      }
    }
    return {};
  }

  result<void> object(string_view text) {
    const auto j = nlohmann::json::parse(text, nullptr, false);
    if (!j.is_object()) return expected("a JSON object with timestamp, input_length, output_length", text);
    trace_row row;
    const auto number = [&](const char* key, double least, double most) -> result<double> {
      const auto found = j.find(key);
      if (found != j.end() && found->is_number())
        if (const auto n = found->get<double>(); n >= least && n <= most) return n;
      return expected(fmt::format("{}: a number from {} to {}", key, least, most),
          found == j.end()                           ? "none"
          : found->is_number() || found->is_string() ? found->dump(-1, ' ', true, replace)
                                                     : found->type_name());
    };
    const auto when = number("timestamp", 0, max_arrival_s * 1e3);
    if (!when) return pass(when.error());
    const auto prompt = number("input_length", 1, max_tokens);
    if (!prompt) return pass(prompt.error());
    const auto output = number("output_length", 0, max_tokens);
    if (!output) return pass(output.error());
    row.arrival = from_ms(*when);
    row.prompt_tokens = static_cast<std::uint32_t>(*prompt);
    row.output_tokens = std::max(1U, static_cast<std::uint32_t>(*output));
    if (!keeps(row.arrival)) return {};
    if (const auto ids = j.find("hash_ids"); ids != j.end()) {
      if (!ids->is_array()) return expected("hash_ids: a list of whole numbers", ids->type_name());
      for (const auto& id : *ids) {
        if (!id.is_number_unsigned()) return expected("hash_ids: a list of whole numbers", id.type_name());
        row.prefix_blocks.push_back(id.get<std::uint64_t>());
      }
    }
    return add(std::move(row));
  }

  bool keeps(duration& arrival) {
    any_row_ = true;
    if (window_.from == duration{0} && !window_.length) return true;
    arrival -= window_.from;
    return arrival >= duration{0} && (!window_.length || arrival < *window_.length);
  }

  result<void> add(trace_row&& row) {
    if (out_.rows.size() >= limits_.max_rows)
      return fail(errc::reject, "{}:{}: expected at most {} rows, found more; take a part of it (from=S,duration=S)",
          name_, line_, limits_.max_rows);
    blocks_ += row.prefix_blocks.size();
    if (blocks_ > limits_.max_prefix_blocks)
      return fail(errc::reject, "{}:{}: expected at most {} block ids in all rows, found more", name_, line_,
          limits_.max_prefix_blocks);
    row.line = line_;
    out_.rows.push_back(std::move(row));
    return {};
  }

  std::uint32_t block_tokens() const {
    std::uint32_t size = 512;
    for (const trace_row& r : out_.rows)
      while (size > 16 && r.prefix_blocks.size() > 1 && (r.prefix_blocks.size() - 1) * size >= r.prompt_tokens)
        size /= 2;
    return size;
  }

  static constexpr auto replace = nlohmann::json::error_handler_t::replace;

  const std::string& name_;
  const trace_window& window_;
  const trace_limits& limits_;
  format format_{format::unknown};
  columns columns_;
  std::vector<string_view> cells_;
  trace out_;
  duration base_{};
  std::uint64_t line_{};
  std::size_t blocks_{};
  bool any_row_{false};
};

} // namespace

result<trace> read_trace(const std::string& file, const trace_window& window, const trace_limits& limits) {
  trace_parser parser(file, window, limits);
  auto read = for_each_line(file, limits.lines, [&](auto number, auto line) { return parser.line(number, line); });
  if (!read) return pass(read.error());
  return parser.finish();
}

result<trace> parse_trace(
    string_view text, const std::string& name, const trace_window& window, const trace_limits& limits) {
  trace_parser parser(name, window, limits);
  auto read =
      for_each_line_of(text, name, limits.lines, [&](auto number, auto line) { return parser.line(number, line); });
  if (!read) return pass(read.error());
  return parser.finish();
}

} // namespace hflex::sim
