// Charts as SVG: well-formed, complete, honest about what they leave out.
#include "tests/unit/sim/says.hpp"
#include "tools/sim/svg_plot.hpp"
#include <algorithm>
#include <cmath>
#include <limits>

namespace hflex::svg_plot_test {

using namespace hflex::sim;

namespace {

constexpr double no_number = std::numeric_limits<double>::quiet_NaN();

/// Whether every element is closed in order, attributes are quoted, and no character stands where XML forbids it.
bool well_formed(const std::string& xml) {
  std::vector<std::string> open;
  std::size_t at = 0;
  bool any = false;
  while (at < xml.size()) {
    if (xml[at] != '<') {
      if (xml[at] == '&') {
        const auto end = xml.find(';', at);
        if (end == xml.npos || end - at > 6) return false;
      }
      if (static_cast<unsigned char>(xml[at]) < 0x20 && xml[at] != '\n') return false;
      if (open.empty() && xml[at] != '\n') return false;
      ++at;
      continue;
    }
    const auto end = xml.find('>', at);
    if (end == xml.npos) return false;
    std::string tag = xml.substr(at + 1, end - at - 1);
    at = end + 1;
    if (std::count(tag.begin(), tag.end(), '"') % 2 != 0 || tag.find('<') != tag.npos) return false;
    if (tag.front() == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return false;
      open.pop_back();
    } else if (tag.back() != '/') {
      if (open.empty() && any) return false; // one root
      any = true;
      open.push_back(tag.substr(0, tag.find(' ')));
    }
  }
  return any && open.empty();
}

/// The `points` attributes of every element of a class, as numbers of points.
std::vector<std::size_t> points_of(const std::string& svg, const std::string& name) {
  std::vector<std::size_t> out;
  const std::string before = "class=\"" + name + "\" points=\"";
  for (auto at = svg.find(before); at != svg.npos; at = svg.find(before, at + 1)) {
    const auto from = at + before.size();
    const std::string points = svg.substr(from, svg.find('"', from) - from);
    out.push_back(static_cast<std::size_t>(std::count(points.begin(), points.end(), ',')));
  }
  return out;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (auto at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

line_chart two_lines() {
  return {"Attainment", {"rate (requests/s)"}, {"attainment (%)"},
      {{"hyperflexis", {{1, 100}, {2, 99}, {4, 90}}}, {"round_robin", {{1, 100}, {2, 80}}}}, {}, line_shape::straight};
}

} // namespace

TEST_CASE("a line chart has every point, name and title") {
  const std::string svg = render(two_lines());
  CHECK(well_formed(svg));
  CHECK(points_of(svg, "series") == std::vector<std::size_t>{3, 2});
  for (const char* text : {"Attainment", "rate (requests/s)", "attainment (%)", "hyperflexis", "round_robin"})
    CHECK(says(svg, text));
  CHECK(count(svg, "class=\"legend\"") == 2);
  CHECK(count(svg, "class=\"note\"") == 0);
}

TEST_CASE("series differ in more than colour") {
  line_chart chart = two_lines();
  chart.series.clear();
  for (int i = 0; i < 7; ++i) chart.series.push_back({"s" + std::to_string(i), {{0, 1.0 * i}, {1, 2.0 * i}}});
  const std::string svg = render(chart);
  CHECK(well_formed(svg));
  std::vector<std::string> looks;
  for (auto at = svg.find("class=\"series\""); at != svg.npos; at = svg.find("class=\"series\"", at + 1)) {
    const auto dash = svg.find("stroke-dasharray", at);
    const auto end = svg.find("/>", at);
    looks.push_back(dash < end ? svg.substr(dash, end - dash) : "");
  }
  REQUIRE(looks.size() == 7);
  std::sort(looks.begin(), looks.end());
  CHECK(std::adjacent_find(looks.begin(), looks.end()) == looks.end());
}

TEST_CASE("steps hold a value until the next") {
  line_chart chart = two_lines();
  chart.shape = line_shape::steps;
  CHECK(points_of(render(chart), "series") == std::vector<std::size_t>{5, 3});
}

TEST_CASE("values that cannot be shown interrupt the line and are counted") {
  line_chart chart = two_lines();
  chart.series = {{"a", {{1, 1}, {2, no_number}, {3, 3}, {4, 4}}}};
  std::string svg = render(chart);
  CHECK(points_of(svg, "series") == std::vector<std::size_t>{1, 2});
  CHECK(says(svg, "1 value cannot be shown"));
  chart.y.scale = axis_scale::log;
  chart.series = {{"a", {{1, 0}, {2, 10}, {3, 100}, {4, -4}}}};
  svg = render(chart);
  CHECK(well_formed(svg));
  CHECK(points_of(svg, "series") == std::vector<std::size_t>{2});
  CHECK(says(svg, "2 values cannot be shown"));
}

TEST_CASE("text of strangers stays text") {
  line_chart chart = two_lines();
  chart.title = "a < b && \"c\" </svg><script>\x01\xff";
  chart.series[0].name = "<b>&";
  chart.marks = {{"x<y", 90, true}};
  const std::string svg = render(chart);
  CHECK(well_formed(svg));
  CHECK(says(svg, "a &lt; b &amp;&amp; &quot;c&quot; &lt;/svg&gt;&lt;script&gt;??"));
  CHECK(says(svg, "&lt;b&gt;&amp;"));
}

TEST_CASE("charts without a value, with one, and with huge ones are still charts") {
  line_chart chart = two_lines();
  for (auto scale : {axis_scale::linear, axis_scale::log}) {
    chart.x.scale = chart.y.scale = scale;
    for (const std::vector<plot_point>& points : std::vector<std::vector<plot_point>>{{}, {{5, 5}}, {{0, 0}, {0, 0}},
             {{1e-300, 1e300}, {1e300, 1e-300}}, {{-1e308, -1e308}, {1e308, 1e308}}, {{no_number, no_number}}}) {
      chart.series = {{"s", points}};
      const std::string svg = render(chart);
      CHECK(well_formed(svg));
      CHECK(svg.find("nan") == svg.npos);
      CHECK(svg.find("inf") == svg.npos);
    }
  }
  chart.series.clear();
  CHECK(well_formed(render(chart)));
}

TEST_CASE("a target is drawn where it lies, or told when it lies outside") {
  line_chart chart = two_lines();
  chart.marks = {{"goal", 90, true}, {"knee", 2, false}};
  std::string svg = render(chart);
  CHECK(count(svg, "class=\"mark\"") == 2);
  CHECK(says(svg, ">goal<"));
  chart.marks = {{"goal", 900, true}};
  svg = render(chart);
  CHECK(count(svg, "class=\"mark\"") == 0);
  CHECK(says(svg, "goal lies outside, at 900"));
}

TEST_CASE("a linear axis of positive values begins at 0 unless it is told otherwise") {
  line_chart chart = two_lines();
  CHECK(says(render(chart), ">0</text>"));
  chart.y.min = 70;
  chart.y.max = 100;
  chart.x.min = 1;
  const std::string svg = render(chart);
  CHECK(count(svg, ">0</text>") == 0);
  CHECK(says(svg, ">70</text>"));
}

TEST_CASE("stacked areas have a polygon per layer, as wide as the time") {
  area_chart chart{
      "Fleet", {"time (s)"}, {"instances"}, {0, 10, 20}, {{"prefill", {1, 2, 1}}, {"decode", {2, no_number, 3}}}};
  const std::string svg = render(chart);
  CHECK(well_formed(svg));
  CHECK(points_of(svg, "layer") == std::vector<std::size_t>{12, 12});
  CHECK(svg.find("decode") < svg.find("prefill")); // the legend lies as the layers do
  chart.at.clear();
  for (auto& l : chart.layers) l.values.clear();
  CHECK(well_formed(render(chart)));
}

TEST_CASE("a CDF rises in steps from 0 to the share of values that there are") {
  const auto points = cdf_points({3, 1, 2, no_number});
  REQUIRE(points.size() == 4);
  CHECK(points[0].x == 1);
  CHECK(points[0].y == 0);
  CHECK(points[1].y == Approx(0.25));
  CHECK(points[3].x == 3);
  CHECK(points[3].y == Approx(0.75)); // the one without a value never came
  CHECK(cdf_points({}).empty());
  std::vector<double> many;
  for (int i = 0; i < 12345; ++i) many.push_back(i);
  const auto fewer = cdf_points(many, 100);
  REQUIRE(fewer.size() == 100);
  CHECK(fewer.back().x == 12344);
  CHECK(fewer.back().y == Approx(1));
  for (const plot_point& p : fewer) CHECK(p.y == Approx((p.x + 1) / 12345).margin(1.0 / 12345));
}

TEST_CASE("ticks are round numbers inside the range") {
  CHECK(round_ticks(0, 10, axis_scale::linear) == std::vector<double>{0, 2, 4, 6, 8, 10});
  CHECK(round_ticks(0, 104, axis_scale::linear) == std::vector<double>{0, 20, 40, 60, 80, 100});
  CHECK(round_ticks(1, 1000, axis_scale::log) == std::vector<double>{1, 10, 100, 1000});
  CHECK(round_ticks(3, 60, axis_scale::log) == std::vector<double>{5, 10, 20, 50});
  CHECK(round_ticks(1, 1, axis_scale::linear).empty());
  for (double high = 1e-9; high < 1e12; high *= 1.37) {
    const auto ticks = round_ticks(0, high, axis_scale::linear);
    CHECK(ticks.size() >= 4);
    CHECK(ticks.size() <= 11);
    CHECK(ticks.back() <= high * 1.000001);
  }
  CHECK(tick_label(0) == "0");
  CHECK(tick_label(0.30000000000000004) == "0.3");
  CHECK(tick_label(1500) == "1500");
  CHECK(tick_label(20000) == "20k");
  CHECK(tick_label(3e6) == "3M");
}

} // namespace hflex::svg_plot_test
