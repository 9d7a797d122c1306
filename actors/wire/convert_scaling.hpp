// Demand and scaling decisions <-> Cap'n Proto. What is read is checked: it throws kj::Exception for numbers that no
// scheduler can mean.
#pragma once
#include "actors/common/demand.hpp"
#include "actors/scaler/policy.hpp"
#include "schema/scaling.capnp.h"

namespace hflex::wire {

void write(schema::DemandReport::Builder out, const demand_report& report);
demand_report read(schema::DemandReport::Reader in);
void write(schema::ScaleFleet::Builder out, const scaler::request_scale& command);
scaler::request_scale read(schema::ScaleFleet::Reader in);
/// Only notes are written; the rest of the log is the shell's to set.
void write(
    capnp::List<schema::ScalingDecision>::Builder out, const std::deque<scaler::decision>& decisions, time_point now);

} // namespace hflex::wire
