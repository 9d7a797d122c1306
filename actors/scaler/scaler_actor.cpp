#include "actors/scaler/scaler_actor.hpp"
#include "actors/common/check.hpp"
#include "actors/wire/convert_scaling.hpp"
#include "actors/wire/shell.hpp"
#include <fmt/ranges.h>
#include <optional>
#include <spdlog/spdlog.h>
#include <string>
#include <utility>
#include <vector>

namespace hflex::scaler {
namespace {

namespace s = wire::schema;
using wire::msg;

class shell : public wire::effect_loop<shell, effect> {
public:
  shell(wire::scaler_actor::pointer self, shell_settings settings, core c)
      : self_(self), set_(std::move(settings)), core_(std::move(c)), timer_(self) {
    wire::tell(self_, set_.scheduler, msg<s::Ack>{}, wire::demand_actor{wire::scaler_actor{self_}});
  }

  template <class Event>
  void feed(const Event& event) {
    core_.on(event, wire::now(self_), queue());
    drain();
  }

  void tick_now() {
    timer_.fired();
    feed(tick{});
  }

  void node_joined(s::NodeUp::Reader in, const wire::node_agent_actor& agent) {
    node_up e;
    e.node = node_id{in.getNode()};
    std::uint32_t index = 0;
    for (auto device : in.getDevices()) e.devices.push_back({index++, device.getMaxInstances()});
    agents_[e.node] = agent;
    feed(e);
  }

  void node_lost(node_id node) {
    agents_.erase(node);
    feed(node_gone{node});
  }

  void state(s::InstanceState::Reader in) {
    instance_id id{in.getInstance()};
    auto reason = wire::read(in.getReason());
    switch (in.getPhase()) {
    case s::InstancePhase::STARTING:
      feed(instance_state{id, instance_phase::started, reason});
      break;
    case s::InstancePhase::READY:
      feed(instance_state{id, instance_phase::ready, reason, in.getWeightsComing()});
      feed(role_changed{id, wire::from_wire(in.getRole()), std::chrono::microseconds{in.getDrainUs()}});
      break;
    case s::InstancePhase::DRAINING:
      break; // as ordered
    case s::InstancePhase::GONE:
      gone(id, instance_phase::gone, reason);
      break;
    case s::InstancePhase::FAILED:
      gone(id, instance_phase::failed, reason);
      break;
    }
  }

  /// A command is refused when the core says so while it is fed; else the answer is what the core noted of it.
  template <class Command>
  msg<s::CommandAnswer> command(const Command& c) {
    refusal_.clear();
    noted_.emplace();
    feed(c);
    const auto noted = *std::exchange(noted_, std::nullopt);
    return msg<s::CommandAnswer>::make([&](s::CommandAnswer::Builder out) {
      out.setOk(refusal_.empty());
      out.setMessage(refusal_.empty() ? fmt::format("{}", fmt::join(noted, "\n")) : refusal_);
    });
  }

  msg<s::ScalingLog> log() const {
    const auto now = wire::now(self_);
    const auto& decisions = core_.decisions();
    return msg<s::ScalingLog>::make(
        [&](s::ScalingLog::Builder out) {
          out.setPolicy(set_.core.policy);
          out.setDryRun(set_.core.dry_run);
          out.setMinInstances(core_.state().min_instances);
          out.setMaxInstances(core_.state().max_instances);
          out.setLeadTimeMs(to_ms(core_.state().lead_time));
          wire::write(out.initDecisions(static_cast<unsigned>(decisions.size())), decisions, now);
        },
        64 * (1 + decisions.size()));
  }

  void perform(start_instance& e) {
    homes_[e.instance] = e.device.node;
    spdlog::info("scaler: start {} as {} on {}", to_string(e.instance), to_string(e.role), to_string(e.device));
    tell_agent(e.instance, msg<s::StartInstance>::make([&](s::StartInstance::Builder out) {
      out.setInstance(e.instance.value);
      out.setDevice(e.device.index);
      out.setRole(wire::to_wire(e.role));
      wire::write(out.initOptions(), set_.instance);
    }));
  }

