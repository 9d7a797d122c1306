#include "actors/cluster/cluster_actor.hpp"
#include "actors/cluster/instance_news_actor.hpp"
#include "actors/cluster/weights_outlook.hpp"
#include "actors/wire/convert.hpp"
#include "actors/wire/convert_topology.hpp"
#include "actors/wire/shell.hpp"
#include <spdlog/spdlog.h>

namespace hflex::cluster {
namespace {

namespace s = wire::schema;
using wire::msg;

constexpr std::size_t max_devices = 256;
constexpr std::size_t max_starts = 4096; ///< whose weights are watched at a time

class shell : public wire::effect_loop<shell, effect> {
public:
  shell(wire::cluster_actor::pointer self, shell_settings settings)
      : self_(self), set_(std::move(settings)), core_(set_.core), linking_(set_.links), timer_(self),
        link_timer_(self) {
    for (auto kind :
        {actor_kind::router, actor_kind::scheduler, actor_kind::scaler, actor_kind::weights, actor_kind::cluster})
      feed(actor_up{head_ref(kind), {}, {}, {}, "ready"});
    wire::tell(self_, set_.scheduler, msg<s::Ack>{}, wire::duty_actor{self_});
  }

  template <class Event>
  void feed(const Event& event) {
    core_.on(event, wire::now(self_), queue());
    drain();
  }

  template <class Event>
  void link(const Event& event) {
    std::vector<link_effect> out;
    linking_.on(event, wire::now(self_), out);
    for (auto& e : out) std::visit([this](auto& x) { perform(x); }, e);
  }

  void tick_now() {
    timer_.fired();
    link_timer_.fired();
    feed(tick{});
    link(link_tick{});
  }

  // ---- nodes ----

  msg<s::NodeAnswer> join(s::NodeJoin::Reader in, const wire::node_agent_actor& agent) {
    if (in.getProtocol() != wire::protocol_version)
      return refusal(
          fmt::format("this head speaks protocol {}, the agent {}: install the same version of hflex on both",
              wire::protocol_version, in.getProtocol()));
    if (in.getDevices().size() > max_devices) return refusal(fmt::format("at most {} devices a node", max_devices));
    node_joined e;
    e.name = wire::read(in.getName());
    e.incarnation = in.getIncarnation();
    e.address = wire::read(in.getAddress());
    e.process = in.getPid();
    for (auto d : in.getDevices())
      e.devices.push_back(
          {wire::read(d.getKind()), wire::read(d.getName()), d.getMemoryBytes(), d.getMemoryUsedBytes()});
    answer_ = refusal("the cluster did not answer");
    joined_.reset();
    feed(e);
    if (joined_) admit(*joined_, in, agent);
    return answer_;
  }

  // ---- instances ----

  void instance_ready(s::InstanceReady::Reader in, const wire::instance_actor& handle) {
    instance_id id{in.getInstance()};
    node_id node{in.getNode()};
    auto role = wire::from_wire(in.getRole());
    KJ_REQUIRE(id.value != 0 && agents_.count(node) > 0, "an instance of an unknown node", node.value);
    auto endpoints = wire::read(in.getEndpoints());
    bool same_home = false;
    if (auto known = instances_.find(id); known != instances_.end()) {
      same_home = known->second.node == node && known->second.endpoints == endpoints;
      if (known->second.role != role) feed(role_changed{id, role});
    } else {
      feed(actor_up{instance_ref(id), node, role, in.getDevice(), linking_state});
    }
    feed(device_memory{node, in.getDevice(), in.getMemoryUsedBytes()});
    feed(actor_status{id, linking_state, 0, 0, in.getKvBlocks(), in.getKvBlocks(), 0, 0});
    instances_[id] = {handle, node, role, linking_state, std::move(endpoints), announcement(in), in.getWeightsComing()};
    if (node_id from{in.getWeightsFromNode()}; from && agents_.count(from) > 0) {
      fed_by(id, from);
      feed(link_opened{agent_ref(from), instance_ref(id), link_kind::weights, weights_transport(in)});
      feed(link_traffic{
          agent_ref(from), instance_ref(id), link_kind::weights, in.getWeightsBytes(), in.getWeightsBytes()});
    }
    // Links first: it is announced once they are open (linking.hpp).
    link(newcomer{id, role, same_home});
  }

  void link_answered(s::LinkAnswer::Reader in) {
    link(link_answer{instance_id{in.getFrom()}, instance_id{in.getTo()}, in.getRound(), in.getOpen(),
        wire::read(in.getTransport()), wire::read(in.getReason())});
  }

