// Time as the cores see it: a point that the caller passes in. There is no now() here on purpose: shells read a steady
// clock, the simulator its event heap. Points of two hosts are never compared; ages and remainders travel instead.
#pragma once
#include <chrono>
#include <cstdint>

namespace hflex {

struct cluster_clock {
  using rep = std::int64_t;
  using period = std::nano;
  using duration = std::chrono::nanoseconds;
  using time_point = std::chrono::time_point<cluster_clock>;
  static constexpr bool is_steady = true;
};

using duration = cluster_clock::duration;
using time_point = cluster_clock::time_point;

/// Milliseconds as people and schemas write them (`ttft_ms`).
constexpr double to_ms(duration d) { return static_cast<double>(d.count()) * 1e-6; }
constexpr double to_s(duration d) { return static_cast<double>(d.count()) * 1e-9; }
constexpr duration from_ms(double ms) { return duration{static_cast<std::int64_t>(ms * 1e6)}; }
constexpr duration from_s(double s) { return duration{static_cast<std::int64_t>(s * 1e9)}; }

} // namespace hflex
