// A router core with its clock and what it answered to the last event, for the router's tests.
#pragma once
#include "actors/router/router.hpp"
#include "tests/unit/actors/effects_of.hpp"

namespace hflex::router::test {

using namespace std::chrono_literals;
using hflex::test::all;
using hflex::test::count;
using hflex::test::only;

inline constexpr client_id alice{1};
inline constexpr client_id bob{2};
inline constexpr instance_id i1{1};
inline constexpr instance_id i2{2};
inline constexpr instance_id i3{3};
inline constexpr token_id eos = 99;

inline options small() {
  options o;
  o.classes = {{"chat", {200ms, 50ms, {}, 1.0, late_action::serve_late}, "test"},
      {"batch", {10s, 1s, {}, 1.0, late_action::shed}, "test"}};
  o.default_class = "chat";
  o.max_context = 32;
  o.default_max_output_tokens = 8;
  o.eos_tokens = {eos};
  o.max_in_flight = 3;
  o.max_history = 2;
  o.max_waiters = 2;
  o.max_attempts = 3;
  o.request_timeout = 60s;
  o.stage_timeout = 5s;
  o.reorder_timeout = 100ms;
  return o;
}

/// One core, its clock, and what it answered to the last event.
struct bench {
  core c{small()};
  time_point now{1s};
  std::vector<effect> out{};

  template <class Event>
  std::vector<effect>& on(const Event& e, duration later = {}) {
    now += later;
    out.clear();
    c.on(e, now, out);
    return out;
  }
  request_id submitted(std::size_t prompt = 4, std::optional<std::uint32_t> limit = {}, bool detach = false) {
    submit s;
    s.client = alice;
    s.client_ref = 7;
    s.prompt.assign(prompt, 5);
    s.max_output_tokens = limit;
    s.detach = detach;
    return only<accepted>(on(s)).id;
  }
  request_id started(instance_id prefill, instance_id decode, std::optional<std::uint32_t> limit = {}) {
    auto id = submitted(4, limit);
    only<start>(on(placed{{id, 1}, prefill, decode}));
    return id;
  }
  std::string refusal(const submit& s) { return only<refused>(on(s)).reason; }
};

inline submit prompt_of(std::size_t tokens_in_prompt) {
  submit s;
  s.client = alice;
  s.prompt.assign(tokens_in_prompt, 5);
  return s;
}

inline bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

} // namespace hflex::router::test