  void instance_state(const msg<s::InstanceState>& message) {
    auto in = message.read();
    instance_id id{in->getInstance()};
    auto reason = wire::read(in->getReason());
    switch (in->getPhase()) {
    case s::InstancePhase::STARTING:
      feed(actor_up{
          instance_ref(id), node_id{in->getNode()}, wire::from_wire(in->getRole()), in->getDevice(), "starting"});
      break;
    case s::InstancePhase::READY:
      set_state(id, linking_.admitted(id) ? "ready" : linking_state);
      break;
    case s::InstancePhase::DRAINING:
      set_state(id, "draining");
      link(link_draining{id});
      break;
    case s::InstancePhase::GONE:
    case s::InstancePhase::FAILED:
      feed(actor_down{instance_ref(id), reason});
      break;
    }
    wire::tell(self_, set_.scaler, message);
  }

  void report(s::StepReport::Reader in) {
    instance_id id{in.getInstance()};
    auto found = instances_.find(id);
    if (found == instances_.end()) return;
    const auto started = in.getStartedTokens();
    const auto hits = static_cast<double>(std::min(in.getCachedTokens(), started));
    feed(actor_status{id, found->second.state, in.getRunning(), in.getWaiting(), in.getKvBlocksTotal(),
        in.getKvBlocksFree(), in.getMailbox(), in.getStepMsMean(), in.getKvBlocksCached(),
        started == 0 ? 0.0 : hits / static_cast<double>(started)});
  }

  void traffic(s::LinkTraffic::Reader in) {
    auto from = instance_ref(instance_id{in.getFrom()});
    auto to = instance_ref(instance_id{in.getTo()});
    feed(link_opened{from, to, link_kind::kv, wire::read(in.getTransport())}); // known by now which way the bytes take
    feed(link_traffic{from, to, link_kind::kv, in.getBytesTotal(), 0});
  }

  void weights_traffic(s::WeightsTraffic::Reader in) {
    node_id from{in.getFromNode()};
    auto to = instance_ref(instance_id{in.getInstance()});
    if (agents_.count(from) == 0) return;
    // An agent that makes ids up fills no memory: the traffic of one start too many is not shown.
    if (weights_from_.size() >= max_starts && weights_from_.count(instance_id{in.getInstance()}) == 0) return;
    fed_by(instance_id{in.getInstance()}, from);
    feed(link_opened{agent_ref(from), to, link_kind::weights, wire::read(in.getTransport())});
    feed(link_traffic{agent_ref(from), to, link_kind::weights, in.getBytesDone(), in.getBytesExpected()});
    expect_weights(instance_id{in.getInstance()}, in.getBytesDone(), in.getBytesExpected());
  }

  /// Who was told of an instance with weights under way hears how they come on.
  void expect_weights(instance_id id, std::uint64_t done, std::uint64_t total) {
    weights_outlooks_[id].note(done, total, wire::now(self_));
    const auto found = instances_.find(id);
    if (found != instances_.end() && found->second.weights_coming && found->second.state != linking_state)
      tell_expected(id);
  }

  void tell_expected(instance_id id) {
    const auto& outlook = weights_outlooks_[id];
    instances_.at(id).weights_coming = !outlook.complete();
    auto message = msg<s::WeightsExpected>::make([&](s::WeightsExpected::Builder out) {
      out.setInstance(id.value);
      out.setDueMs(static_cast<std::uint32_t>(to_ms(outlook.left(wire::now(self_)))));
    });
    wire::tell(self_, set_.scheduler, message);
    wire::tell(self_, set_.scaler, message);
  }

  // ---- people ----

  msg<s::Directory> directory() const {
    return msg<s::Directory>::make([&](s::Directory::Builder out) {
      out.setProtocol(wire::protocol_version);
      out.setEpoch(core_.epoch());
      out.setModel(set_.model);
      out.setListenAddress(set_.listen_address);
    });
  }

  const shell_settings& settings() const { return set_; }

  msg<s::Snapshot> snapshot_now() {
    feed(mailbox_status{head_ref(actor_kind::cluster), static_cast<std::uint32_t>(self_->mailbox().size())});
    return msg<s::Snapshot>::make(
        [&](s::Snapshot::Builder out) {
          wire::write(out, core_.topology());
          out.setLastEvent(core_.last_sequence());
          out.setFirstEvent(core_.first_sequence());
        },
        1024);
  }

