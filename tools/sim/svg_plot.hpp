// Small charts as SVG text, which every browser opens: lines on linear or logarithmic axes, step curves such as CDFs,
// stacked areas. Decides scales, ticks, colours and the legend; knows nothing of what is drawn. Pure.
//
// Honest by construction: axes are titled with their unit; a linear axis that nobody bounds begins at 0 when its values
// are positive; what a chart cannot show (values that are no numbers, or not positive on a logarithmic axis, or beyond
// 1e100) is counted in a note under it. Series differ by colour (Okabe and Ito's, which colour-blind people tell
// apart), dash and marker.
#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace hflex::sim {

struct plot_point {
  double x{};
  double y{};
};

struct plot_series {
  std::string name;
  std::vector<plot_point> points; ///< in drawing order; one that is not finite interrupts the line
};

enum class axis_scale : unsigned char { linear, log };

struct plot_axis {
  std::string title; ///< with its unit: "TTFT (ms)"
  axis_scale scale{axis_scale::linear};
  std::optional<double> min{}; ///< nothing = from the values
  std::optional<double> max{};
};

/// A straight line across the plot: a target, an event.
struct plot_mark {
  std::string name;
  double at{};
  bool across{true}; ///< at a value of the y axis; false: upright, at one of the x axis
};

enum class line_shape : unsigned char {
  straight, ///< from point to point
  steps,    ///< a value holds until the next one
};

struct line_chart {
  std::string title;
  plot_axis x;
  plot_axis y;
  std::vector<plot_series> series;
  std::vector<plot_mark> marks;
  line_shape shape{line_shape::straight};
};

/// Layers on top of each other, the first at the bottom. Every layer has the same x values; a value holds until the
/// next one. The y axis is linear from 0.
struct area_chart {
  std::string title;
  plot_axis x;
  plot_axis y;
  std::vector<double> at;
  struct layer {
    std::string name;
    std::vector<double> values; ///< one per x value; below 0 or no number counts as 0
  };
  std::vector<layer> layers;
};

/// In pixels at the usual zoom.
struct plot_size {
  double width{800};
  double height{450};
};

/// A whole SVG document.
std::string render(const line_chart& chart, const plot_size& size = {});
std::string render(const area_chart& chart, const plot_size& size = {});

/// The cumulative distribution of `values` as steps: x a value, y the share of values that are <= x, from 0 to 1. At
/// most `most` points, at even ranks, the smallest and the largest value among them. Values that are no numbers are
/// left out of the curve but stay in its denominator: latencies of requests that never finished keep it below 1.
std::vector<plot_point> cdf_points(std::vector<double> values, std::size_t most = 1000);

/// Round numbers that divide [low, high] into about `about` parts; powers of ten (with 2 and 5 when there are few) on a
/// logarithmic axis. In order, all within the range.
std::vector<double> round_ticks(double low, double high, axis_scale scale, std::size_t about = 6);

/// "0", "0.25", "1500", "20k", "3M", "1e-06".
std::string tick_label(double value);

} // namespace hflex::sim
