// The order in which hyperflexis wants to serve (design/scheduling.md, section 4): bands, deadlines, demotion. It
// decides who is next, not where to. Used by hyperflexis.cpp only. All operations but replan() are O(log n).
//
//   resumed  had tokens already: by the deadline of the next one, before everybody else
//   planned  expected to attain: earliest deadline first
//   spare    best effort: demoted (may return to `planned`) or lost (may not); the shortest first, as nobody's target
//   is at stake and the mean wait is least, and beside that by the time at which their age earns them a right
#pragma once
#include "actors/scheduler/view.hpp"
#include <memory_resource>
#include <optional>
#include <set>
#include <tuple>

namespace hflex::scheduler {

/// From then on an instance puts a request that it was given behind all those whose first token can come in time: its
/// own cannot. max(): never.
time_point goes_last_after(const instance_load& at, const placed_request& p);

class hyperflexis_queue {
public:
  struct entry;
  struct slot {
    time_point when; ///< due, for resumed and planned; ages at, for spare
    std::uint64_t order{};
    request_key key;
    entry* of{};
    friend bool operator<(const slot& a, const slot& b) {
      return a.when != b.when ? a.when < b.when : a.order < b.order;
    }
  };
  using band = std::pmr::set<slot>;
  struct sized {
    double tokens{};
    std::uint64_t order{};
    request_key key;
    friend bool operator<(const sized& a, const sized& b) {
      return std::tie(a.tokens, a.order) < std::tie(b.tokens, b.order);
    }
  };

  using by_size = std::pmr::set<sized>;

  hyperflexis_queue() = default;
  hyperflexis_queue(const hyperflexis_queue&) = delete; // slots point at entries
  hyperflexis_queue& operator=(const hyperflexis_queue&) = delete;

  /// `last_start`: later than that its first token cannot come in time, wherever it runs.
  void add(const waiting_request& w, time_point last_start, const options& opts);
  void remove(const waiting_request& w);

  const band& resumed() const { return resumed_; }
  const band& planned() const { return planned_; }
  const band& spare() const { return spare_; } ///< by age
  const by_size& spare_by_size() const { return spare_by_size_; }

  /// Moves those whose last start is over to `spare` for good. Calls `lost(key)` for each.
  template <class OnLost>
  void expire(time_point now, OnLost lost) {
    while (!starts_.empty() && starts_.front().when < now) {
      const auto first = starts_.front();
      std::pop_heap(starts_.begin(), starts_.end(), later);
      starts_.pop_back();
      auto* e = entries_.get(first.key);
      if (!e || e->due.order != first.order || e->is_lost) continue; // it has left meanwhile
      give_up(*e);
      lost(first.key);
    }
  }

  /// What the fleet can prefill. A small one is planned instance by instance: the time at which the next one is free,
  /// not the mean of all, decides what can still come in time. A large one is a single lane with the rate of all, on
  /// which a request's own part is as slow as on one instance.
  struct capacity {
    struct lane {
      double tokens_per_s{};
      double busy_s{}; ///< from now, with what was dispatched there and goes before the request that is looked at
    };
    struct work {
      time_point due;
      std::uint64_t tokens{}; ///< dispatched and not yet prefilled
      std::size_t lane{};
      friend auto operator<=>(const work&, const work&) = default;
    };
    std::vector<lane> lanes;
    std::vector<work> backlog;
    double best_tokens_per_s{}; ///< the fastest instance alone
    bool beside_decodes{false}; ///< instances of role mixed are among them
    /// A lane for this instance, which prefills `rate` tokens per second and ends the step under way in `rest`.
    void add(const view& v, const instance_load& at, double rate, duration rest, time_point now);
    double tokens_per_s() const;
  };
  /// Moore and Hodgson's rule over the first `depth` requests by deadline, each on the lane that has it done first:
  /// whenever one would be late, the costliest (tokens per weight) of those before it, or itself, is demoted. Demoted
  /// ones that fit again return. O(depth (log depth + lanes)).
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
    std::optional<time_point> last_start;
  };
  whereabouts find(request_key key) const;

  struct entry {
    slot due;
    slot ages;
    double tokens{};
    double weight{1.0};
    bool is_resumed{false};
    bool is_lost{false};
    bool is_demoted{false};
    bool was_demoted{false}; ///< when the replan() under way began
    std::size_t lane{};      ///< where the last replan() had it
    // Its places in the bands that it is in: looking for one in a long band costs more than leaving it.
    band::iterator in_band; ///< resumed, planned or spare
    band::iterator in_hopeful;
    by_size::iterator in_sizes;
  };

private:
  struct start {
    time_point when; ///< last start
    std::uint64_t order{};
    request_key key;
  };
  static bool later(const start& a, const start& b) { return a.when != b.when ? a.when > b.when : a.order > b.order; }
  void give_up(entry& e);
  void set_demoted(entry& e, bool demoted);
  void leave_spare(const entry& e);
  void forget_old_starts();

  std::pmr::unsynchronized_pool_resource memory_; ///< of the bands: they change with every request
  request_table<entry> entries_;
  band resumed_{&memory_};
  band planned_{&memory_};
  band spare_{&memory_};
  by_size spare_by_size_{&memory_}; ///< the same requests
  band hopeful_{&memory_};          ///< planned and demoted, by deadline
  std::vector<start> starts_;       ///< a heap of theirs, earliest on top; of some that have left, too
  double resumed_tokens_{};
  std::size_t changes_{}; ///< since the last replan
  std::vector<demotion> demotions_;
};

} // namespace hflex::scheduler
