// A whole cluster in one process and in virtual time: the head, node agents on scripted machines, and clients that
// write down what they are told.
#pragma once
#include "actors/cluster/head_actor.hpp"
#include "actors/node/node_actor.hpp"
#include "actors/wire/convert_topology.hpp"
#include "tests/support/actor_fixture.hpp"
#include "tests/support/model_dir.hpp"
#include "tests/support/scripted_machine.hpp"

namespace hflex::test {

namespace s = wire::schema;
using wire::msg;

/// What one client was told.
struct client_log {
  struct ending {
    std::uint64_t id{};
    s::Outcome outcome{};
    std::string reason;
    std::vector<token_id> tokens;
    std::uint32_t prefill_instance{};
    std::uint32_t decode_instance{};
    std::uint32_t retries{};
    std::uint32_t cached_prompt_tokens{};
  };
  std::map<std::uint64_t, std::vector<token_id>>
      streamed; ///< by request; an index that is repeated or skipped shows as -1
  std::vector<ending> endings;
  std::vector<cluster::cluster_event> events;

  std::vector<ending> of(std::uint64_t id) const {
    std::vector<ending> out;
    for (const auto& e : endings)
      if (e.id == id) out.push_back(e);
    return out;
  }
};

inline wire::client_actor::behavior_type client_shell(wire::client_actor::pointer, std::shared_ptr<client_log> log) {
  return {[log](const msg<s::TokenChunk>& message) {
            auto in = message.read();
            auto& tokens = log->streamed[in->getId()];
            if (in->getFirstIndex() != tokens.size()) tokens.push_back(-1);
            for (auto t : in->getTokens()) tokens.push_back(t);
          },
      [log](const msg<s::JobRecord>& message) {
        auto in = message.read();
        log->endings.push_back(
            {in->getId(), in->getOutcome(), wire::read(in->getReason()), wire::read(in->getTokenIds()),
                in->getPrefillInstance(), in->getDecodeInstance(), in->getRetries(), in->getCachedPromptTokens()});
      },
      [log](const msg<s::Event>& message) { log->events.push_back(wire::read(*message.read())); }};
}

struct test_client {
  wire::client_actor actor;
  std::shared_ptr<client_log> log;
};

/// One process with an agent: what it did with its machine.
struct test_node {
  wire::node_agent_actor agent;
  std::shared_ptr<scripted_transport> transport;
  std::shared_ptr<int> loads{std::make_shared<int>(0)};    ///< weights read from disk
  std::shared_ptr<int> contexts{std::make_shared<int>(0)}; ///< contexts made
};

/// Devices of all nodes that take weights from each other.
struct scripted_devices {
  std::string kind;                 ///< empty: they do not
  bool give{true};                  ///< who has weights gives a ticket
  std::vector<std::string> asked;   ///< for a ticket: digest and kind
  std::vector<std::size_t> tickets; ///< bytes of the ticket that each context was made with
};

/// Stands between the agents and the head's front door, so that a test can cut the line or keep single messages back.
struct line {
  std::set<std::string> deaf_to;  ///< names of nodes whose messages are lost on the way
  bool slow_welcome{false};       ///< the answer to a join takes a way round, so that orders overtake it
  bool hold_ends{false};          ///< keeps back what agents say about instances that ended ...
  std::vector<caf::message> held; ///< ... here
  std::map<std::uint32_t, wire::instance_actor> instances; ///< announced so far, the latest actor of each
};

class small_cluster : public actor_fixture {
public:
  static constexpr std::uint32_t blocks = 128;
  static constexpr std::uint32_t block_size = 4;

  explicit small_cluster(std::vector<scaler::fleet_line> fleet = {{instance_role::mixed, 1}}) {
    clock->complete_until(now());
    slo_class relaxed{
        "relaxed", {std::chrono::seconds{20}, std::chrono::seconds{2}, {}, 1.0, late_action::serve_late}, "test"};
    settings.router.core.classes = {relaxed};
    settings.router.core.default_class = relaxed.name;
    settings.router.core.max_context = 512;
    settings.router.tokenizer = tokenizer();
    settings.scaler.core.fleet = std::move(fleet);
    settings.scaler.instance.model_dir = "/model";
    settings.cluster.model = "scripted";
    settings.cluster.unix_ms = [] { return std::uint64_t{1}; };
  }
  ~small_cluster() {
    for (auto& c : clients_) caf::anon_send_exit(c.actor, caf::exit_reason::kill);
    for (auto& n : nodes_) caf::anon_send_exit(n->agent, caf::exit_reason::kill);
    for (auto& l : line_actors_) caf::anon_send_exit(l, caf::exit_reason::kill);
    cluster::stop_head(head);
    run();
    clock->complete_until(now() + std::chrono::hours{1}); // what devices still had to do holds handles
    net->held_links.clear();                              // so do answers that a test kept back
    run();
  }

