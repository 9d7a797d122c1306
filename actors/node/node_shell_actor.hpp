// The node agent's shell as a class. Its sources are node_actor.cpp (what it hears), node_report_actor.cpp (what the
// head hears of instances) and node_weights_actor.cpp (weights and contexts).
#pragma once
#include "actors/common/check.hpp"
#include "actors/instance/instance_actor.hpp"
#include "actors/node/host_cache.hpp"
#include "actors/node/node_actor.hpp"
#include "actors/weights/weights.hpp"
#include "actors/wire/convert.hpp"
#include "actors/wire/dial.hpp"
#include "actors/wire/shell.hpp"
#include <set>
#include <spdlog/spdlog.h>
#include <unistd.h>

namespace hflex::node {

namespace s = wire::schema;
using wire::msg;

class shell : public wire::effect_loop<shell, effect> {
public:
  shell(wire::node_agent_actor::pointer self, shell_settings settings)
      : self_(self), set_(std::move(settings)), core_(set_.core), timer_(self), shop_(std::make_shared<workshop>()),
        cache_(set_.host_cache_bytes), giving_(set_.giving) {
    limit_giving();
  }

  ~shell() {
    for (const auto& [digest, region] : regions_) set_.machine.transport->withdraw_weights(digest);
    for (const auto& [id, i] : instances_)
      if (i.actor) caf::anon_send_exit(i.actor, caf::exit_reason::kill);
  }

  shell(const shell&) = delete;
  shell& operator=(const shell&) = delete;

  template <class Event>
  void feed(const Event& event) {
    core_.on(event, wire::now(self_), queue());
    drain();
    if (core_.done()) self_->quit();
  }

  void tick_now() {
    timer_.fired();
    feed(tick{});
  }

  // ---- orders ----

  void start(s::StartInstance::Reader in) {
    start_order order{
        instance_id{in.getInstance()}, in.getDevice(), wire::from_wire(in.getRole()), wire::read(in.getOptions())};
    // The scaler may hear of this node, and order, before the cluster's welcome tells the node who it is.
    if (core_.connection() != head_state::joining)
      start(order);
    else if (early_.size() < max_early_orders)
      early_.push_back(std::move(order));
  }

  void stop(s::StopInstance::Reader in) { feed(stop_instance{instance_id{in.getInstance()}, in.getDrain()}); }

  // ---- weights ----

  void load(s::LoadFrom::Reader in);

  void stop_load(s::StopLoad::Reader in);

  void grant(s::GrantWeights::Reader in);
  void give_to_devices(s::GiveDeviceWeights::Reader in);
  void device_ticket(s::DeviceTicket::Reader in);

  /// How much time the requests of an instance here can spare.
  void slack(s::SourceSlack::Reader in);

  void pass_on(const msg<s::WeightsProgress>& message);

  void region_arriving(s::WeightsArriving::Reader in);

  void region_loaded(s::WeightsLoaded::Reader in) {
    instance_id id{in.getInstance()};
    if (auto region = shop_->take(id, in.getAttempt())) finish_load(id, in.getAttempt(), region);
  }

  void region_failed(s::WeightsFailed::Reader in) {
    fail_load(instance_id{in.getInstance()}, in.getAttempt(), wire::read(in.getReason()));
  }

  void give_up(s::WeightsGiveUp::Reader in) {
    feed(weights_failed{instance_id{in.getInstance()}, wire::read(in.getReason())});
  }

  // ---- contexts and instances ----

  void context_made(s::ContextReady::Reader in) {
    context_id id{in.getContext()};
    if (in.getFailed()) {
      wanted_contexts_.erase(id);
      forget_context(id);
      feed(context_failed{id, wire::read(in.getMessage())});
    } else if (auto made = shop_->take(id); made && wanted_contexts_.count(id) > 0) {
      auto& entry = contexts_[id];
      entry.context = std::move(made);
      entry.allocate_ms = in.getAllocateMs();
      entry.warm_up_ms = in.getWarmUpMs();
      feed(context_ready{id});
    }
  }

