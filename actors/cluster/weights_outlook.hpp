// How long the rest of an instance's weights will take, by how they have come so far. Used by the cluster's shell.
#pragma once
#include "actors/common/time.hpp"
#include <algorithm>
#include <cstdint>
#include <deque>

namespace hflex::cluster {

/// A link often lets a burst through before it shows its rate, and a source gives less when its own requests are in a
/// hurry: the slower of the rate of late and that of all so far is believed, and none before some time has passed.
class weights_outlook {
public:
  /// What is expected while no rate is known, and at most.
  static constexpr duration unknown = std::chrono::seconds{10};
  static constexpr duration longest = std::chrono::minutes{10};

  /// So many bytes of `total` are there. Another total, or fewer bytes, is another load.
  void note(std::uint64_t done, std::uint64_t total, time_point now) {
    if (total != total_ || (!seen_.empty() && done < seen_.back().bytes)) seen_.clear();
    if (seen_.empty()) first_ = {now, done};
    total_ = total;
    seen_.push_back({now, done});
    while (seen_.size() > 2 && seen_[1].at <= now - of_late) seen_.pop_front();
  }
  bool complete() const { return !seen_.empty() && seen_.back().bytes >= total_; }
  /// From `now` until the last byte: at least a millisecond, unless complete.
  duration left(time_point now) const {
    if (complete()) return duration{0};
    if (seen_.empty() || seen_.back().at - first_.at < believed_after) return unknown;
    const auto& latest = seen_.back();
    const double per_byte = std::max(pace(first_, latest), pace(seen_.front(), latest));
    const double rest_s = per_byte * static_cast<double>(total_ - latest.bytes) - to_s(now - latest.at);
    return std::clamp<duration>(from_s(std::min(rest_s, to_s(longest))), std::chrono::milliseconds{1}, longest);
  }

private:
  static constexpr duration of_late = std::chrono::milliseconds{500};
  static constexpr duration believed_after = std::chrono::milliseconds{250};

  struct sample {
    time_point at;
    std::uint64_t bytes{};
  };
  /// Seconds a byte; of no bytes, as if it had been one.
  static double pace(const sample& from, const sample& to) {
    return to_s(to.at - from.at) / static_cast<double>(std::max<std::uint64_t>(1, to.bytes - from.bytes));
  }

  std::deque<sample> seen_; ///< of late, and one before
  sample first_;
  std::uint64_t total_{};
};

} // namespace hflex::cluster
