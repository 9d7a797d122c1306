#include "tools/sim/svg_plot.hpp"
#include "actors/common/check.hpp"
#include "tools/cli/terminal.hpp"
#include <algorithm>
#include <array>
#include <cmath>
#include <fmt/format.h>
#include <iterator>
#include <limits>
#include <string_view>

namespace hflex::sim {

namespace {

constexpr std::array<std::string_view, 7> colours{
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"};
constexpr std::array<std::string_view, 7> dashes{"", "8 4", "2 3", "8 3 2 3", "12 4", "4 2", "8 3 2 3 2 3"};
constexpr std::size_t markers = 5;
constexpr std::size_t markers_per_line = 12; ///< more would hide it
constexpr double text_height = 12;

/// As text of an XML element or attribute.
std::string escaped(std::string_view text) {
  std::string out;
  for (char c : cli::one_line(text)) {
    switch (c) {
    case '&':
      out += "&amp;";
      break;
    case '<':
      out += "&lt;";
      break;
    case '>':
      out += "&gt;";
      break;
    case '"':
      out += "&quot;";
      break;
    default:
      out += c;
    }
  }
  return out;
}

double text_width(std::string_view text) { return 0.58 * text_height * static_cast<double>(cli::display_width(text)); }

struct range {
  double low{std::numeric_limits<double>::infinity()};
  double high{-std::numeric_limits<double>::infinity()};
  void take(double v) {
    low = std::min(low, v);
    high = std::max(high, v);
  }
};

/// Beyond 1e100 the differences of two values would not be numbers.
bool can_show(double v, axis_scale scale) {
  const bool in_range = std::abs(v) <= 1e100;
  return in_range && (scale == axis_scale::linear || v >= 1e-100);
}

/// The range that an axis shows, widened to ticks where nobody bounds it.
range shown_range(range of_values, const plot_axis& axis) {
  range r = of_values;
  const bool log = axis.scale == axis_scale::log;
  if (!(r.low <= r.high)) r = log ? range{1, 10} : range{0, 1}; // no value at all
  if (!log && r.low > 0) r.low = 0;
  if (axis.min && can_show(*axis.min, axis.scale)) r.low = *axis.min;
  if (axis.max && can_show(*axis.max, axis.scale)) r.high = *axis.max;
  if (r.low >= r.high) r.high = log ? r.low * 10 : r.low + std::max(1.0, std::abs(r.low) * 0.1);
  if (!log && !axis.max) r.high += (r.high - r.low) * 0.04; // the line must not lie on the frame
  if (log && !axis.min) r.low = std::pow(10, std::floor(std::log10(r.low) * 10 - 0.5) / 10);
  if (log && !axis.max) r.high = std::pow(10, std::ceil(std::log10(r.high) * 10 + 0.5) / 10);
  return r;
}

/// From values to pixels.
struct scale {
  range values;
  axis_scale kind;
  double from, to; ///< pixels
  double operator()(double v) const {
    const auto f = [&](double x) { return kind == axis_scale::log ? std::log10(x) : x; };
    const double share = (f(v) - f(values.low)) / (f(values.high) - f(values.low));
    // Far outside is as good as just outside, and stays a number that every reader can take.
    return from + (to - from) * std::clamp(share, -10.0, 11.0);
  }
};

std::string marker(std::size_t kind, double x, double y, std::string_view colour) {
  constexpr double r = 3.5;
  const std::string paint = fmt::format("fill=\"white\" stroke=\"{}\" stroke-width=\"1.5\"", colour);
  switch (kind % markers) {
  case 0:
    return fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" {}/>\n", x, y, r, paint);
  case 1:
    return fmt::format(
        "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{}\" height=\"{}\" {}/>\n", x - r, y - r, 2 * r, 2 * r, paint);
  case 2:
    return fmt::format("<path d=\"M{:.1f} {:.1f}l{} {}h{}z\" {}/>\n", x, y - r, r, 2 * r, -2 * r, paint);
  case 3:
    return fmt::format("<path d=\"M{:.1f} {:.1f}l{} {}l{} {}l{} {}z\" {}/>\n", x, y - r - 1, r + 1, r + 1, -r - 1,
        r + 1, -r - 1, -r - 1, paint);
  default:
    return fmt::format("<path d=\"M{:.1f} {:.1f}h{}l{} {}z\" {}/>\n", x - r, y - r, 2 * r, -r, 2 * r, paint);
  }
}

/// Frame, axes, ticks, titles and legend around a plot area.
class canvas {
public:
  canvas(const plot_size& size, const std::string& title, const plot_axis& x, const plot_axis& y, range xs, range ys,
      const std::vector<std::string>& legend)
      : size_(size), x_title_(x.title), y_title_(y.title) {
    double widest = 0;
    for (const std::string& name : legend) widest = std::max(widest, text_width(name));
    const double legend_width = legend.empty() ? 16 : std::min(widest + 50, size.width * 0.4);
    right_ = size.width - legend_width - 8;
    bottom_ = size.height - 56;
    y_ = {shown_range(ys, y), y.scale, bottom_, top_};
    y_ticks_ = round_ticks(y_.values.low, y_.values.high, y.scale);
    double label_width = 0;
    for (double t : y_ticks_) label_width = std::max(label_width, text_width(tick_label(t)));
    left_ = 34 + label_width;
    x_ = {shown_range(xs, x), x.scale, left_, right_};
    head(title);
  }