  void start_head() {
    auto started = cluster::spawn_head(system, settings);
    REQUIRE(started);
    head = *started;
    run();
  }

  test_node& start_node(const std::string& name, std::uint32_t slots = 1, const std::string& host = "one host") {
    auto node = std::make_unique<test_node>();
    node->transport = std::make_shared<scripted_transport>(net, name);
    node::shell_settings set;
    set.core.name = name;
    set.core.devices = {{"cpu", "scripted", 1U << 30U, slots}};
    set.core.backoff_min = std::chrono::milliseconds{20};
    set.machine = backend_of(*node);
    set.head = front_door(name);
    set.address = "localhost";
    set.host_id = host;
    set.core.serve_while_loading = serve_while_loading;
    set.random = [this] { return ++incarnations_; };
    node->agent = system.spawn(node::node_shell, std::move(set));
    nodes_.push_back(std::move(node));
    run();
    return *nodes_.back();
  }

  test_client start_client() {
    auto log = std::make_shared<client_log>();
    clients_.push_back({system.spawn(client_shell, log), log});
    return clients_.back();
  }

  /// Time passes by the millisecond, devices and timers both.
  void advance(duration d) {
    const auto end = now() + d;
    while (now() < end) {
      scheduler.advance_time(std::chrono::milliseconds{1});
      clock->complete_until(now());
      scheduler.run();
    }
  }
  /// Until it holds; fails the test when it does not within `limit` of virtual time.
  template <class Predicate>
  void until(Predicate holds, duration limit = std::chrono::seconds{30}) {
    const auto end = now() + limit;
    while (!holds() && now() < end) advance(std::chrono::milliseconds{1});
    REQUIRE(holds());
  }

  msg<s::SubmitAnswer> try_submit(
      const test_client& client, const std::string& prompt, std::uint32_t tokens, bool detach = false) {
    auto message = msg<s::SubmitJob>::make([&](s::SubmitJob::Builder out) {
      out.setPrompt(prompt);
      out.setMaxOutputTokens(tokens);
      out.setDetach(detach);
    });
    return ask<msg<s::SubmitAnswer>>(head.router, message, client.actor);
  }
  std::uint64_t submit(
      const test_client& client, const std::string& prompt, std::uint32_t tokens, bool detach = false) {
    auto answer = try_submit(client, prompt, tokens, detach);
    REQUIRE(answer.read()->isAccepted());
    return answer.read()->getAccepted();
  }
  /// Lets the job end and checks that it did so once, well, and with the right tokens, streamed and recorded.
  client_log::ending finish(
      const test_client& client, std::uint64_t id, const std::string& prompt, std::uint32_t tokens) {
    until([&] { return !client.log->of(id).empty(); });
    advance(std::chrono::seconds{1}); // time for a second ending, which must not come
    auto endings = client.log->of(id);
    REQUIRE(endings.size() == 1);
    CHECK(endings[0].outcome == s::Outcome::FINISHED);
    auto expected = expected_tokens(tokenizer()->encode(prompt, {}), tokens, tokenizer()->vocab_size());
    CHECK(endings[0].tokens == expected);
    CHECK(client.log->streamed[id] == expected);
    return endings[0];
  }

  /// Lets through what `wires` kept back.
  void release_ends() {
    wires->hold_ends = false;
    for (const auto& message : std::exchange(wires->held, {}))
      caf::anon_send(caf::actor_cast<caf::actor>(head.cluster), message);
    run();
  }

  cluster::snapshot topology() {
    return wire::read(*ask<msg<s::Snapshot>>(head.cluster, msg<s::SnapshotQuery>{}).read());
  }
  /// Instances in `state` (and `role`, unless empty), as the topology has them.
  std::size_t count_instances(const std::string& state, const std::string& role = {}) {
    std::size_t n = 0;
    for (const auto& a : topology().actors)
      n += a.kind == "instance" && a.state == state && (role.empty() || a.role == role) ? 1 : 0;
    return n;
  }
  void until_ready(std::size_t instances) {
    until([&] { return count_instances("ready") == instances; });
  }
  bool all_blocks_free() {
    for (const auto& a : topology().actors)
      if (a.kind == "instance" && a.kv_blocks_free != a.kv_blocks_total) return false;
    return true;
  }
  msg<s::CommandAnswer> change_role(std::uint32_t instance, s::Role to) {
    return ask<msg<s::CommandAnswer>>(head.scaler, msg<s::ChangeRole>::make([&](s::ChangeRole::Builder out) {
      out.setInstance(instance);
      out.setTo(to);
    }));
  }

  static std::shared_ptr<const gpu::tokenizer> tokenizer() {
    static const auto loaded = gpu::tokenizer::load(demo_model());
    REQUIRE(loaded);
    return *loaded;
  }