  caf::result<msg<s::Ack>> subscribe(std::uint64_t after, const wire::client_actor& client) {
    if (watchers_.size() >= set_.max_watchers)
      return caf::make_error(caf::sec::runtime_error, "too many watchers of the topology");
    if (auto missed = core_.events_after(after))
      for (const auto& e : *missed) send_event(client, e, time_of(e));
    watchers_[client.address()] = client;
    watcher_.watch(self_, client, [this, address = client.address()](const std::string&) { watchers_.erase(address); });
    return msg<s::Ack>{};
  }

  // ---- effects ----

  void perform(welcome& e) {
    joined_ = e.node;
    answer_ = msg<s::NodeAnswer>::make([&](s::NodeAnswer::Builder out) {
      auto w = out.initWelcome();
      w.setNode(e.node.value);
      w.setEpoch(e.epoch);
      w.setHeartbeatMs(static_cast<std::uint32_t>(to_ms(e.heartbeat_interval)));
    });
  }

  void perform(refuse_join& e) { answer_ = refusal(e.reason); }

  void perform(ask_rejoin& e) {
    // To whoever sent the heartbeat: a lost node's handle is no longer kept.
    if (auto agent = caf::actor_cast<wire::node_agent_actor>(self_->current_sender()))
      wire::tell(
          self_, agent, msg<s::Rejoin>::make([&](s::Rejoin::Builder out) { out.setIncarnation(e.incarnation); }));
  }

  void perform(node_lost& e) {
    spdlog::warn("cluster: {} is gone: {}", to_string(e.node), e.reason);
    agents_.erase(e.node);
    auto message = msg<s::NodeGone>::make([&](s::NodeGone::Builder out) {
      out.setNode(e.node.value);
      out.setReason(e.reason);
    });
    wire::tell(self_, set_.scaler, message);
    wire::tell(self_, set_.weights, message);
  }

  void perform(instance_lost& e) {
    instances_.erase(e.instance);
    weights_from_.erase(e.instance);
    weights_outlooks_.erase(e.instance);
    link(link_end_gone{e.instance});
    auto message = msg<s::InstanceGone>::make([&](s::InstanceGone::Builder out) {
      out.setInstance(e.instance.value);
      out.setReason(e.reason);
    });
    // The scheduler first: the router's re-submissions must not be placed on the dead.
    wire::tell(self_, set_.scheduler, message);
    wire::tell(self_, set_.router, message);
    for (const auto& [id, other] : instances_) wire::tell(self_, other.handle, message);
    wire::tell(self_, set_.scaler, msg<s::InstanceState>::make([&](s::InstanceState::Builder out) {
      out.setInstance(e.instance.value);
      out.setPhase(s::InstancePhase::GONE);
      out.setReason(e.reason);
    }));
  }

  void perform(cluster_event& e) {
    spdlog::info("cluster: {} {} {}", to_string(e.what), e.subject, e.detail);
    const auto at = set_.unix_ms();
    happened_.emplace_back(e.sequence, at);
    if (happened_.size() > set_.core.max_events) happened_.pop_front();
    for (const auto& [address, client] : watchers_) send_event(client, e, at);
  }

  void perform(wake_at& e) { timer_.at(e.time); }

  // ---- effects: links ----

  void perform(link_wake_at& e) { link_timer_.at(e.time); }

  void perform(introduce& e) {
    const auto to = instances_.find(e.to), peer = instances_.find(e.peer);
    if (to == instances_.end() || peer == instances_.end()) return;
    auto message = msg<s::PeerUp>::make([&](s::PeerUp::Builder out) {
      out.setInstance(e.peer.value);
      out.setNode(peer->second.node.value);
      out.setRole(wire::to_wire(peer->second.role));
      out.setSends(e.sends);
      out.setRound(e.round);
      const auto& endpoints = peer->second.endpoints;
      wire::write(out.initEndpoints(static_cast<unsigned>(endpoints.size())), endpoints);
    });
    wire::tell(self_, to->second.handle, message, wire::kv_peer_actor{peer->second.handle});
  }

  void perform(show_link& e) {
    const auto from = instance_ref(e.from), to = instance_ref(e.to);
    switch (e.is) {
    case link_state::opening:
      feed(link_opening{from, to, link_kind::kv, transport_between(e.from, e.to)});
      break;
    case link_state::open:
      feed(link_opened{from, to, link_kind::kv, e.detail});
      break;
    case link_state::failed:
      feed(link_failed{from, to, link_kind::kv, e.detail});
      break;
    case link_state::closed:
      feed(link_closed{from, to, link_kind::kv});
      break;
    }
  }