  void perform(stop_instance& e) {
    stop_placing(e.instance);
    tell_agent(e.instance, msg<s::StopInstance>::make([&](s::StopInstance::Builder out) {
      out.setInstance(e.instance.value);
      out.setDrain(e.drain);
    }));
  }

  void perform(change_role& e) {
    spdlog::info("scaler: change role of {} from {} to {}", to_string(e.instance), to_string(e.from), to_string(e.to));
    stop_placing(e.instance);
    tell_agent(e.instance, msg<s::ChangeRole>::make([&](s::ChangeRole::Builder out) {
      out.setInstance(e.instance.value);
      out.setTo(wire::to_wire(e.to));
    }));
  }

  void perform(refuse& e) { refusal_ = "cannot " + e.command + ": " + e.reason; }
  void perform(wake_at& e) { timer_.at(e.when); }
  void perform(note& e) {
    spdlog::info("scaler: {}{}", e.advice ? "(dry run) " : "", e.why);
    if (noted_) noted_->push_back(e.why);
  }

private:
  void gone(instance_id id, instance_phase phase, const std::string& reason) {
    homes_.erase(id);
    feed(instance_state{id, phase, reason});
  }

  void stop_placing(instance_id id) {
    wire::tell(self_, set_.scheduler,
        msg<s::InstanceDraining>::make([&](s::InstanceDraining::Builder out) { out.setInstance(id.value); }));
  }

  template <class Message>
  void tell_agent(instance_id id, const Message& message) {
    auto home = homes_.find(id);
    if (home == homes_.end()) return; // its node is lost: nobody to tell
    if (auto agent = agents_.find(home->second); agent != agents_.end()) wire::tell(self_, agent->second, message);
  }

  wire::scaler_actor::pointer self_;
  shell_settings set_;
  core core_;
  wire::wake_timer<wire::scaler_actor::pointer> timer_;
  std::map<node_id, wire::node_agent_actor> agents_;
  std::map<instance_id, node_id> homes_;
  // Of the command that is being fed:
  std::string refusal_;
  std::optional<std::vector<std::string>> noted_;
};

} // namespace

wire::scaler_actor::behavior_type scaler_shell(wire::scaler_actor::pointer self, shell_settings settings) {
  wire::outlive_errors(self);
  auto made = core::make(settings.core);
  HFLEX_CHECK(made.has_value());
  auto sh = std::make_shared<shell>(self, std::move(settings), std::move(*made));
  using wire::on;
  using wire::on_ask;
  return {
      on<s::NodeUp, wire::node_agent_actor>(
          [sh](s::NodeUp::Reader in, const wire::node_agent_actor& agent) { sh->node_joined(in, agent); }),
      on<s::NodeGone>([sh](s::NodeGone::Reader in) { sh->node_lost(node_id{in.getNode()}); }),
      on<s::InstanceState>([sh](s::InstanceState::Reader in) { sh->state(in); }),
      on<s::WeightsExpected>([sh](s::WeightsExpected::Reader in) {
        if (in.getDueMs() == 0) sh->feed(weights_there{instance_id{in.getInstance()}});
      }),
      on_ask<msg<s::CommandAnswer>, s::ChangeRole>([sh](s::ChangeRole::Reader in) {
        return sh->command(request_role_change{{in.getInstance()}, wire::from_wire(in.getTo())});
      }),
      on_ask<msg<s::CommandAnswer>, s::Drain>([sh](s::Drain::Reader in) {
        if (in.isNode()) return sh->command(drain_node{{in.getNode()}});
        return sh->command(drain_instance{{in.getInstance()}});
      }),
      on_ask<msg<s::CommandAnswer>, s::ScaleFleet>(
          [sh](s::ScaleFleet::Reader in) { return sh->command(wire::read(in)); }),
      on_ask<msg<s::ScalingLog>, s::ScalingQuery>([sh](s::ScalingQuery::Reader) { return sh->log(); }),
      on<s::DemandReport>([sh](s::DemandReport::Reader in) { sh->feed(demand_reported{wire::read(in)}); }),
      on<s::Tick>([sh](s::Tick::Reader) { sh->tick_now(); }),
  };
}

} // namespace hflex::scaler
