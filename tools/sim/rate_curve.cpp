#include "tools/sim/rate_curve.hpp"
#include "actors/common/nearest.hpp"
#include "config/fault.hpp"
#include <algorithm>
#include <cmath>
#include <fmt/ranges.h>
#include <set>

namespace hflex::sim {

namespace {

using std::string_view;

constexpr std::size_t most_rows = 1'000'000;

[[nodiscard]] tl::unexpected<error> expected(
    const std::string& file, std::uint64_t line, string_view what, string_view found, string_view hint = {}) {
  return fail(errc::reject, "{}:{}: expected {}, found {}{}{}", file, line, what, config::shown(found),
      hint.empty() ? "" : "; ", hint);
}

/// Calls `row` with every line's cells but the header's, which `header` gets.
template <class Header, class Row>
result<void> for_each_row(const std::string& file, Header header, Row row) {
  std::vector<string_view> cells;
  std::size_t columns = 0;
  std::size_t rows = 0;
  auto read = for_each_line(file, {}, [&](std::uint64_t line, string_view text) -> result<void> {
    split_cells(text, cells);
    if (columns == 0) {
      columns = cells.size();
      return header(line, cells, text);
    }
    if (cells.size() != columns) return expected(file, line, fmt::format("{} cells as in the header", columns), text);
    if (++rows > most_rows) return expected(file, line, fmt::format("at most {} rows", most_rows), "more");
    return row(line, cells);
  });
  if (read && rows == 0) return fail(errc::reject, "{}: expected a header and rows, found none", file);
  return read;
}

} // namespace

result<rate_curve> rate_curve::from_points(std::vector<point> points, const std::string& name) {
  rate_curve out;
  if (points.empty()) return fail(errc::reject, "{}: expected at least one point, found none", name);
  const double start = points.front().t_s;
  for (point& p : points) {
    p.t_s -= start;
    if (!out.points_.empty() && p.t_s <= out.points_.back().t_s)
      return fail(errc::reject, "{}: expected times that rise, found {} s again or going back", name, p.t_s + start);
    out.points_.push_back(p);
  }
  if (out.highest() <= 0) return fail(errc::reject, "{}: expected a rate above 0, found none", name);
  return out;
}

double rate_curve::rate_at(double t_s) const {
  if (points_.size() == 1) return points_.front().rate;
  t_s = std::fmod(t_s, length_s());
  const auto above =
      std::partition_point(points_.begin() + 1, points_.end() - 1, [&](const point& p) { return p.t_s < t_s; });
  const point& high = *above;
  const point& low = *(above - 1);
  return low.rate + (high.rate - low.rate) * (t_s - low.t_s) / (high.t_s - low.t_s);
}

double rate_curve::highest() const {
  double most = 0;
  for (const point& p : points_) most = std::max(most, p.rate);
  return most;
}

double rate_curve::mean() const {
  if (points_.size() == 1) return points_.front().rate;
  double requests = 0;
  for (std::size_t i = 1; i < points_.size(); ++i)
    requests += (points_[i].rate + points_[i - 1].rate) / 2 * (points_[i].t_s - points_[i - 1].t_s);
  return requests / length_s();
}

void rate_curve::scale(double factor) {
  for (point& p : points_) p.rate *= factor;
}

result<rate_curve> read_rate_curve(const std::string& file, const std::string& column) {
  std::vector<rate_curve::point> points;
  std::size_t time = 0;
  std::size_t rate = 0;
  auto read = for_each_row(
      file,
      [&](std::uint64_t line, const std::vector<string_view>& names, string_view text) -> result<void> {
        const auto t = column_of(names, "t_s");
        if (!t || names.size() < 2) return expected(file, line, "a header with t_s and a column of rates", text);
        time = *t;
        std::vector<string_view> others;
        for (string_view n : names)
          if (n != "t_s") others.push_back(n);
        const auto named = column_of(names, column.empty() ? others.front() : string_view{column});
        if (!named || *named == time || (column.empty() && others.size() > 1))
          return expected(file, line, fmt::format("a column (FILE:COLUMN), one of {}", fmt::join(others, ", ")), column,
              did_you_mean(column, others));
        rate = *named;
        return {};
      },
      [&](std::uint64_t line, const std::vector<string_view>& cells) -> result<void> {
        const auto t = to_real(cells[time]);
        const auto r = to_real(cells[rate]);
        if (!t || std::abs(*t) > 1e9) return expected(file, line, "seconds up to 1e9 as t_s", cells[time]);
        if (!r || *r < 0 || *r > 1e9) return expected(file, line, "a rate from 0 to 1e9 per second", cells[rate]);
        points.push_back({*t, *r});
        return {};
      });
  if (!read) return pass(read.error());
  return rate_curve::from_points(std::move(points), file);
}

namespace {

struct length_reader {
  const std::string& file;
  const std::string& service;
  length_table out{};
  std::size_t a{}, b{}, c{}, d{}; ///< columns: prompt, output; or service, field, percentile, tokens
  bool quantiles{false};
  std::vector<length_distribution::quantile> prompt{};
  std::vector<length_distribution::quantile> output{};
  std::set<std::string, std::less<>> services{};

