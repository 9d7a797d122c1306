#include "actors/common/metrics.hpp"
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

namespace hflex {

namespace {

using sample = std::vector<double>;

// Orders as much of the sample as it needs. What was asked for a smaller p before has left the larger ones behind it.
double percentile(sample& values, double p, std::size_t ordered_up_to) {
  const double rank = p * static_cast<double>(values.size() - 1);
  const auto below = values.begin() + static_cast<std::ptrdiff_t>(rank);
  std::nth_element(values.begin() + static_cast<std::ptrdiff_t>(ordered_up_to), below, values.end());
  const auto above = below + 1 == values.end() ? below : std::min_element(below + 1, values.end());
  return std::lerp(*below, *above, rank - std::floor(rank));
}

distribution describe(sample& values) {
  if (values.empty()) return {};
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  const auto rank = [&](double p) { return static_cast<std::size_t>(p * static_cast<double>(values.size() - 1)); };
  distribution d{values.size(), sum / static_cast<double>(values.size()), 0, 0, 0};
  d.p50_ms = percentile(values, 0.50, 0);
  d.p90_ms = percentile(values, 0.90, rank(0.50));
  d.p99_ms = percentile(values, 0.99, rank(0.90));
  return d;
}

// What is gathered for one summary.
struct gathering {
  slo_summary summary;
  sample ttft, tpot, itl, e2e;
  double weight{};
  double attained_weight{};
  std::uint64_t strict{};
  bool strict_known{true};

  void add(const request_record& r) {
    ++summary.requests;
    weight += r.slo.weight;
    if (!r.result)
      ++summary.unfinished;
    else if (*r.result == outcome::shed)
      ++summary.shed;
    else if (*r.result == outcome::cancelled)
      ++summary.cancelled;
    else if (*r.result == outcome::failed)
      ++summary.failed;
    else
      add_finished(r);
  }

  void add_finished(const request_record& r) {
    ++summary.finished;
    summary.output_tokens += r.timing.output_tokens;
    if (attained(r.timing, r.slo)) {
      ++summary.attained;
      attained_weight += r.slo.weight;
    }
    if (auto t = hflex::ttft(r.timing)) ttft.push_back(to_ms(*t));
    if (auto t = hflex::tpot(r.timing); t && r.timing.output_tokens > 1) tpot.push_back(to_ms(*t));
    if (auto t = hflex::e2e(r.timing)) e2e.push_back(to_ms(*t));
    for (std::size_t i = 1; i < r.token_times.size(); ++i)
      itl.push_back(to_ms(r.token_times[i] - r.token_times[i - 1]));
    strict_known = strict_known && !r.token_times.empty();
    strict += strictly_attained(r.timing.arrival, r.slo, r.token_times) ? 1 : 0;
  }

  slo_summary finish(duration wall) {
    const auto share = [](double part, double whole) { return whole > 0 ? part / whole : 0.0; };
    const auto all = static_cast<double>(summary.requests);
    summary.attainment = share(static_cast<double>(summary.attained), all);
    summary.weighted_attainment = share(attained_weight, weight);
    if (strict_known) summary.strict_attainment = share(static_cast<double>(strict), all);
    summary.goodput_per_s = share(static_cast<double>(summary.attained), to_s(wall));
    summary.ttft = describe(ttft);
    summary.tpot = describe(tpot);
    summary.itl = describe(itl);
    summary.e2e = describe(e2e);
    return std::move(summary);
  }
};

} // namespace

bool strictly_attained(time_point arrival, const slo_targets& slo, std::span<const time_point> token_times) {
  for (std::uint32_t i = 0; i < token_times.size(); ++i)
    if (token_times[i] > token_deadline(arrival, slo, i)) return false;
  return !token_times.empty();
}

slo_report summarize(std::span<const request_record> records, duration wall) {
  gathering overall;
  std::map<std::string_view, gathering> by_class;
  for (const auto& r : records) {
    overall.add(r);
    by_class[r.slo_class].add(r);
  }
  slo_report report{overall.finish(wall), {}};
  for (auto& [name, gathered] : by_class) {
    gathered.summary.slo_class = std::string(name);
    report.classes.push_back(gathered.finish(wall));
  }
  return report;
}

} // namespace hflex
