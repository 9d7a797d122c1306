// Arrival rates over time, and the tables that generators draw from: readers of the files with rates and with lengths.
// Used by the generator.
#pragma once
#include "actors/common/result.hpp"
#include "tools/sim/csv.hpp"
#include "tools/sim/lengths.hpp"
#include <cstdint>
#include <string>
#include <vector>

namespace hflex::sim {

/// Linear between its points, and over again after the last one.
class rate_curve {
public:
  struct point {
    double t_s{};
    double rate{}; ///< requests per second, >= 0
  };
  /// Points by time, at least one with a rate above 0, at most a million. The curve begins at its first point.
  static result<rate_curve> from_points(std::vector<point> points, const std::string& name);

  double rate_at(double t_s) const;
  double highest() const;
  double mean() const;
  double length_s() const { return points_.back().t_s; }
  void scale(double factor);

private:
  std::vector<point> points_; ///< from 0 on
};

/// A file of rates: t_s and a column each. `column` may be empty where there is but one. errc::reject names file and
/// line.
result<rate_curve> read_rate_curve(const std::string& file, const std::string& column);

/// Lengths of prompts and answers as they were measured.
struct length_table {
  struct pair {
    std::uint32_t prompt_tokens{};
    std::uint32_t output_tokens{};
  };
  std::vector<pair> pairs; ///< of the same request; empty = only the two distributions are known
  length_distribution prompt;
  length_distribution output;
};

/// A file with prompt_tokens,output_tokens in each row (a trace serves), or with service,field,percentile,tokens: then
/// `service` picks the rows.
result<length_table> read_lengths(const std::string& file, const std::string& service);

} // namespace hflex::sim
