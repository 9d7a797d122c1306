// A fleet on a desk, for tests of scaling policies: reports in, wishes out, and what was ordered comes to pass.
#pragma once
#include "actors/scaler/policy.hpp"
#include "tests/support/catch.hpp"
#include <algorithm>
#include <utility>
#include <vector>

namespace hflex::scaler::test {

using std::chrono::milliseconds;
using std::chrono::seconds;

inline constexpr auto prefill = instance_role::prefill;
inline constexpr auto decode = instance_role::decode;
inline constexpr auto mixed = instance_role::mixed;

/// 10 ms a step, 0.1 ms a token: a request of 900 and 100 tokens is 0.1 instance-seconds of work.
inline constexpr step_time_model simple{.c0_ms = 10, .c1_ms = 0.1, .m0 = 0, .c2_ms = 0, .c3_ms = 0, .c4_ms = 0};

/// A core with its fleet on one big node, and an idealised scheduler that reports each quarter of a second.
struct fleet_desk {
  explicit fleet_desk(options opts, std::vector<fleet_line> fleet = {{mixed, 1}}, std::uint32_t devices = 32)
      : it(make(std::move(opts), std::move(fleet))) {
    node_up e{{1}, {}, {}};
    for (std::uint32_t i = 0; i < devices; ++i) e.devices.push_back({i, 1});
    lead = duration{0}; // the first stand at once
    feed(e);
    settle();
    lead = seconds{5};
  }
  static core make(options opts, std::vector<fleet_line> fleet) {
    opts.fleet = std::move(fleet);
    auto made = core::make(opts);
    REQUIRE(made);
    return std::move(*made);
  }

  template <class Event>
  void feed(const Event& e) {
    std::vector<effect> out;
    it.on(e, now, out);
    for (const auto& x : out) {
      if (const auto* s = std::get_if<start_instance>(&x)) starting.emplace_back(now + lead, s->instance);
      if (const auto* s = std::get_if<stop_instance>(&x)) stopped.push_back(s->instance), ++stops;
      if (const auto* r = std::get_if<change_role>(&x)) flips.push_back(*r);
      if (const auto* n = std::get_if<note>(&x)) notes.push_back(*n);
      if (const auto* r = std::get_if<refuse>(&x)) refusals.push_back(r->reason);
      if (std::holds_alternative<start_instance>(x)) ++starts;
    }
  }

  /// What was ordered comes to pass as time goes on.
  void settle() {
    for (std::size_t i = 0; i < starting.size(); ++i)
      if (starting[i].first <= now) {
        const auto id = starting[i].second;
        starting.erase(starting.begin() + static_cast<std::ptrdiff_t>(i--));
        feed(instance_state{id, instance_phase::ready, ""});
      }
    for (auto id : std::exchange(stopped, {})) feed(instance_state{id, instance_phase::gone, "asked"});
    if (drains_last) return;
    for (const auto& f : std::exchange(flips, {})) feed(role_changed{f.instance, f.to});
  }

  /// `per_s` requests of prompt + output tokens, 900 and 100 of them, for that long.
  void load(double per_s, duration length, std::uint32_t late = 0) {
    for (const auto end = now + length; now < end;) {
      now += milliseconds{250};
      settle();
      owed += per_s / 4;
      const auto n = static_cast<std::uint32_t>(owed);
      owed -= n;
      demand_reported e;
      e.demand.span = milliseconds{250};
      if (n > 0)
        e.demand.classes.push_back({"standard", seconds{2}, tpot, n, prompt * n, prompt * prompt * n, n, output * n});
      for (const auto& [id, i] : it.state().instances)
        if (i.phase == life::ready)
          e.demand.instances.push_back({id, i.role, false, i.role == decode ? residents / it.state().ready(decode) : 0U,
              0, 0, 0, 10'000, 0, 16, 2048, 256, 1.0, simple});
      e.demand.mixed_apart = mixed_apart;
      e.demand.decoded = static_cast<std::uint64_t>(made * output * n);
      e.demand.late = late;
      e.demand.waiting = late;
      e.demand.waiting_tokens = std::uint64_t{late} * tokens_each;
      e.demand.looked_at = late;
      feed(e);
      most = std::max(most, it.state().running());
    }
  }

  std::uint32_t running() const { return it.state().running(); }

  time_point now{seconds{1000}};
  duration lead{seconds{5}};
  core it;
  std::vector<std::pair<time_point, instance_id>> starting;
  std::vector<instance_id> stopped;
  std::vector<change_role> flips;
  std::vector<note> notes;
  std::vector<std::string> refusals;
  std::uint32_t starts{};
  std::uint32_t stops{};
  bool drains_last{false}; ///< a role flip is not done, as residents go on
  std::uint32_t most{};
  double owed{};
  std::uint32_t tokens_each{10'000}; ///< of those that are late
  bool mixed_apart{false};
  std::uint32_t residents{0}; ///< that decode, where that is a role
  duration tpot{milliseconds{100}};
  double prompt{900};
  double output{100}; ///< of those that end
  double made{1};     ///< times as much as those had, all together
};

inline options using_policy(const std::string& name) {
  options o;
  o.policy = name;
  o.min_instances = 1;
  o.lead_time = seconds{5};
  return o;
}

} // namespace hflex::scaler::test