  void retired(instance_id id) {
    auto found = instances_.find(id);
    if (found == instances_.end()) return;
    found->second.ends_as_asked = true;
    found->second.drained = wire::now(self_) - found->second.retire_since;
  }

  // ---- effects: the head ----

  void perform(connect&) {
    if (set_.head) {
      greet(set_.head);
      return;
    }
    wire::dial<wire::cluster_actor>(
        self_, set_.head_host, set_.head_port, set_.core.connect_deadline,
        [this](const wire::cluster_actor& head) { greet(head); }, [this](const std::string& why) { unreachable(why); });
  }

  void perform(hang_up&) {
    early_.clear();
    if (cluster_) watcher_.forget(self_, cluster_);
    cluster_ = wire::cluster_actor{};
    router_ = wire::router_actor{};
    scheduler_ = wire::scheduler_actor{};
    weights_ = wire::weights_actor{};
  }

  void perform(join& e) {
    auto message = msg<s::NodeJoin>::make([&](s::NodeJoin::Builder out) {
      out.setProtocol(wire::protocol_version);
      out.setName(set_.core.name);
      out.setIncarnation(e.incarnation);
      out.setAddress(set_.address);
      out.setHostId(set_.host_id);
      out.setPid(static_cast<std::uint32_t>(::getpid()));
      auto devices = out.initDevices(static_cast<unsigned>(set_.core.devices.size()));
      for (unsigned i = 0; i < set_.core.devices.size(); ++i) {
        const auto& d = set_.core.devices[i];
        devices[i].setKind(d.kind);
        devices[i].setName(d.name);
        devices[i].setMemoryBytes(d.memory_bytes);
        devices[i].setMemoryUsedBytes(memory_used(i));
        devices[i].setMaxInstances(d.slots);
      }
    });
    auto incarnation = e.incarnation;
    wire::ask(self_, set_.core.connect_deadline, cluster_, message, wire::node_agent_actor{self_})
        .then([this, incarnation](const msg<s::NodeAnswer>& answer) { joined(incarnation, answer); },
            [this, incarnation](const caf::error& err) {
              feed(refused{incarnation, self_->home_system().render(err)});
            });
  }

  void perform(heartbeat& e) {
    wire::tell(self_, cluster_, msg<s::Heartbeat>::make([&](s::Heartbeat::Builder out) {
      out.setNode(e.node.value);
      out.setIncarnation(e.incarnation);
      out.setSeq(e.sequence);
      auto memory = out.initMemoryUsedBytes(static_cast<unsigned>(set_.core.devices.size()));
      for (unsigned i = 0; i < memory.size(); ++i) memory.set(i, memory_used(i));
      out.setWeightsBytes(cache_.bytes());
      out.setWeightsIdleBytes(cache_.idle_bytes());
    }));
  }

  void perform(report& e);

  void perform(leave& e) {
    wire::tell(self_, cluster_, msg<s::NodeLeave>::make([&](s::NodeLeave::Builder out) {
      out.setNode(e.node.value);
      out.setIncarnation(e.incarnation);
    }));
  }

  // ---- effects: weights ----

  void perform(ask_weights& e);

  void perform(cancel_weights& e);

  // ---- effects: contexts and actors ----

  void perform(create_context& e);
  void perform(release_context& e);

  void perform(spawn_instance& e) {
    auto& entry = instances_[e.instance];
    const auto& context = contexts_.at(e.context).context;
    entry.role = e.role;
    entry.device = e.device;
    entry.context = e.context;
    entry.ends_as_asked = false;
    instance::shell_settings settings;
    settings.core = core_options(e.instance, e.role, entry.options, *context);
    settings.core.first_transfer = 1 + entry.generation++ * std::uint64_t{1U << 20U};
    settings.step_time = entry.options.step_time;
    settings.node = core_.id();
    settings.context = context;
    settings.transport = set_.machine.transport;
    settings.router = router_;
    settings.scheduler = scheduler_;
    settings.cluster = cluster_;
    settings.agent = self_;
    entry.actor = self_->home_system().spawn(instance::instance_shell, std::move(settings));
    watcher_.watch(
        self_, entry.actor, [this, id = e.instance](const std::string& reason) { instance_ended(id, reason); });
    feed(instance_ready{e.instance});
  }