  /// Ends the one pull of weights that waits (net->pulls_wait).
  void end_pull(result<void> outcome) {
    auto pulls = std::exchange(net->waiting_pulls, {});
    REQUIRE(pulls.size() == 1);
    pulls[0](std::move(outcome));
    run();
  }

  std::shared_ptr<device_clock> clock{std::make_shared<device_clock>()};
  std::shared_ptr<fabric> net{std::make_shared<fabric>()};
  std::shared_ptr<line> wires{std::make_shared<line>()};
  std::shared_ptr<scripted_devices> devices{std::make_shared<scripted_devices>()};
  cluster::head_settings settings; ///< to be changed before start_head
  bool serve_while_loading{false}; ///< of the agents that are started from now on
  cluster::head_actors head;

private:
  node::backend backend_of(const test_node& node) {
    node::backend machine;
    machine.load_weights = [loads = node.loads](std::uint32_t, const wire::instance_options&, const std::string&,
                               const gpu::progress_callback&) -> result<std::shared_ptr<const gpu::weight_region>> {
      ++*loads;
      return std::make_shared<named_weights>();
    };
    machine.stamp_of = [](const std::string&) { return std::string{"unchanged"}; };
    machine.device_kind = [d = devices](std::uint32_t, const wire::instance_options&) { return d->kind; };
    machine.give_device_weights = [d = devices](const std::string& digest, const std::string& kind,
                                      std::uint32_t receivers) -> result<std::vector<std::vector<std::byte>>> {
      d->asked.push_back(digest + " " + kind);
      if (!d->give) return fail(errc::reroute, "on no device here");
      std::vector<std::vector<std::byte>> tickets;
      for (std::uint32_t i = 0; i < receivers; ++i) tickets.emplace_back(7 + i);
      return tickets;
    };
    machine.make_context = [contexts = node.contexts, clock = clock, d = devices](std::uint32_t,
                               const std::shared_ptr<const gpu::weight_region>&, const wire::instance_options&,
                               const gpu::device_sources& sources) -> result<std::shared_ptr<gpu::device_context>> {
      ++*contexts;
      d->tickets.push_back(sources.ticket.size());
      return std::make_shared<scripted_device>(clock, tokenizer()->vocab_size(), blocks, block_size);
    };
    // Later, as a loader thread would: what comes of it reaches the agent in a message of its own.
    machine.run_blocking = [clock = clock](std::function<void()> work) {
      clock->after(std::chrono::milliseconds{5}, std::move(work));
    };
    machine.transport = node.transport;
    return machine;
  }

  static bool is_end(const msg<s::InstanceState>& state) {
    auto phase = state.read()->getPhase();
    return phase == s::InstancePhase::GONE || phase == s::InstancePhase::FAILED;
  }

  /// The cluster actor as the agent of `name` reaches it.
  wire::cluster_actor front_door(const std::string& name) {
    auto relay = [name, wires = wires, to = caf::actor_cast<caf::actor>(head.cluster)](
                     caf::scheduled_actor* self, caf::message_view& view) -> caf::result<caf::message> {
      auto message = view.move_content_to_message();
      if (message.match_elements<msg<s::InstanceReady>, wire::instance_actor>())
        wires->instances[message.get_as<msg<s::InstanceReady>>(0).read()->getInstance()] =
            message.get_as<wire::instance_actor>(1);
      auto held = wires->hold_ends && message.match_elements<msg<s::InstanceState>>() &&
                  is_end(message.get_as<msg<s::InstanceState>>(0));
      if (held) wires->held.push_back(message);
      if (wires->slow_welcome && message.match_elements<msg<s::NodeJoin>, wire::node_agent_actor>()) {
        auto answer = self->make_response_promise<msg<s::NodeAnswer>>();
        static_cast<caf::event_based_actor*>(self)
            ->request(caf::actor_cast<wire::cluster_actor>(to), caf::infinite, message.get_as<msg<s::NodeJoin>>(0),
                message.get_as<wire::node_agent_actor>(1))
            .then([answer](const msg<s::NodeAnswer>& welcome) mutable { answer.deliver(welcome); });
        return caf::delegated<caf::message>{};
      }
      auto promise = self->make_response_promise();
      if (!held && wires->deaf_to.count(name) == 0) promise.delegate(to, message);
      return caf::delegated<caf::message>{};
    };
    line_actors_.push_back(system.spawn(
        [](caf::event_based_actor* self, const caf::scheduled_actor::default_handler& handler) -> caf::behavior {
          self->set_default_handler(handler);
          return {[](caf::unit_t) {}};
        },
        caf::scheduled_actor::default_handler{relay}));
    return caf::actor_cast<wire::cluster_actor>(line_actors_.back());
  }

  std::vector<test_client> clients_;
  std::vector<std::unique_ptr<test_node>> nodes_;
  std::vector<caf::actor> line_actors_;
  std::uint64_t incarnations_{0};
};

} // namespace hflex::test