  const scale& x() const { return x_; }
  const scale& y() const { return y_; }
  void add(const std::string& svg) { out_ += svg; }
  void note(const std::string& text) { note_ += (note_.empty() ? "" : "; ") + text; }
  double right() const { return right_; }

  /// What follows is cut at the plot area's frame.
  void open_plot() { out_ += "<g clip-path=\"url(#plot)\">\n"; }
  void close_plot() { out_ += "</g>\n"; }

  void legend_entry(const std::string& sample, const std::string& name) {
    const double y = top_ + 8 + 18 * entries_++;
    const auto room = static_cast<std::size_t>(std::max(1.0, (size_.width - right_ - 52) / (0.58 * text_height)));
    out_ += fmt::format(
        "<g class=\"legend\" transform=\"translate({:.1f} {:.1f})\">{}<text x=\"34\" y=\"4\">{}</text></g>\n",
        right_ + 10, y, sample, escaped(cli::shorten(cli::one_line(name), room)));
  }

  void mark(const plot_mark& m) {
    const bool log = (m.across ? y_ : x_).kind == axis_scale::log;
    if (!can_show(m.at, log ? axis_scale::log : axis_scale::linear)) return note("no place for " + m.name);
    const double at = m.across ? y_(m.at) : x_(m.at);
    const bool inside = m.across ? at >= top_ - 0.5 && at <= bottom_ + 0.5 : at >= left_ - 0.5 && at <= right_ + 0.5;
    if (!inside) return note(fmt::format("{} lies outside, at {}", m.name, tick_label(m.at)));
    const double x2 = m.across ? right_ : at;
    out_ += fmt::format("<line class=\"mark\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#666\" "
                        "stroke-dasharray=\"4 4\"/>\n<text x=\"{:.1f}\" y=\"{:.1f}\" fill=\"#444\" "
                        "text-anchor=\"end\">{}</text>\n",
        m.across ? left_ : at, m.across ? at : bottom_, x2, m.across ? at : top_, x2 - 4, m.across ? at - 4 : top_ + 12,
        escaped(m.name));
  }

  std::string finish() {
    if (!note_.empty())
      out_ +=
          fmt::format("<text class=\"note\" x=\"{:.1f}\" y=\"{:.1f}\" fill=\"#444\" font-style=\"italic\">{}</text>\n",
              left_, size_.height - 6, escaped(note_));
    return out_ + "</svg>\n";
  }

private:
  void head(const std::string& title) {
    out_ = fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
                       "viewBox=\"0 0 {0:.0f} {1:.0f}\" font-family=\"sans-serif\" font-size=\"{2:.0f}\">\n"
                       "<title>{3}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        size_.width, size_.height, text_height, escaped(title));
    out_ += fmt::format("<clipPath id=\"plot\"><rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" "
                        "height=\"{:.1f}\"/></clipPath>\n",
        left_, top_, right_ - left_, bottom_ - top_);
    out_ += fmt::format(
        "<text x=\"{:.1f}\" y=\"20\" font-size=\"15\" font-weight=\"bold\">{}</text>\n", left_, escaped(title));
    for (double t : y_ticks_) {
      out_ += fmt::format("<line x1=\"{0:.1f}\" y1=\"{2:.1f}\" x2=\"{1:.1f}\" y2=\"{2:.1f}\" stroke=\"#e2e2e2\"/>\n",
          left_, right_, y_(t));
      out_ += fmt::format("<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", left_ - 6,
          y_(t) + 4, tick_label(t));
    }
    for (double t : round_ticks(x_.values.low, x_.values.high, x_.kind, 8)) {
      out_ += fmt::format("<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\" stroke=\"#e2e2e2\"/>\n",
          x_(t), top_, bottom_);
      out_ += fmt::format("<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", x_(t),
          bottom_ + 16, tick_label(t));
    }
    out_ += fmt::format("<path d=\"M{0:.1f} {1:.1f}V{2:.1f}H{3:.1f}\" fill=\"none\" stroke=\"black\"/>\n", left_, top_,
        bottom_, right_);
    out_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", (left_ + right_) / 2,
        bottom_ + 34, escaped(x_title_));
    out_ += fmt::format("<text transform=\"translate(16 {:.1f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
        (top_ + bottom_) / 2, escaped(y_title_));
  }

