// The order in which hyperflexis wants to serve (design/scheduling.md, section 4): bands, deadlines, demotion. It
// decides who is next, not where to. Used by hyperflexis.cpp only. All operations but replan() are O(log n).
//
//   resumed  had tokens already: by the deadline of the next one, before everybody else
//   planned  expected to attain: earliest deadline first
//   spare    best effort: demoted (may return to `planned`) or lost (may not); by the time at which their age earns
//   them a right
#pragma once
#include "actors/scheduler/view.hpp"
#include <set>

namespace hflex::scheduler {

class hyperflexis_queue {
public:
  struct slot {
    time_point when; ///< due, for resumed and planned; ages at, for spare
    std::uint64_t order{};
    request_key key;
    friend auto operator<=>(const slot&, const slot&) = default;
  };
  using band = std::set<slot>;

  /// `last_start`: later than that its first token cannot come in time, wherever it runs.
  void add(const waiting_request& w, time_point last_start, const options& opts);
  void remove(const waiting_request& w);

  const band& resumed() const { return resumed_; }
  const band& planned() const { return planned_; }
  const band& spare() const { return spare_; }

  /// Moves those whose last start is over to `spare` for good. Calls `lost(key)` for each.
  template <class OnLost>
  void expire(time_point now, OnLost lost) {
    while (!starts_.empty() && starts_.begin()->when < now) {
      const auto key = starts_.begin()->key;
      give_up(key);
      lost(key);
    }
  }

  /// What the fleet can prefill.
  struct capacity {
    double tokens_per_s{};      ///< all instances together
    double best_tokens_per_s{}; ///< the fastest one alone
    /// Dispatched and not yet done, by deadline: tokens of prefill.
    std::vector<std::pair<time_point, std::uint32_t>> backlog;
    void add(const view& v, const instance_load& at, double rate);
  };
  /// Moore and Hodgson's rule over the first `depth` requests by deadline: whenever one would be late, the costliest
  /// (tokens per weight) of those before it, or itself, is demoted. Demoted ones that fit again return. O(depth log
  /// depth).
  void replan(time_point now, capacity fleet, std::uint32_t depth);
  /// Whom the last replan() demoted that were in the plan before it, and the tokens of each.
  struct demotion {
    request_key key;
    double tokens{};
    time_point for_due; ///< of the request that would have been late
  };
  const std::vector<demotion>& demoted() const { return demotions_; }
  /// Whether enough came or went since the last replan() that the plan should be made again.
  bool stale() const;

  /// Where a waiting request is: its band, its place there, 1 = next, and its last start. O(n): for people.
  struct whereabouts {
    std::string_view band;
    std::uint32_t position{};
    std::uint32_t of{};
    time_point last_start;
  };
  whereabouts find(request_key key) const;

private:
  struct entry {
    slot due;
    slot start; ///< when = last start
    slot ages;
    double tokens{};
    double weight{1.0};
    bool is_resumed{false};
    bool is_lost{false};
    bool is_demoted{false};
    bool was_demoted{false}; ///< when the replan() under way began
  };
  void give_up(request_key key);
  void set_demoted(entry& e, bool demoted);

  std::map<request_key, entry> entries_;
  band resumed_;
  band planned_;
  band spare_;
  band hopeful_; ///< planned and demoted, by deadline
  band starts_;  ///< the same by last start
  double resumed_tokens_{};
  std::size_t changes_{}; ///< since the last replan
  std::vector<demotion> demotions_;
};

} // namespace hflex::scheduler
