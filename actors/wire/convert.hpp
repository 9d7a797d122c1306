// Cap'n Proto <-> values, for the structs that several messages share. Reading checks what the schema cannot say
// (enumerants of a newer peer, ranges) and throws kj::Exception, which wire::on turns into an error to the sender.
#pragma once
#include "actors/common/request.hpp"
#include "actors/common/result.hpp"
#include "actors/common/step_time.hpp"
#include "schema/common.capnp.h"
#include "schema/instance.capnp.h"
#include "schema/job.capnp.h"
#include <capnp/list.h>

namespace hflex::wire {

namespace s = schema;

/// Most tokens a peer may put in one sequence: above any model's context, below any message's size bound.
inline constexpr std::uint32_t max_sequence_tokens = 2U << 20U;

/// About four months: far beyond any target, far below overflow in nanoseconds.
inline constexpr double longest_ms = 1e10;

/// The value, or kj::Exception when it lies outside [low, high] or is no number; `what` is the field's name.
double finite(double value, double low, double high, const char* what);

s::Role to_wire(instance_role role);
instance_role from_wire(s::Role role);
s::Errc to_wire(errc code);
errc from_wire(s::Errc code);
s::Outcome to_wire(outcome o);
outcome from_wire(s::Outcome o);
s::StopCause to_wire(stop_cause cause);
stop_cause from_wire(s::StopCause cause);

void write(s::RequestKey::Builder out, const request_key& key);
request_key read(s::RequestKey::Reader in);
void write(s::Sampling::Builder out, const sampling_params& sampling);
sampling_params read(s::Sampling::Reader in);
void write(s::SloTargets::Builder out, const slo_targets& slo);
slo_targets read(s::SloTargets::Reader in);
void write(s::StepShape::Builder out, const step_shape& shape);
step_shape read(s::StepShape::Reader in);
void write(s::StepTime::Builder out, const step_time_model& model);
/// Throws kj::Exception for coefficients that no device can have.
step_time_model read(s::StepTime::Reader in);

/// Points in time become ages at the sender and points of the receiver's clock again.
void write(s::SequenceSpec::Builder out, const sequence_spec& spec, time_point now);
sequence_spec read(s::SequenceSpec::Reader in, time_point now);

std::int64_t age_us(time_point then, time_point now);
time_point point_of(std::int64_t age_us, time_point now);

void write(capnp::List<std::int32_t>::Builder out, const std::vector<token_id>& tokens);
std::vector<token_id> read(capnp::List<std::int32_t>::Reader in);
void write(capnp::List<capnp::Text>::Builder out, const std::vector<std::string>& words);
std::vector<std::string> read(capnp::List<capnp::Text>::Reader in);
std::string read(capnp::Text::Reader in);

} // namespace hflex::wire
