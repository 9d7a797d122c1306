// Weak duality. Put a price of p(t) >= 0 on a second of an instance of a pool at time t. A schedule that serves the
// share x_i of request i uses no more than there is, and pays for its share no less than x_i times the least that i's
// work costs anywhere in its windows, c_i. So for any prices at all
//   sum x_i*worth_i <= sum x_i*worth_i + (price of what is left over)
//                   <= (price of all there is) + sum x_i*(worth_i - c_i)
//                   <= (price of all there is) + sum max(0, worth_i - c_i),
// which does not ask how the prices came about. They are looked for as those of an auction: each request spreads over
// its windows, the more to where it is cheap; what is wanted more than it is there becomes dearer; and the spread
// narrows. Prices are good when the bound no longer falls; bad ones make it loose, never wrong.
#include "tools/sim/fluid_bound.hpp"
#include "actors/common/check.hpp"
#include <algorithm>
#include <cmath>
#include <limits>

namespace hflex::sim {

namespace {

constexpr int coolings = 14;            ///< how often the spread narrows
constexpr int rounds_per_cooling = 24;  ///< of prices, at one spread
constexpr int blind_coolings = 6;       ///< before the first look at the bound itself; then one each
constexpr double widest_spread = 0.7;   ///< of what requests can pay at most, at the median
constexpr double narrower = 0.7;        ///< each time
constexpr double price_step = 0.7;      ///< of the way to the price at which demand would be what there is
constexpr double boldest_step = 2;      ///< in spreads
constexpr double least_exponent = -600; ///< what is dearer by more spreads is not wanted

/// A window as the pieces of time [first, last) between breakpoints.
struct window {
  std::size_t first{};
  std::size_t last{};
};

/// A part of a window, as one job sees it.
struct piece {
  double price{};
  double room{}; ///< how much work it takes
};

/// Sums over any range of leaves, and amounts put on any range, in O(log n): nothing is ever subtracted, so that small
/// leaves beside large ones stay exact.
class range_sums {
public:
  explicit range_sums(std::size_t leaves) : leaves_(leaves), sum_(2 * leaves), factor_(2 * leaves) {}

  double& leaf(std::size_t i) { return sum_[leaves_ + i]; }
  void build() {
    for (std::size_t n = leaves_; n-- > 1;) sum_[n] = sum_[2 * n] + sum_[2 * n + 1];
    std::fill(factor_.begin(), factor_.end(), 0.0);
  }
  double sum(window w) const {
    double total = 0;
    visit(w, [&](std::size_t n) { total += sum_[n]; });
    return total;
  }
  /// Each leaf of the window gets `factor` times itself.
  void put(window w, double factor) {
    visit(w, [&](std::size_t n) { factor_[n] += factor; });
  }
  /// All that was put on leaf i, once spread() was called.
  void spread() {
    for (std::size_t n = 2; n < 2 * leaves_; ++n) factor_[n] += factor_[n / 2];
  }
  double amount(std::size_t i) const { return sum_[leaves_ + i] * factor_[leaves_ + i]; }

private:
  template <class Function>
  void visit(window w, Function f) const {
    for (auto l = w.first + leaves_, r = w.last + leaves_; l < r; l /= 2, r /= 2) {
      if (l % 2 == 1) f(l++);
      if (r % 2 == 1) f(--r);
    }
  }

  std::size_t leaves_;
  std::vector<double> sum_;
  std::vector<double> factor_;
};

/// One pool's time, cut where windows begin and end.
class pool_time {
public:
  pool_time(double instances, std::vector<double> breakpoints) : instances_(instances), at_(std::move(breakpoints)) {
    std::sort(at_.begin(), at_.end());
    at_.erase(std::unique(at_.begin(), at_.end()), at_.end());
    price_.assign(at_.empty() ? 0 : at_.size() - 1, 0.0);
  }

  std::size_t pieces() const { return price_.size(); }
  double width(std::size_t i) const { return at_[i + 1] - at_[i]; }
  double capacity(std::size_t i) const { return instances_ * width(i); }
  double price(std::size_t i) const { return price_[i]; }
  void set_price(std::size_t i, double price) { price_[i] = std::max(0.0, price); }
  window between(double begin, double end) const { return {place(begin), place(end)}; }
  double length(window w) const { return at_[w.last] - at_[w.first]; }
  double price_of_all() const {
    double total = 0;
    for (std::size_t i = 0; i < pieces(); ++i) total += capacity(i) * price_[i];
    return total;
  }
  /// The least that `job` costs in `w`: the cheapest pieces, each as full as its rate allows. Infinite when it does not
  /// fit. Expected O(pieces of w).
  double least_cost(const fluid_job& job, window w, std::vector<piece>& scratch) const {
    scratch.clear();
    for (auto i = w.first; i < w.last; ++i) scratch.push_back({price_[i], width(i) * job.rate});
    // Pieces below `low` are taken whole; the last one that is needed lies in [low, high).
    auto low = scratch.begin(), high = scratch.end();
    double left = job.work_s, cost = 0;
    while (high - low > 1) {
      const auto middle = low + (high - low) / 2;
      std::nth_element(low, middle, high, [](const piece& x, const piece& y) { return x.price < y.price; });
      double fits = 0, costs = 0;
      for (auto i = low; i != middle; ++i) {
        fits += i->room;
        costs += i->room * i->price;
      }
      if (fits >= left) {
        high = middle;
        continue;
      }
      left -= fits;
      cost += costs;
      low = middle;
    }
    if (low == high || left > low->room + job.work_s * 1e-9) return std::numeric_limits<double>::infinity();
    return cost + left * low->price;
  }

private:
  std::size_t place(double time) const {
    return static_cast<std::size_t>(std::lower_bound(at_.begin(), at_.end(), time) - at_.begin());
  }