  void perform(admit& e) {
    const auto found = instances_.find(e.instance);
    if (found == instances_.end()) return;
    auto& is = found->second;
    set_state(e.instance, "ready");
    wire::tell(self_, set_.router, is.news.up, is.handle); // knows the handle before a placement names it
    wire::tell(self_, set_.scheduler, is.news.up);
    wire::tell(self_, set_.scaler, msg<s::InstanceState>::make([&](s::InstanceState::Builder out) {
      auto up = is.news.up.read();
      out.setInstance(e.instance.value);
      out.setNode(up->getNode());
      out.setDevice(up->getDevice());
      out.setRole(up->getRole());
      out.setPhase(s::InstancePhase::READY);
      out.setStartedMs(is.news.started_ms);
      out.setParts(*is.news.parts.read());
      out.getParts().setLinkMs(to_ms(e.waited));
      out.setWeightsPath(is.news.weights_path);
      out.setDeviceWeights(is.news.device_weights);
      out.setDrainUs(is.news.drain_us);
      out.setWeightsComing(is.weights_coming);
    }));
    if (is.weights_coming) tell_expected(e.instance);
  }

private:
  static constexpr const char* linking_state = "linking"; ///< alive, and not admitted yet

  struct instance_entry {
    wire::instance_actor handle;
    node_id node;
    instance_role role{};
    std::string state;
    std::vector<std::string> endpoints; ///< of its process's transport
    instance_news news;
    bool weights_coming{false};
  };

  /// A start whose source died goes on from another one: the link to the first is over.
  void fed_by(instance_id id, node_id from) {
    auto [known, fresh] = weights_from_.emplace(id, from);
    if (fresh || known->second == from) return;
    feed(link_closed{agent_ref(std::exchange(known->second, from)), instance_ref(id), link_kind::weights});
  }

  void set_state(instance_id id, const std::string& state) {
    auto found = instances_.find(id);
    if (found == instances_.end()) return;
    found->second.state = state;
    feed(actor_status{id, state, 0, 0, 0, 0, 0, 0});
  }

  static msg<s::NodeAnswer> refusal(const std::string& reason) {
    return msg<s::NodeAnswer>::make([&](s::NodeAnswer::Builder out) { out.setRefused(reason); });
  }

  void admit(node_id id, s::NodeJoin::Reader in, const wire::node_agent_actor& agent) {
    agents_[id] = agent;
    host_ids_[id] = wire::read(in.getHostId());
    feed(actor_up{agent_ref(id), id, {}, {}, "ready"});
    feed(link_opened{head_ref(actor_kind::cluster), agent_ref(id), link_kind::control, "caf"});
    watcher_.watch(self_, agent, [this, id, incarnation = in.getIncarnation()](const std::string& reason) {
      feed(node_down{id, incarnation, "connection lost: " + reason});
    });
    auto message = msg<s::NodeUp>::make([&](s::NodeUp::Builder out) {
      out.setNode(id.value);
      out.setHostId(in.getHostId());
      out.setDevices(in.getDevices());
    });
    wire::tell(self_, set_.weights, message, agent); // before the scaler, whose orders make it ask for weights
    wire::tell(self_, set_.scaler, message, agent);
  }

  /// What the transport will most likely pick; the first bytes tell for sure.
  std::string transport_between(instance_id from, instance_id to) const {
    const auto at_from = instances_.find(from), at_to = instances_.find(to);
    if (at_from == instances_.end() || at_to == instances_.end()) return {};
    const auto a = at_from->second.node, b = at_to->second.node;
    if (a == b) return "local";
    return host_ids_.at(a) == host_ids_.at(b) ? "shm" : "tcp";
  }

  void send_event(const wire::client_actor& to, const cluster_event& e, std::uint64_t unix_ms) {
    wire::tell(self_, to, msg<s::Event>::make([&](s::Event::Builder out) { wire::write(out, e, unix_ms); }));
  }

  /// When it happened, not when somebody asks. Sequence numbers have no gaps.
  std::uint64_t time_of(const cluster_event& e) const {
    if (happened_.empty() || e.sequence < happened_.front().first) return 0;
    return happened_.at(static_cast<std::size_t>(e.sequence - happened_.front().first)).second;
  }

