#include "tools/cli/units.hpp"
#include <array>
#include <fmt/format.h>
#include <string_view>

namespace hflex::cli {

namespace {

/// Three significant digits of a value below 1024.
std::string three_digits(double value) {
  const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f}", value, decimals);
}

struct scale {
  std::int64_t nanoseconds;
  std::string_view name;
};

} // namespace

std::string human_bytes(std::uint64_t bytes) {
  constexpr std::array<std::string_view, 6> names{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / 1024;
  std::size_t name = 0;
  while (value >= 1023.5 && name + 1 < names.size()) { // 1023.5 would be shown as 1024
    value /= 1024;
    ++name;
  }
  return fmt::format("{} {}", three_digits(value), names[name]);
}

std::string human_duration(duration d) {
  constexpr std::int64_t us = 1000, ms = 1000 * us, s = 1000 * ms, minute = 60 * s, hour = 60 * minute, day = 24 * hour;
  const std::int64_t ns = d.count();
  if (ns < 0) return "-" + human_duration(duration{ns == INT64_MIN ? INT64_MAX : -ns});
  if (ns == 0) return "0 s";
  if (ns < us) return fmt::format("{} ns", ns);
  const auto one_unit = [&](std::int64_t unit, std::string_view name) {
    return fmt::format("{} {}", three_digits(static_cast<double>(ns) / static_cast<double>(unit)), name);
  };
  // A value that would round up to the next unit's 1 is shown in that unit.
  if (ns < ms - us / 2) return one_unit(us, "us");
  if (ns < s - ms / 2) return one_unit(ms, "ms");
  if (ns < minute - s / 20) return one_unit(s, "s");
  const auto two_units = [](std::int64_t value, scale large, scale small) {
    const std::int64_t rounded = (value + small.nanoseconds / 2) / small.nanoseconds * small.nanoseconds;
    return fmt::format("{} {} {} {}", rounded / large.nanoseconds, large.name,
        rounded % large.nanoseconds / small.nanoseconds, small.name);
  };
  if (ns < hour - s / 2) return two_units(ns, {minute, "min"}, {s, "s"});
  if (ns < day - minute / 2) return two_units(ns, {hour, "h"}, {minute, "min"});
  return ns > INT64_MAX - hour ? fmt::format("{} d", ns / day) : two_units(ns, {day, "d"}, {hour, "h"});
}

std::string human_percent(double share) { return fmt::format("{:.1f} %", share * 100); }

} // namespace hflex::cli