  result<void> header(std::uint64_t line, const std::vector<string_view>& names, string_view text) {
    const auto at = [&](string_view name) { return column_of(names, name); };
    if (at("service") && at("field") && at("percentile") && at("tokens")) {
      quantiles = true;
      a = *at("service"), b = *at("field"), c = *at("percentile"), d = *at("tokens");
      return {};
    }
    if (!at("prompt_tokens") || !at("output_tokens"))
      return expected(
          file, line, "a header with prompt_tokens,output_tokens or with service,field,percentile,tokens", text);
    a = *at("prompt_tokens"), b = *at("output_tokens");
    return {};
  }

  result<void> row(std::uint64_t line, const std::vector<string_view>& cells) {
    return quantiles ? quantile_row(line, cells) : pair_row(line, cells);
  }

  result<void> pair_row(std::uint64_t line, const std::vector<string_view>& cells) {
    const auto p = to_whole(cells[a]);
    const auto o = to_whole(cells[b]);
    if (!p || *p < 1 || static_cast<double>(*p) > most_tokens)
      return expected(file, line, "from 1 to 16777216 prompt tokens", cells[a]);
    if (!o || static_cast<double>(*o) > most_tokens)
      return expected(file, line, "from 0 to 16777216 output tokens", cells[b]);
    out.pairs.push_back({static_cast<std::uint32_t>(*p), static_cast<std::uint32_t>(std::max<std::uint64_t>(*o, 1))});
    return {};
  }

  result<void> quantile_row(std::uint64_t line, const std::vector<string_view>& cells) {
    const auto percent = to_real(cells[c]);
    const auto tokens = to_real(cells[d]);
    if (!percent || *percent <= 0 || *percent >= 100)
      return expected(file, line, "a percentile between 0 and 100", cells[c]);
    if (!tokens || *tokens < 0 || *tokens > most_tokens)
      return expected(file, line, "from 0 to 16777216 tokens", cells[d]);
    if (services.size() < 100) services.emplace(cells[a]);
    if (cells[a] != service) return {};
    if (cells[b] != "prompt" && cells[b] != "output")
      return expected(file, line, "prompt or output as field", cells[b]);
    (cells[b] == "prompt" ? prompt : output).push_back({*percent, *tokens});
    return {};
  }

  result<length_table> finish() {
    if (!quantiles && service.empty()) return std::move(out);
    if (!quantiles)
      return fail(errc::reject, "{}: expected no :{} behind it, found a file of single requests", file, service);
    if (!services.contains(service))
      return fail(errc::reject, "{}: expected a service (FILE:SERVICE), one of {}, found {}", file,
          fmt::join(services, ", "), config::shown(service));
    auto p = length_distribution::from_quantiles(std::move(prompt), file + ": prompt");
    if (!p) return pass(p.error());
    auto o = length_distribution::from_quantiles(std::move(output), file + ": output");
    if (!o) return pass(o.error());
    out.prompt = std::move(*p);
    out.output = std::move(*o);
    return std::move(out);
  }
};

} // namespace

result<length_table> read_lengths(const std::string& file, const std::string& service) {
  length_reader reader{file, service};
  auto read = for_each_row(
      file, [&](auto line, const auto& names, auto text) { return reader.header(line, names, text); },
      [&](auto line, const auto& cells) { return reader.row(line, cells); });
  if (!read) return pass(read.error());
  return reader.finish();
}

} // namespace hflex::sim
