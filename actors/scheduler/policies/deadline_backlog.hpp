// Prefill that was dispatched and is not done yet, by deadline, over the whole fleet: what stands before a waiting
// request wherever it goes, so without best effort. Kept per instance that changed since somebody asked. Used by
// hyperflexis.cpp for fleets that it does not plan instance by instance.
#pragma once
#include "actors/scheduler/view.hpp"
#include <map>

namespace hflex::scheduler {

class deadline_backlog {
public:
  /// What that instance has in hand may be different now.
  void changed(const instance_load& at) { note(at); }
  void gone(const instance_load& at) {
    note(at);
    parts_[at.slot].at = nullptr;
  }
  /// Tokens by deadline, earliest first. Deadlines count in whole grains, so that the list does not grow with the
  /// fleet.
  const std::map<time_point, std::uint64_t>& bring_up_to_date(const view& v);

private:
  static constexpr duration grain = std::chrono::milliseconds{8};

  struct part {
    std::vector<std::pair<time_point, std::uint32_t>> counted; ///< in `tokens_`
    const instance_load* at{};                                 ///< none: it is gone
    bool dirty{false};
  };
  void note(const instance_load& at);
  void take_out(part& p);

  std::vector<part> parts_; ///< by slot
  std::vector<std::uint32_t> dirty_;
  std::map<time_point, std::uint64_t> tokens_;
};

} // namespace hflex::scheduler
