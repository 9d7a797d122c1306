// What tables of keys are made of: rules by short names, a row for a scalar field, and the rows of a step-time profile,
// which stand in more than one kind of file. Used by config/schema.cpp and by the simulator's cluster files.
#pragma once
#include "config/config.hpp"
#include "config/reading.hpp"
#include <span>
#include <string_view>
#include <vector>

namespace hflex::config {

namespace rules {

constexpr rule text{value_type::text};
constexpr rule name{value_type::name};
constexpr rule path{value_type::path};
constexpr rule device{value_type::device};
constexpr rule boolean{value_type::boolean};
constexpr double hour_ms = 3'600'000;
constexpr double day_s = 86'400;

constexpr rule words(std::span<const std::string_view> allowed) { return {value_type::word, 0, 0, allowed}; }
constexpr rule or_empty(rule r) {
  r.may_be_empty = true;
  return r;
}
constexpr rule whole(double min, double max) { return {value_type::whole, min, max}; }
constexpr rule real(double min, double max) { return {value_type::real, min, max}; }
constexpr rule us(double min, double max) {
  return {value_type::real, min, max, {}, {"microseconds", std::chrono::microseconds{1}}};
}
constexpr rule ms(double min, double max) {
  return {value_type::real, min, max, {}, {"milliseconds", std::chrono::milliseconds{1}}};
}
constexpr rule seconds(double min, double max) {
  return {value_type::real, min, max, {}, {"seconds", std::chrono::seconds{1}}};
}

} // namespace rules

/// A scalar row: `Rule` is a captureless lambda that makes its rule, `Ref` one from a T to its field. The rule is made
/// again where `get` needs it, because a function pointer carries no state.
template <class T, class Rule, class Ref>
row<T> scalar(std::string_view key, Rule, Ref, std::string_view doc, bool required = false) {
  return {key, Rule{}(), doc, [](T& to, value&& v) { assign(Ref{}(to), std::move(v)); },
      [](const T& from) { return written(Ref{}(from), Rule{}()); }, nullptr, required};
}

/// The rows of a step_profile inside a T: `Ref` is a captureless lambda from a T to it.
template <class T, class Ref>
std::vector<row<T>> step_profile_rows(Ref, bool required) {
  using namespace rules;
  const auto at = [&]<class Rule, class Field>(
                      std::string_view key, Rule rule_of, Field, std::string_view doc, bool needed = false) {
    return scalar<T>(
        key, rule_of, [](auto& of) -> auto& { return Field{}(Ref{}(of)); }, doc, needed);
  };
  const auto any_text = [] { return or_empty(text); };
  const auto error = [] { return real(0, 1e6); };
  const auto ms_each = [] { return real(0, 1e6); };
  return {
      at(
          "device", any_text, [](auto& p) -> auto& { return p.device; }, "What was measured."),
      at(
          "isa", any_text, [](auto& p) -> auto& { return p.isa; }, "Its kernels."),
      at(
          "threads", [] { return whole(0, 4096); }, [](auto& p) -> auto& { return p.threads; },
          "Compute threads; 0 on a GPU."),
      at(
          "model", any_text, [](auto& p) -> auto& { return p.model; }, "What it ran."),
      at(
          "compute", any_text, [](auto& p) -> auto& { return p.compute; }, "Arithmetic of activations."),
      at(
          "steps", [] { return whole(0, 1e9); }, [](auto& p) -> auto& { return p.steps; }, "Steps that were measured."),
      at(
          "mean_error", error, [](auto& p) -> auto& { return p.mean_error; }, "Relative, on held-out steps."),
      at(
          "p95_error", error, [](auto& p) -> auto& { return p.p95_error; }, "Its 95th percentile."),
      at(
          "step_time.c0_ms", ms_each, [](auto& p) -> auto& { return p.step_time.c0_ms; }, "Per step.", required),
      at(
          "step_time.c1_ms", ms_each, [](auto& p) -> auto& { return p.step_time.c1_ms; }, "Per token beyond the knee.",
          required),
      at(
          "step_time.m0", [] { return whole(0, 1e6); }, [](auto& p) -> auto& { return p.step_time.m0; },
          "The knee, in tokens.", required),
      at(
          "step_time.c2_ms", ms_each, [](auto& p) -> auto& { return p.step_time.c2_ms; },
          "Per query-key pair of the prefill chunks.", required),
      at(
          "step_time.c3_ms", ms_each, [](auto& p) -> auto& { return p.step_time.c3_ms; }, "Per decoding sequence.",
          required),
      at(
          "step_time.c4_ms", ms_each, [](auto& p) -> auto& { return p.step_time.c4_ms; },
          "Per token of context of the decoding sequences.", required),
      at(
          "step_time.c5_ms", ms_each, [](auto& p) -> auto& { return p.step_time.c5_ms; },
          "The same again in a step that also prefills."),
      at(
          "step_time.safety", [] { return real(1, 99); }, [](auto& p) -> auto& { return p.step_time.safety; },
          "Measured/predicted at the quantile to plan with."),
  };
}

} // namespace hflex::config
