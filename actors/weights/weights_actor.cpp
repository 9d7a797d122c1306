#include "actors/weights/weights_actor.hpp"
#include "actors/wire/convert.hpp"
#include "actors/wire/shell.hpp"
#include <random>
#include <spdlog/spdlog.h>

namespace hflex::weights {
namespace {

namespace s = wire::schema;
using wire::msg;

s::SourceKind to_wire(source_kind k) {
  switch (k) {
  case source_kind::same_process:
    return s::SourceKind::SAME_PROCESS;
  case source_kind::shared_memory:
    return s::SourceKind::SHARED_MEMORY;
  case source_kind::network:
    return s::SourceKind::NETWORK;
  case source_kind::disk:
    return s::SourceKind::DISK;
  }
  return s::SourceKind::DISK;
}

class shell : public wire::effect_loop<shell, effect> {
public:
  shell(wire::weights_actor::pointer self, shell_settings settings)
      : self_(self), set_(settings), core_(settings.core), timer_(self) {}

  template <class Event>
  void feed(const Event& event) {
    core_.on(event, wire::now(self_), queue());
    drain();
  }

  void tick_now() {
    timer_.fired();
    feed(tick{});
  }

  void node_up(node_id node, const wire::node_agent_actor& agent) {
    if (agents_.count(node) > 0) node_lost(node); // another life of the agent: what the former held is gone
    agents_[node] = agent;
  }

  void node_lost(node_id node) {
    agents_.erase(node);
    feed(node_gone{node});
  }

  void needed_by(s::WeightsNeeded::Reader in) {
    homes_[instance_id{in.getInstance()}] = node_id{in.getNode()};
    feed(needed{instance_id{in.getInstance()}, node_id{in.getNode()}, wire::read(in.getHostId()),
        wire::read(in.getDigest()), wire::read(in.getModelDir()), wire::read(in.getStamp()),
        wire::read(in.getEndpoints()), wire::read(in.getDeviceKind())});
  }

  void perform(load_from& e) {
    spdlog::info("weights: {} loads from {}{}", to_string(e.instance), to_string(e.from.kind),
        e.from.holder ? " of " + to_string(e.from.holder) : std::string{});
    const auto key = e.from.kind == source_kind::network ? grant(e.from) : 0;
    tell_agent(e.instance, msg<s::LoadFrom>::make([&](s::LoadFrom::Builder out) {
      out.setInstance(e.instance.value);
      out.setAttempt(e.attempt);
      out.setKind(to_wire(e.from.kind));
      out.setKey(key);
      out.setLeaseMs(lease_ms());
      out.setModelDir(e.from.directory);
      out.setDigest(e.from.digest);
      out.setFromNode(e.from.holder.value);
      wire::write(out.initEndpoints(static_cast<unsigned>(e.from.endpoints.size())), e.from.endpoints);
      wire::write(out.initNeighbours(static_cast<unsigned>(e.neighbours.size())), e.neighbours);
    }));
  }

  void perform(give_to_devices& e) {
    const auto agent = agents_.find(e.holder);
    if (agent == agents_.end()) return;
    wire::tell(self_, agent->second, msg<s::GiveDeviceWeights>::make([&](s::GiveDeviceWeights::Builder out) {
      out.setDigest(e.digest);
      out.setDeviceKind(e.kind);
      auto to = out.initReceivers(static_cast<unsigned>(e.to.size()));
      for (unsigned i = 0; i < to.size(); ++i) {
        to[i].setInstance(e.to[i].instance.value);
        to[i].setAttempt(e.to[i].attempt);
      }
    }));
  }

  void perform(stop_load& e) {
    tell_agent(e.instance, msg<s::StopLoad>::make([&](s::StopLoad::Builder out) {
      out.setInstance(e.instance.value);
      out.setAttempt(e.attempt);
    }));
  }

  void perform(give_up& e) {
    tell_agent(e.instance, msg<s::WeightsGiveUp>::make([&](s::WeightsGiveUp::Builder out) {
      out.setInstance(e.instance.value);
      out.setReason(e.reason);
    }));
    homes_.erase(e.instance);
  }