  void perform(retire_instance& e) {
    auto found = instances_.find(e.instance);
    if (found == instances_.end()) return;
    found->second.retire_since = wire::now(self_);
    wire::tell(self_, found->second.actor, msg<s::Retire>::make([&](s::Retire::Builder out) {
      // A little less than our own deadline: it hands its residents back before it is killed.
      out.setDrainMs(static_cast<std::uint32_t>(to_ms(set_.core.drain_deadline) * 0.9));
    }));
  }

  void perform(kill_instance& e) {
    auto found = instances_.find(e.instance);
    if (found == instances_.end()) return;
    found->second.ends_as_asked = true;
    caf::anon_send_exit(found->second.actor, caf::exit_reason::kill);
  }

  void perform(wake_at& e) { timer_.at(e.time); }

private:
  static constexpr std::size_t max_early_orders = 64;

  struct start_order {
    instance_id instance;
    std::uint32_t device{};
    instance_role role{};
    wire::instance_options options;
  };
  struct load_entry {
    std::uint32_t attempt{}; ///< 0: none under way
    s::SourceKind kind{s::SourceKind::DISK};
    node_id from;
    std::string digest;
    time_point since;
    std::uint64_t bytes{};
    duration planned{}; ///< from the order to the first source named
    duration took{};    ///< from there until they were here
  };
  struct instance_entry {
    wire::instance_options options;
    wire::instance_actor actor;
    instance_role role{};
    std::uint32_t device{};
    context_id context{};
    load_entry load;
    region_ptr arriving;         ///< its weights as they will be, from their head on and until all of them are here
    weights_base base{};         ///< what its context was made of, until all of them are here
    std::string stamp;           ///< of the checkpoint's directory when weights were asked for
    gpu::device_sources sources; ///< of what its device may take from other devices
    time_point ordered;
    time_point retire_since; ///< of the latest actor that was told to retire ...
    duration drained{};      ///< ... and how long its residents took to go
    std::uint64_t generation{};
    bool ends_as_asked{false}; ///< the actor said that it retired, or was told to end at once
  };
  struct context_entry {
    context_ptr context;
    std::uint32_t device{};
    std::string digest;
    double allocate_ms{};
    double warm_up_ms{};
  };

  void start(const start_order& order) {
    auto& entry = instances_[order.instance];
    if (!entry.actor) {
      entry.options = order.options;
      entry.device = order.device;
      entry.role = order.role;
    }
    entry.ordered = wire::now(self_);
    feed(start_instance{order.instance, order.device, order.role, {order.options.model_dir, {}}});
  }

  bool knows(instance_id id) const {
    for (const auto& view : core_.instances())
      if (view.instance == id) return true;
    return false;
  }

  /// Weights of a directory that this process already holds need no reading to be known.
  std::string digest_of(const std::string& dir, const std::string& stamp) const;

  void tell_traffic(instance_id id, node_id from, std::uint64_t done, std::uint64_t total);

  std::uint64_t memory_used(std::uint32_t device) const;

  void greet(const wire::cluster_actor& head) {
    auto hello = msg<s::Hello>::make([](s::Hello::Builder out) { out.setProtocol(wire::protocol_version); });
    wire::ask(self_, set_.core.connect_deadline, head, hello)
        .then(
            [this, head](const msg<s::Directory>&, const wire::router_actor& router,
                const wire::scheduler_actor& scheduler, const wire::scaler_actor&, const wire::weights_actor& weights) {
              cluster_ = head;
              router_ = router;
              scheduler_ = scheduler;
              weights_ = weights;
              watcher_.watch(self_, head, [this](const std::string& reason) {
                if (!set_.head) complain("the head is gone: " + reason); // one in this process goes with it
                feed(head_lost{reason});
              });
              feed(opened{std::max<std::uint64_t>(set_.random(), 1)});
            },
            [this](const caf::error& err) { unreachable(self_->home_system().render(err)); });
  }

  void unreachable(const std::string& why) {
    complain("cannot reach the head: " + why);
    feed(connect_failed{why});
  }

