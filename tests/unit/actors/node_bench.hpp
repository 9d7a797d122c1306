// A node core with its clock and what it answered to the last event, for the node's tests.
#pragma once
#include "actors/node/node.hpp"
#include "tests/unit/actors/effects_of.hpp"

namespace hflex::node::test {

using namespace std::chrono_literals;
using hflex::test::all;
using hflex::test::count;
using hflex::test::only;

inline constexpr instance_id i1{1};
inline constexpr instance_id i2{2};
inline constexpr instance_id i3{3};
inline const model_ref austen{"/m/austen", "d1"};

inline options quick() {
  options o;
  o.name = "gpu-a";
  o.devices = {{"cpu", "Zen", 1000, 1}, {"cpu", "Zen", 1000, 2}};
  o.heartbeat_interval = 100ms;
  o.connect_deadline = 1s;
  o.backoff_min = 100ms;
  o.backoff_max = 1s;
  o.start_deadline = 10s;
  o.spawn_deadline = 1s;
  o.drain_deadline = 5s;
  o.keep_contexts = 60s;
  o.serve_while_loading = true;
  return o;
}

struct bench {
  core c{quick()};
  time_point now{1s};
  std::vector<effect> out{};

  template <class Event>
  std::vector<effect>& on(const Event& e, duration later = {}) {
    now += later;
    out.clear();
    c.on(e, now, out);
    return out;
  }
  void join_head(std::uint64_t incarnation = 7) {
    if (c.connection() == head_state::disconnected && incarnation == 7) on(begin{});
    on(opened{incarnation});
    on(welcomed{incarnation, {4}, 100ms});
    REQUIRE(c.connection() == head_state::joined);
  }
  /// Brings an instance up to `running` on a fresh context; returns the context.
  context_id run(instance_id id, std::uint32_t device = 0, instance_role role = instance_role::mixed) {
    on(start_instance{id, device, role, austen});
    only<ask_weights>(out);
    auto context = only<create_context>(on(weights_ready{id, "d1"})).context;
    only<spawn_instance>(on(context_ready{context}));
    CHECK(reported() == std::vector<report_state>{});
    on(instance_ready{id});
    CHECK(reported() == std::vector<report_state>{report_state::running});
    return context;
  }
  /// A start that has come to one of the stages before `running`.
  context_id bring_to(instance_state stage, instance_id id = i1) {
    context_id context{};
    on(start_instance{id, 0, instance_role::decode, austen});
    if (stage != instance_state::waiting_weights) {
      context = only<create_context>(on(weights_ready{id, "d1"})).context;
      if (stage == instance_state::spawning) on(context_ready{context});
    }
    REQUIRE(state_of(id) == stage);
    return context;
  }
  std::optional<instance_state> state_of(instance_id id) const {
    for (auto& view : c.instances())
      if (view.instance == id) return view.state;
    return std::nullopt;
  }
  std::vector<report_state> reported() const {
    std::vector<report_state> states;
    for (auto& r : all<report>(out)) states.push_back(r.state);
    return states;
  }
};

inline bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

} // namespace hflex::node::test
