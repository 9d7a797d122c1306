#include "actors/weights/bandwidth.hpp"
#include <algorithm>
#include <cmath>

namespace hflex::weights {

void bandwidth_cap::slack(instance_id instance, double share) { slack_[instance] = std::isnan(share) ? 0.0 : share; }

void bandwidth_cap::gone(instance_id instance) { slack_.erase(instance); }

std::uint64_t bandwidth_cap::value() const {
  auto least = opts_.comfortable;
  for (const auto& [id, share] : slack_) least = std::min(least, share);
  const auto room = (least - opts_.tight) / (opts_.comfortable - opts_.tight);
  if (room >= 1.0) return opts_.link_bytes_per_s;
  const auto link = opts_.link_bytes_per_s > 0 ? opts_.link_bytes_per_s : opts_.assumed_bytes_per_s;
  const auto eighths = std::floor(std::max(room, 0.0) * 8.0) / 8.0;
  return static_cast<std::uint64_t>(static_cast<double>(link) * std::max(eighths, opts_.floor));
}

} // namespace hflex::weights