  double instances_;
  std::vector<double> at_;
  std::vector<double> price_; ///< of an instance's second, by piece
};

class auction {
public:
  auction(std::span<const fluid_request> requests, std::span<const double> pools, double grain) : requests_(requests) {
    std::vector<std::vector<double>> cuts(pools.size());
    const auto down = [&](double t) { return grain > 0 ? std::floor(t / grain) * grain : t; };
    const auto up = [&](double t) { return grain > 0 ? std::ceil(t / grain) * grain : t; };
    for (const auto& r : requests_)
      for (const auto& j : r.jobs) {
        HFLEX_CHECK(j.pool < pools.size() && j.begin_s < j.end_s && j.work_s >= 0 && j.rate > 0);
        cuts[j.pool].push_back(down(j.begin_s));
        cuts[j.pool].push_back(up(j.end_s));
      }
    for (std::size_t p = 0; p < pools.size(); ++p) {
      pools_.emplace_back(pools[p], std::move(cuts[p]));
      sums_.emplace_back(std::max<std::size_t>(pools_.back().pieces(), 1));
    }
    for (const auto& r : requests_)
      for (const auto& j : r.jobs) windows_.push_back(pools_[j.pool].between(down(j.begin_s), up(j.end_s)));
  }

  double best() {
    const double paid = median_density();
    double found = bound();
    if (paid <= 0) return found;
    double spread = paid * widest_spread;
    for (int i = 0; i < coolings; ++i, spread *= narrower) {
      for (int k = 0; k < rounds_per_cooling; ++k) bid(spread);
      if (i >= blind_coolings) found = std::min(found, bound());
    }
    return found;
  }

private:
  /// What requests can pay for a second of work at most: half of them less, half more.
  double median_density() const {
    std::vector<double> all;
    for (const auto& r : requests_) {
      double work = 0;
      for (const auto& j : r.jobs) work += j.work_s;
      if (work > 0 && r.worth > 0) all.push_back(r.worth / work);
    }
    if (all.empty()) return 0;
    const auto middle = all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2);
    std::nth_element(all.begin(), middle, all.end());
    return *middle;
  }

  void bid(double spread) {
    for (std::size_t p = 0; p < pools_.size(); ++p) {
      for (std::size_t i = 0; i < pools_[p].pieces(); ++i)
        sums_[p].leaf(i) = pools_[p].width(i) * std::exp(std::max(-pools_[p].price(i) / spread, least_exponent));
      sums_[p].build();
    }
    std::size_t first = 0;
    for (const auto& r : requests_) {
      double cost = 0, work = 0;
      for (std::size_t k = 0; k < r.jobs.size(); ++k) {
        const auto& j = r.jobs[k];
        const auto w = windows_[first + k];
        cost -= j.work_s * spread * std::log(sums_[j.pool].sum(w) / pools_[j.pool].length(w));
        work += j.work_s;
      }
      if (work > 0) {
        const double served = 1 / (1 + std::exp(std::clamp((cost - r.worth) / (work * spread), -50.0, 50.0)));
        for (std::size_t k = 0; k < r.jobs.size(); ++k) {
          const auto& j = r.jobs[k];
          const auto w = windows_[first + k];
          sums_[j.pool].put(w, served * j.work_s / sums_[j.pool].sum(w));
        }
      }
      first += r.jobs.size();
    }
    for (std::size_t p = 0; p < pools_.size(); ++p) {
      sums_[p].spread();
      for (std::size_t i = 0; i < pools_[p].pieces(); ++i) {
        const double wanted = std::log(std::max(sums_[p].amount(i), 1e-300) / std::max(pools_[p].capacity(i), 1e-300));
        const double step = spread * std::clamp(price_step * wanted, -boldest_step, boldest_step);
        pools_[p].set_price(i, pools_[p].price(i) + step);
      }
    }
  }

  /// The bound that the present prices prove.
  double bound() {
    double total = 0;
    for (const auto& p : pools_) total += p.price_of_all();
    std::size_t first = 0;
    for (const auto& r : requests_) {
      double left = r.worth;
      for (std::size_t k = 0; k < r.jobs.size() && left > 0; ++k)
        left -= pools_[r.jobs[k].pool].least_cost(r.jobs[k], windows_[first + k], scratch_);
      total += std::max(0.0, left);
      first += r.jobs.size();
    }
    return total;
  }

  std::span<const fluid_request> requests_;
  std::vector<pool_time> pools_;
  std::vector<range_sums> sums_; ///< by pool
  std::vector<window> windows_;  ///< of all jobs, in order
  std::vector<piece> scratch_;
};

} // namespace

double fluid_bound(std::span<const fluid_request> requests, std::span<const double> pools, double grain_s) {
  return auction(requests, pools, grain_s).best();
}

} // namespace hflex::sim
