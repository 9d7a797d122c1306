// Well-formed messages that make no sense, from peers that are broken or hostile: they may cost what they are about,
// never an actor.
#include "tests/support/random_message.hpp"
#include "tests/support/small_cluster.hpp"

namespace hflex::test::nonsense_test {
namespace {

constexpr int rounds = 300;

template <class... Schemas>
struct tells {
  template <class Handle>
  static void send(const Handle& to, dice& random) {
    auto actor = caf::actor_cast<caf::actor>(to);
    (caf::anon_send(actor, random_message<Schemas>(random)), ...);
  }
};
using for_router = tells<s::Placed, s::Shed, s::TokensProduced, s::SequenceEnded, s::HandedBack, s::InstanceGone,
    s::CancelJob, s::JobQuery, s::Migrate, s::MigrationEnded, s::Tick>;
using for_scheduler = tells<s::RequestArrived, s::RequestEnded, s::PrefillFinished, s::InstanceUp, s::InstanceGone,
    s::InstanceDraining, s::StepReport, s::Moved, s::MigrateRequest, s::ExplainRequest, s::Tick>;
using for_scaler = tells<s::NodeGone, s::InstanceState, s::ChangeRole, s::Drain, s::Tick>;
using for_weights = tells<s::NodeGone, s::WeightsNeeded, s::WeightsNotNeeded, s::WeightsHeld, s::WeightsReleased,
    s::WeightsProgress, s::WeightsLoaded, s::WeightsFailed, s::Tick>;
using for_cluster = tells<s::Heartbeat, s::NodeLeave, s::InstanceState, s::StepReport, s::LinkTraffic,
    s::WeightsTraffic, s::SnapshotQuery, s::Tick>;
using for_instance = tells<s::KvOffer, s::KvAccept, s::KvRefuse, s::KvCommit, s::KvAbort, s::StartSequence,
    s::CancelSequence, s::KvTaken, s::MigrateSequence, s::KvMoved, s::InstanceGone, s::Tick>;
using for_agent = tells<s::StartInstance, s::LoadFrom, s::StopLoad, s::WeightsGiveUp, s::WeightsProgress,
    s::WeightsLoaded, s::WeightsFailed, s::ContextReady, s::WeightsArriving, s::Tick>;

/// Lists the names of those that end.
template <class Handle>
void note_end(const Handle& of, const std::string& name, const std::shared_ptr<std::vector<std::string>>& ends) {
  caf::actor_cast<caf::strong_actor_ptr>(of)->get()->attach_functor(
      [name, ends](const caf::error&) { ends->push_back(name); });
}

} // namespace

TEST_CASE_METHOD(small_cluster, "messages without sense end no actor") {
  start_head();
  auto& node = start_node("a");
  until_ready(1);
  auto client = start_client();
  auto ends = std::make_shared<std::vector<std::string>>();
  auto instance = wires->instances.at(1);
  note_end(head.router, "router", ends);
  note_end(head.scheduler, "scheduler", ends);
  note_end(head.scaler, "scaler", ends);
  note_end(head.weights, "weights", ends);
  note_end(head.cluster, "cluster", ends);
  note_end(node.agent, "agent", ends);
  note_end(instance, "instance", ends);

  dice random{4};
  SECTION("to the router") {
    for (int i = 0; i < rounds; ++i) {
      for_router::send(head.router, random);
      ask_later<msg<s::SubmitAnswer>>(head.router, random_message<s::SubmitJob>(random), client.actor);
      advance(std::chrono::milliseconds{2});
    }
  }
  SECTION("to the scheduler") {
    for (int i = 0; i < rounds; ++i, advance(std::chrono::milliseconds{2})) for_scheduler::send(head.scheduler, random);
  }
  SECTION("to the scaler") {
    // Orders that follow may well end the instance in good order.
    for (int i = 0; i < rounds; ++i, advance(std::chrono::milliseconds{2})) for_scaler::send(head.scaler, random);
    ends->erase(std::remove(ends->begin(), ends->end(), "instance"), ends->end());
  }
  SECTION("to the weights") {
    for (int i = 0; i < rounds; ++i, advance(std::chrono::milliseconds{2})) for_weights::send(head.weights, random);
  }
  SECTION("to the cluster") {
    for (int i = 0; i < rounds; ++i, advance(std::chrono::milliseconds{2})) for_cluster::send(head.cluster, random);
  }
  SECTION("to an instance") {
    for (int i = 0; i < rounds; ++i, advance(std::chrono::milliseconds{2})) for_instance::send(instance, random);
  }
  SECTION("to an agent") {
    for (int i = 0; i < rounds; ++i, advance(std::chrono::milliseconds{2})) for_agent::send(node.agent, random);
  }
  SECTION("errors that answer nothing") {
    // A peer refuses a message that was no question: the error comes back all the same.
    auto refuse = [](const auto& to) {
      caf::anon_send(caf::actor_cast<caf::actor>(to), caf::make_error(caf::sec::invalid_argument, std::string{"no"}));
    };
    refuse(head.router);
    refuse(head.scheduler);
    refuse(head.scaler);
    refuse(head.weights);
    refuse(head.cluster);
    refuse(node.agent);
    refuse(instance);
    advance(std::chrono::milliseconds{2});
  }
  SECTION("with handles of nobody") {
    // What comes out of the network for an actor of the receiver's own that has ended.
    for (int i = 0; i < 10; ++i) {
      ask_later<msg<s::SubmitAnswer>>(head.router, random_message<s::SubmitJob>(random), wire::client_actor{});
      ask_later<msg<s::WaitAnswer>>(head.router, random_message<s::WaitJob>(random), wire::client_actor{});
      ask_later<msg<s::NodeAnswer>>(head.cluster, random_message<s::NodeJoin>(random), wire::node_agent_actor{});
      ask_later<msg<s::Ack>>(head.cluster, random_message<s::Subscribe>(random), wire::client_actor{});
      caf::anon_send(head.cluster, random_message<s::InstanceReady>(random), wire::instance_actor{});
      caf::anon_send(head.router, random_message<s::InstanceUp>(random), wire::instance_actor{});
      caf::anon_send(head.scaler, random_message<s::NodeUp>(random), wire::node_agent_actor{});
      caf::anon_send(head.weights, random_message<s::NodeUp>(random), wire::node_agent_actor{});
      caf::anon_send(instance, random_message<s::PeerUp>(random), wire::kv_peer_actor{});
      advance(std::chrono::milliseconds{2});
    }
  }
  CHECK(*ends == std::vector<std::string>{});
  kill(head.weights); // an end would have been seen
  CHECK(*ends == std::vector<std::string>{"weights"});
}

} // namespace hflex::test::nonsense_test