  plot_size size_;
  std::string x_title_, y_title_;
  double left_{}, right_{}, top_{32}, bottom_{};
  scale x_{}, y_{};
  std::vector<double> y_ticks_;
  std::string out_, note_;
  int entries_{};
};

std::string stroke(std::size_t i) {
  const std::string_view dash = dashes.at(i % dashes.size());
  return fmt::format("fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{}", colours.at(i % colours.size()),
      dash.empty() ? "" : fmt::format(" stroke-dasharray=\"{}\"", dash));
}

/// One series as lines that end where a value cannot be shown. Says how many could not.
std::size_t draw_line(canvas& on, const line_chart& chart, std::size_t i) {
  std::size_t hidden = 0;
  std::string run;
  double before = 0;
  std::vector<plot_point> pixels;
  const auto end_run = [&] {
    if (!run.empty()) on.add(fmt::format("<polyline class=\"series\" points=\"{}\" {}/>\n", run, stroke(i)));
    run.clear();
  };
  for (const plot_point& p : chart.series[i].points) {
    if (!can_show(p.x, chart.x.scale) || !can_show(p.y, chart.y.scale)) {
      ++hidden;
      end_run();
      continue;
    }
    const double x = on.x()(p.x);
    const double y = on.y()(p.y);
    if (chart.shape == line_shape::steps && !run.empty()) run += fmt::format(" {:.1f},{:.1f}", x, before);
    run += fmt::format("{}{:.1f},{:.1f}", run.empty() ? "" : " ", x, y);
    before = y;
    pixels.push_back({x, y});
  }
  end_run();
  const std::size_t every = pixels.size() / markers_per_line + 1;
  // Each series begins elsewhere, so that markers of close lines do not cover each other.
  for (std::size_t p = pixels.size() > markers_per_line ? (i * every / 3) % every : 0; p < pixels.size(); p += every)
    on.add(marker(i, pixels[p].x, pixels[p].y, colours.at(i % colours.size())));
  return hidden;
}

} // namespace

std::string render(const line_chart& chart, const plot_size& size) {
  range xs, ys;
  std::vector<std::string> names;
  for (const plot_series& s : chart.series) {
    names.push_back(s.name);
    for (const plot_point& p : s.points) {
      if (!can_show(p.x, chart.x.scale) || !can_show(p.y, chart.y.scale)) continue;
      xs.take(p.x);
      ys.take(p.y);
    }
  }
  canvas on(size, chart.title, chart.x, chart.y, xs, ys, names);
  on.open_plot();
  std::size_t hidden = 0;
  for (std::size_t i = 0; i < chart.series.size(); ++i) hidden += draw_line(on, chart, i);
  on.close_plot();
  for (const plot_mark& m : chart.marks) on.mark(m);
  for (std::size_t i = 0; i < chart.series.size(); ++i)
    on.legend_entry(
        fmt::format("<path d=\"M0 0H28\" {}/>{}", stroke(i), marker(i, 14, 0, colours.at(i % colours.size()))),
        chart.series[i].name);
  if (hidden > 0) on.note(fmt::format("{} {} cannot be shown", hidden, hidden == 1 ? "value" : "values"));
  return on.finish();
}

