// What the scheduler tells the scaler of the load (actors/common/demand.hpp). describe_demand() is a function of the
// scheduler's accounts; demand_meter adds what came and went since the last report. Used by the scheduler's shell and
// by the simulator's world, which pass the reports on. It decides nothing.
#pragma once
#include "actors/common/demand.hpp"
#include "actors/scheduler/view.hpp"
#include <map>
#include <optional>
#include <string>

namespace hflex::scheduler {

/// Everything but `span`, `classes` and `decoded`. `late` are those that the plan of section 4 (earliest deadline
/// first, Moore and Hodgson's rule, over the first options::plan_depth by deadline) gives up at the rate at which the
/// instances can prefill now. O(instances + plan_depth log plan_depth).
demand_report describe_demand(const view& v, time_point now);

class demand_meter {
public:
  /// How often a report is worth making while things happen.
  static constexpr duration every{std::chrono::milliseconds{250}};

  explicit demand_meter(time_point now) : since_(now) {}
  /// Tell it of every event before the core; a later attempt is no new demand.
  void arrived(const request_arrived& e);
  void ended(const view& v, const request_ended& e);
  /// When the next report is due: nothing while there is nothing to tell but the state of the instances.
  std::optional<time_point> due() const;
  /// Whether a report may be made now.
  bool ready(time_point now) const { return now - since_ >= every; }
  /// The report; counting begins anew.
  demand_report take(const view& v, time_point now);

private:
  class_demand& of(const std::string& name);

  std::map<std::string, class_demand> classes_; ///< what clients call classes is bounded by the router's list
  time_point since_;
  std::uint64_t decoded_{}; ///< of the view, at the report before
};

} // namespace hflex::scheduler