  void perform(ready& e) {
    spdlog::info("weights: {} has {} from {} after {:.1f} ms", to_string(e.instance), e.digest.substr(0, 12),
        to_string(e.from), to_ms(e.waited));
    homes_.erase(e.instance);
  }

  void perform(wake_at& e) { timer_.at(e.time); }

  void pass_on(const msg<s::DeviceTicket>& ticket) { tell_agent(instance_id{ticket.read()->getInstance()}, ticket); }

private:
  std::uint32_t lease_ms() const { return static_cast<std::uint32_t>(to_ms(set_.lease)); }

  /// Tells the holder that whoever shows this key is to be given its weights.
  std::uint64_t grant(const source& from) {
    std::random_device random;
    const auto key = std::uint64_t{random()} << 32U | random();
    if (auto agent = agents_.find(from.holder); agent != agents_.end())
      wire::tell(self_, agent->second, msg<s::GrantWeights>::make([&](s::GrantWeights::Builder out) {
        out.setDigest(from.digest);
        out.setKey(key);
        out.setLeaseMs(lease_ms());
      }));
    return key;
  }

  template <class Message>
  void tell_agent(instance_id id, const Message& message) {
    auto home = homes_.find(id);
    if (home == homes_.end()) return;
    if (auto agent = agents_.find(home->second); agent != agents_.end()) wire::tell(self_, agent->second, message);
  }

  wire::weights_actor::pointer self_;
  shell_settings set_;
  core core_;
  wire::wake_timer<wire::weights_actor::pointer> timer_;
  std::map<node_id, wire::node_agent_actor> agents_;
  std::map<instance_id, node_id> homes_; ///< of instances that wait for weights
};

} // namespace

wire::weights_actor::behavior_type weights_shell(wire::weights_actor::pointer self, shell_settings settings) {
  wire::outlive_errors(self);
  auto sh = std::make_shared<shell>(self, settings);
  using wire::on;
  return {
      on<s::NodeUp, wire::node_agent_actor>([sh](s::NodeUp::Reader in, const wire::node_agent_actor& agent) {
        sh->node_up(node_id{in.getNode()}, agent);
      }),
      on<s::NodeGone>([sh](s::NodeGone::Reader in) { sh->node_lost(node_id{in.getNode()}); }),
      on<s::WeightsNeeded>([sh](s::WeightsNeeded::Reader in) { sh->needed_by(in); }),
      on<s::WeightsNotNeeded>(
          [sh](s::WeightsNotNeeded::Reader in) { sh->feed(not_needed{instance_id{in.getInstance()}}); }),
      on<s::WeightsHeld>([sh](s::WeightsHeld::Reader in) {
        sh->feed(held{node_id{in.getNode()}, wire::read(in.getHostId()), wire::read(in.getDigest()),
            wire::read(in.getEndpoints()), in.getBytes()});
      }),
      on<s::WeightsReleased>([sh](s::WeightsReleased::Reader in) {
        sh->feed(released{node_id{in.getNode()}, wire::read(in.getDigest())});
      }),
      on<s::WeightsProgress>([sh](s::WeightsProgress::Reader in) {
        sh->feed(progress{instance_id{in.getInstance()}, in.getAttempt(), in.getBytesDone(), in.getBytesTotal()});
      }),
      on<s::WeightsLoaded>([sh](s::WeightsLoaded::Reader in) {
        sh->feed(loaded{instance_id{in.getInstance()}, in.getAttempt(), wire::read(in.getDigest()),
            wire::read(in.getEndpoints()), in.getBytes()});
      }),
      on<s::WeightsFailed>([sh](s::WeightsFailed::Reader in) {
        sh->feed(failed{instance_id{in.getInstance()}, in.getAttempt(), wire::read(in.getReason())});
      }),
      [sh](const msg<s::DeviceTicket>& ticket) { sh->pass_on(ticket); },
      on<s::Tick>([sh](s::Tick::Reader) { sh->tick_now(); }),
  };
}

} // namespace hflex::weights
