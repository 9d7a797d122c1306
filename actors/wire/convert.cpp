#include "actors/wire/convert.hpp"
#include <algorithm>
#include <cmath>
#include <kj/debug.h>

namespace hflex::wire {
namespace {

/// Both enums list the same words in the same order; a number beyond the last is a newer peer's.
template <class To, class From>
To same_number(From value, To last) {
  auto number = static_cast<unsigned>(value);
  KJ_REQUIRE(number <= static_cast<unsigned>(last), "unknown enumerant", number);
  return static_cast<To>(number);
}

} // namespace

double finite(double value, double low, double high, const char* what) {
  KJ_REQUIRE(std::isfinite(value) && value >= low && value <= high, "number out of range", what, value);
  return value;
}

s::Role to_wire(instance_role role) { return same_number(role, s::Role::MIXED); }
instance_role from_wire(s::Role role) { return same_number(role, instance_role::mixed); }
s::Errc to_wire(errc code) { return same_number(code, s::Errc::FATAL); }
errc from_wire(s::Errc code) { return same_number(code, errc::fatal); }
s::Outcome to_wire(outcome o) { return same_number(o, s::Outcome::FAILED); }
outcome from_wire(s::Outcome o) { return same_number(o, outcome::failed); }
s::StopCause to_wire(stop_cause cause) { return same_number(cause, s::StopCause::CONTEXT_FULL); }
stop_cause from_wire(s::StopCause cause) { return same_number(cause, stop_cause::context_full); }

void write(s::RequestKey::Builder out, const request_key& key) {
  out.setId(key.id.value);
  out.setAttempt(key.attempt);
}

request_key read(s::RequestKey::Reader in) {
  KJ_REQUIRE(in.getId() != 0, "a request key without an id");
  return {request_id{in.getId()}, in.getAttempt()};
}

void write(s::Sampling::Builder out, const sampling_params& sampling) {
  out.setTemperature(sampling.temperature);
  out.setTopP(sampling.top_p);
  out.setTopK(sampling.top_k);
  out.setSeed(sampling.seed);
}

sampling_params read(s::Sampling::Reader in) {
  // NaN and nonsense are refused by the router with a message for the client; between roles they are a peer's fault.
  return {in.getTemperature(), in.getTopP(), in.getTopK(), in.getSeed()};
}

void write(s::SloTargets::Builder out, const slo_targets& slo) {
  out.setTtftMs(to_ms(slo.ttft));
  out.setTpotMs(to_ms(slo.tpot));
  out.setE2eMs(slo.e2e ? to_ms(*slo.e2e) : 0);
  out.setWeight(slo.weight);
  out.setShedWhenLate(slo.when_late == late_action::shed);
}

slo_targets read(s::SloTargets::Reader in) {
  slo_targets slo;
  slo.ttft = from_ms(finite(in.getTtftMs(), 0, longest_ms, "ttftMs"));
  slo.tpot = from_ms(finite(in.getTpotMs(), 0, longest_ms, "tpotMs"));
  if (auto ms = finite(in.getE2eMs(), 0, longest_ms, "e2eMs"); ms > 0) slo.e2e = from_ms(ms);
  slo.weight = finite(in.getWeight(), 0, 1e6, "weight");
  slo.when_late = in.getShedWhenLate() ? late_action::shed : late_action::serve_late;
  return slo;
}

void write(s::StepShape::Builder out, const step_shape& shape) {
  out.setPrefillTokens(shape.prefill_tokens);
  out.setDecodeSeqs(shape.decode_seqs);
  out.setQueryKeyPairs(shape.query_key_pairs);
  out.setDecodeContext(shape.decode_context);
}

step_shape read(s::StepShape::Reader in) {
  step_shape shape;
  shape.prefill_tokens = in.getPrefillTokens();
  shape.decode_seqs = in.getDecodeSeqs();
  shape.query_key_pairs = finite(in.getQueryKeyPairs(), 0, 1e18, "queryKeyPairs");
  shape.decode_context = finite(in.getDecodeContext(), 0, 1e18, "decodeContext");
  return shape;
}

void write(s::StepTime::Builder out, const step_time_model& model) {
  out.setC0(model.c0_ms);
  out.setC1(model.c1_ms);
  out.setM0(model.m0);
  out.setC2(model.c2_ms);
  out.setC3(model.c3_ms);
  out.setC4(model.c4_ms);
  out.setC5(model.c5_ms);
  out.setSafety(model.safety);
}

step_time_model read(s::StepTime::Reader in) {
  constexpr double most = 1e9;
  return {finite(in.getC0(), 0, most, "c0"), finite(in.getC1(), 0, most, "c1"), in.getM0(),
      finite(in.getC2(), 0, most, "c2"), finite(in.getC3(), 0, most, "c3"), finite(in.getC4(), 0, most, "c4"),
      finite(in.getC5(), 0, most, "c5"), finite(in.getSafety(), 1, 100, "safety")};
}

std::int64_t age_us(time_point then, time_point now) {
  return std::chrono::duration_cast<std::chrono::microseconds>(now - then).count();
}

time_point point_of(std::int64_t age, time_point now) {
  constexpr std::int64_t longest_us = std::int64_t{366} * 24 * 3600 * 1000000;
  return now - std::chrono::microseconds{std::clamp<std::int64_t>(age, 0, longest_us)};
}

void write(s::SequenceSpec::Builder out, const sequence_spec& spec, time_point now) {
  write(out.initKey(), spec.key);
  write(out.initTokens(static_cast<unsigned>(spec.tokens.size())), spec.tokens);
  out.setPromptTokens(spec.prompt_tokens);
  out.setMaxOutputTokens(spec.max_output_tokens);
  write(out.initSampling(), spec.sampling);
  out.setIgnoreEos(spec.ignore_eos);
  out.setAgeUs(age_us(spec.arrival, now));
  write(out.initSlo(), spec.slo);
}

sequence_spec read(s::SequenceSpec::Reader in, time_point now) {
  sequence_spec spec;
  spec.key = read(in.getKey());
  spec.tokens = read(in.getTokens());
  spec.prompt_tokens = in.getPromptTokens();
  spec.max_output_tokens = in.getMaxOutputTokens();
  KJ_REQUIRE(!spec.tokens.empty() && spec.prompt_tokens > 0, "a sequence without a prompt");
  KJ_REQUIRE(spec.prompt_tokens <= spec.tokens.size(), "more prompt tokens than tokens", spec.prompt_tokens);
  KJ_REQUIRE(spec.produced() < spec.max_output_tokens, "nothing left to produce", spec.max_output_tokens);
  spec.sampling = read(in.getSampling());
  spec.ignore_eos = in.getIgnoreEos();
  spec.arrival = point_of(in.getAgeUs(), now);
  spec.slo = read(in.getSlo());
  return spec;
}

void write(capnp::List<std::int32_t>::Builder out, const std::vector<token_id>& tokens) {
  for (unsigned i = 0; i < tokens.size(); ++i) out.set(i, tokens[i]);
}

std::vector<token_id> read(capnp::List<std::int32_t>::Reader in) {
  KJ_REQUIRE(in.size() <= max_sequence_tokens, "too many tokens in one message", in.size());
  std::vector<token_id> tokens;
  tokens.reserve(in.size());
  for (auto id : in) tokens.push_back(id);
  return tokens;
}

void write(capnp::List<capnp::Text>::Builder out, const std::vector<std::string>& words) {
  for (unsigned i = 0; i < words.size(); ++i) out.set(i, words[i]);
}

std::vector<std::string> read(capnp::List<capnp::Text>::Reader in) {
  KJ_REQUIRE(in.size() <= 4096, "too many words in one message", in.size());
  std::vector<std::string> words;
  for (auto word : in) words.emplace_back(word.cStr(), word.size());
  return words;
}

std::string read(capnp::Text::Reader in) { return {in.cStr(), in.size()}; }

} // namespace hflex::wire