std::string render(const area_chart& chart, const plot_size& size) {
  HFLEX_CHECK(std::all_of(chart.layers.begin(), chart.layers.end(),
      [&](const area_chart::layer& l) { return l.values.size() == chart.at.size(); }));
  range xs, ys{0, 0};
  std::vector<std::string> names;
  const std::size_t n = chart.at.size();
  std::vector<std::vector<double>> tops{std::vector<double>(n, 0.0)};
  for (const auto& l : chart.layers) {
    names.push_back(l.name);
    std::vector<double> top = tops.back();
    for (std::size_t i = 0; i < n; ++i)
      if (std::isfinite(l.values[i]) && l.values[i] > 0) top[i] += l.values[i];
    tops.push_back(std::move(top));
  }
  for (double x : chart.at) xs.take(x);
  plot_axis x_axis = chart.x;
  // The last value holds as long as the one before did, and the plot ends there.
  if (!x_axis.max && n > 1) x_axis.max = chart.at[n - 1] + (chart.at[n - 1] - chart.at[n - 2]);
  for (double y : tops.back()) ys.take(y);
  plot_axis y_axis = chart.y;
  y_axis.scale = axis_scale::linear;
  y_axis.min = 0;
  canvas on(size, chart.title, x_axis, y_axis, xs, ys, names);
  on.open_plot();
  for (std::size_t l = 0; n > 0 && l < chart.layers.size(); ++l) {
    std::string outline;
    for (std::size_t i = 0; i < n; ++i) { // along the top
      const double x = on.x()(chart.at[i]);
      const double next = i + 1 < n ? on.x()(chart.at[i + 1]) : on.right();
      const double y = on.y()(tops[l + 1][i]);
      outline += fmt::format("{:.1f},{:.1f} {:.1f},{:.1f} ", x, y, next, y);
    }
    for (std::size_t i = n; i-- > 0;) { // and back along the layer below
      const double x = on.x()(chart.at[i]);
      const double next = i + 1 < n ? on.x()(chart.at[i + 1]) : on.right();
      const double y = on.y()(tops[l][i]);
      outline += fmt::format("{:.1f},{:.1f} {:.1f},{:.1f} ", next, y, x, y);
    }
    outline.pop_back();
    on.add(fmt::format("<polygon class=\"layer\" points=\"{}\" fill=\"{}\" fill-opacity=\"0.75\" stroke=\"white\" "
                       "stroke-width=\"0.5\"/>\n",
        outline, colours.at(l % colours.size())));
  }
  on.close_plot();
  for (std::size_t l = chart.layers.size(); l-- > 0;) // as they lie: the topmost first
    on.legend_entry(fmt::format("<rect x=\"4\" y=\"-6\" width=\"20\" height=\"12\" fill=\"{}\" fill-opacity=\"0.75\"/>",
                        colours.at(l % colours.size())),
        chart.layers[l].name);
  return on.finish();
}

std::vector<plot_point> cdf_points(std::vector<double> values, std::size_t most) {
  HFLEX_CHECK(most >= 2);
  const auto all = static_cast<double>(values.size());
  values.erase(std::remove_if(values.begin(), values.end(), [](double v) { return !std::isfinite(v); }), values.end());
  std::sort(values.begin(), values.end());
  std::vector<plot_point> out;
  if (values.empty()) return out;
  out.push_back({values.front(), 0});
  const std::size_t n = values.size();
  const std::size_t points = std::min(n, most - 1);
  for (std::size_t i = 1; i <= points; ++i) {
    const std::size_t rank = i * n / points; // of n, counted from 1
    out.push_back({values[rank - 1], static_cast<double>(rank) / all});
  }
  return out;
}

std::vector<double> round_ticks(double low, double high, axis_scale scale, std::size_t about) {
  std::vector<double> out;
  if (!(low < high) || !std::isfinite(low) || !std::isfinite(high)) return out;
  if (scale == axis_scale::log) {
    if (low <= 0) return out;
    const double decades = std::log10(high / low);
    const double every = std::max(1.0, std::ceil(decades / static_cast<double>(std::max<std::size_t>(about, 1))));
    const auto last = static_cast<int>(std::ceil(std::log10(high)));
    for (int e = static_cast<int>(std::floor(std::log10(low))); e <= last; e += static_cast<int>(every))
      for (double m : {1.0, 2.0, 5.0}) {
        const double t = m * std::pow(10, e);
        if ((m == 1 || decades <= 2.5) && t >= low * (1 - 1e-9) && t <= high * (1 + 1e-9)) out.push_back(t);
      }
    return out;
  }
  const double raw = (high - low) / static_cast<double>(std::max<std::size_t>(about, 1));
  const double power = std::pow(10, std::floor(std::log10(raw)));
  double step = power;
  for (double m : {1.0, 2.0, 5.0, 10.0})
    if (power * m <= raw * 1.0001 || m == 1) step = power * m;
  if (raw / step > 1.5) step = step >= power * 5 ? power * 10 : step >= power * 2 ? power * 5 : power * 2;
  const double first = std::ceil(low / step - 1e-9);
  const auto ticks = static_cast<int>(std::floor(high / step + 1e-9) - first);
  for (int i = 0; i <= ticks; ++i) out.push_back(first + i == 0 ? 0 : (first + i) * step);
  return out;
}

std::string tick_label(double value) {
  const double size = std::abs(value);
  const auto with = [&](double unit, std::string_view letter) { return fmt::format("{:.6g}{}", value / unit, letter); };
  if (size >= 1e12) return fmt::format("{:.3g}", value);
  if (size >= 1e9) return with(1e9, "G");
  if (size >= 1e6) return with(1e6, "M");
  if (size >= 1e4) return with(1e3, "k");
  return fmt::format("{:.6g}", value);
}

} // namespace hflex::sim