  wire::cluster_actor::pointer self_;
  shell_settings set_;
  core core_;
  linking linking_;
  wire::wake_timer<wire::cluster_actor::pointer> timer_;      ///< one for each core: either only counts on its own
  wire::wake_timer<wire::cluster_actor::pointer> link_timer_; ///< earliest wish
  wire::watcher watcher_;
  std::map<node_id, wire::node_agent_actor> agents_;
  std::map<node_id, std::string> host_ids_;
  std::map<instance_id, instance_entry> instances_;
  std::map<instance_id, weights_outlook> weights_outlooks_;
  std::map<instance_id, node_id> weights_from_; ///< the node whose memory an instance's weights come from
  std::map<caf::actor_addr, wire::client_actor> watchers_;
  std::deque<std::pair<std::uint64_t, std::uint64_t>> happened_; ///< sequence number and wall clock of the kept events
  msg<s::NodeAnswer> answer_;                                    ///< of the join that is being fed
  std::optional<node_id> joined_;                                ///< set by its welcome
};

node_left read_leave(s::NodeLeave::Reader in) { return {node_id{in.getNode()}, in.getIncarnation()}; }

heartbeat read_beat(s::Heartbeat::Reader in) {
  heartbeat e{
      node_id{in.getNode()}, in.getIncarnation(), in.getSeq(), {}, in.getWeightsBytes(), in.getWeightsIdleBytes()};
  auto memory = in.getMemoryUsedBytes();
  KJ_REQUIRE(memory.size() <= max_devices, "too many devices", memory.size());
  for (auto bytes : memory) e.memory_used_bytes.push_back(bytes);
  return e;
}

} // namespace

wire::cluster_actor::behavior_type cluster_shell(wire::cluster_actor::pointer self, shell_settings settings) {
  wire::outlive_errors(self);
  auto sh = std::make_shared<shell>(self, std::move(settings));
  using wire::on;
  using wire::on_ask;
  return {
      [sh](const msg<s::Hello>&) -> caf::result<msg<s::Directory>, wire::router_actor, wire::scheduler_actor,
                                     wire::scaler_actor, wire::weights_actor> {
        const auto& set = sh->settings();
        return {sh->directory(), set.router, set.scheduler, set.scaler, set.weights};
      },
      on_ask<msg<s::NodeAnswer>, s::NodeJoin, wire::node_agent_actor>(
          [sh](s::NodeJoin::Reader in, const wire::node_agent_actor& agent) { return sh->join(in, agent); }),
      on<s::Heartbeat>([sh](s::Heartbeat::Reader in) { sh->feed(read_beat(in)); }),
      on<s::NodeLeave>([sh](s::NodeLeave::Reader in) { sh->feed(read_leave(in)); }),
      on<s::InstanceReady, wire::instance_actor>(
          [sh](s::InstanceReady::Reader in, const wire::instance_actor& handle) { sh->instance_ready(in, handle); }),
      [sh](const msg<s::InstanceState>& message) -> caf::result<void> {
        try {
          sh->instance_state(message);
          return caf::unit;
        } catch (const kj::Exception& e) {
          return caf::make_error(caf::sec::invalid_argument, std::string{e.getDescription().cStr()}.substr(0, 200));
        }
      },
      on<s::StepReport>([sh](s::StepReport::Reader in) { sh->report(in); }),
      on<s::InstanceDuty>([sh](s::InstanceDuty::Reader in) {
        sh->feed(duty_status{instance_id{in.getInstance()}, wire::from_wire(in.getDuty())});
      }),
      on<s::LinkAnswer>([sh](s::LinkAnswer::Reader in) { sh->link_answered(in); }),
      on<s::LinkTraffic>([sh](s::LinkTraffic::Reader in) { sh->traffic(in); }),
      on<s::WeightsTraffic>([sh](s::WeightsTraffic::Reader in) { sh->weights_traffic(in); }),
      on_ask<msg<s::Snapshot>, s::SnapshotQuery>([sh](s::SnapshotQuery::Reader) { return sh->snapshot_now(); }),
      on_ask<msg<s::Ack>, s::Subscribe, wire::client_actor>(
          [sh](s::Subscribe::Reader in, const wire::client_actor& client) {
            return sh->subscribe(in.getAfterEvent(), client);
          }),
      on<s::Tick>([sh](s::Tick::Reader) { sh->tick_now(); }),
  };
}

} // namespace hflex::cluster