  /// Once for each trouble, not for each try: they go on until the head answers.
  void complain(const std::string& trouble) {
    if (std::exchange(trouble_, trouble) != trouble) spdlog::warn("node: {}; trying on", trouble);
  }

  void joined(std::uint64_t incarnation, const msg<s::NodeAnswer>& answer) {
    auto in = answer.read();
    if (in->isRefused()) {
      complain(fmt::format("the head refuses {}: {}", set_.core.name, in->getRefused().cStr()));
      feed(refused{incarnation, wire::read(in->getRefused())});
      return;
    }
    auto welcome = in->getWelcome();
    trouble_.clear();
    spdlog::info("node: joined as {}", to_string(node_id{welcome.getNode()}));
    feed(welcomed{
        incarnation, node_id{welcome.getNode()}, std::chrono::milliseconds{std::max(welcome.getHeartbeatMs(), 10U)}});
    for (const auto& [digest, region] : regions_) announce_weights(*region);
    for (const auto& order : std::exchange(early_, {})) start(order);
  }

  void announce_weights(const gpu::weight_region& region);

  /// The context is gone, or never was: its weights are idle unless another one uses them.
  void forget_context(context_id id);

  void free_weights(const std::vector<std::string>& digests);

  void limit_giving() { set_.machine.transport->limit_weights(giving_.value()); }

  std::string device_kind_of(const instance_entry& entry) const;
  std::function<void(region_ptr)> arriving_to(instance_id id, std::uint32_t attempt);

  gpu::progress_callback progress_to(instance_id id, std::uint32_t attempt);

  std::function<void(result<region_ptr>)> loaded_by(instance_id id, std::uint32_t attempt);

  void finish_load(instance_id id, std::uint32_t attempt, const region_ptr& region);

  void fail_load(instance_id id, std::uint32_t attempt, const std::string& reason);

  static instance::options core_options(
      instance_id id, instance_role role, const wire::instance_options& o, const gpu::device_context& context) {
    instance::options core;
    core.self = id;
    core.role = role;
    core.block_size = context.kv().block_size;
    core.kv_blocks = context.kv().blocks;
    core.max_context = context.max_context();
    core.vocab_size = context.vocab_size();
    core.eos_tokens.assign(context.eos_tokens().begin(), context.eos_tokens().end());
    core.max_batched_tokens = o.max_batched_tokens;
    core.max_sequences = o.max_sequences;
    core.max_waiting = o.max_waiting;
    core.policy = o.steps;
    core.prefill_weight = o.prefill_weight;
    core.safety = o.safety;
    core.transfer_lease = o.kv_lease;
    core.prefix_cache = o.prefix_cache;
    return core;
  }

  void instance_ended(instance_id id, const std::string& reason) {
    auto found = instances_.find(id); // not there: it was told to end, and its failure was reported before it did
    if (found != instances_.end()) found->second.actor = wire::instance_actor{};
    giving_.gone(id);
    limit_giving();
    if (found == instances_.end() || found->second.ends_as_asked)
      feed(instance_stopped{id});
    else
      feed(instance_died{id, reason, false});
  }

  void report_ready(const report& e, const instance_entry& entry);

  wire::node_agent_actor::pointer self_;
  shell_settings set_;
  core core_;
  wire::wake_timer<wire::node_agent_actor::pointer> timer_;
  wire::watcher watcher_;
  wire::cluster_actor cluster_;
  wire::router_actor router_;
  wire::scheduler_actor scheduler_;
  wire::weights_actor weights_;
  std::shared_ptr<workshop> shop_;
  std::map<instance_id, instance_entry> instances_;
  std::map<context_id, context_entry> contexts_;
  std::string trouble_;                       ///< with the head, as it was told last
  std::vector<start_order> early_;            ///< came before the welcome
  std::set<context_id> wanted_contexts_;      ///< not released: what comes of making another one is freed
  std::map<std::string, region_ptr> regions_; ///< by digest: weights that this process holds
  host_cache cache_;                          ///< which of them stay when nobody uses them
  weights::bandwidth_cap giving_;
  /// Digests of directories that were read, by directory and stamp.
  std::map<std::pair<std::string, std::string>, std::string> digests_;
};

} // namespace hflex::node
