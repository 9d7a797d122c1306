// The typed interfaces of all roles, in one place: who may be told what. Handles travel as message elements of their
// own, never as bytes inside a payload, and the order below is the order in which interfaces may name each other.
#pragma once
#include "actors/wire/compat.hpp"
#include "schema/cluster.capnp.h"
#include "schema/common.capnp.h"
#include "schema/instance.capnp.h"
#include "schema/job.capnp.h"
#include "schema/kv.capnp.h"
#include "schema/scaling.capnp.h"
#include "schema/scheduling.capnp.h"
#include "schema/topology.capnp.h"
#include "schema/weights.capnp.h"

namespace hflex::wire {

/// Raised when two builds can no longer talk: a peer with another number is refused when it says hello.
inline constexpr std::uint32_t protocol_version = 4;

namespace s = schema;

/// Someone who submitted a job or watches the topology.
using client_actor = caf::typed_actor<tells<msg<s::TokenChunk>>, tells<msg<s::JobRecord>>, tells<msg<s::Event>>>;

/// An instance as its counterparts see it: the KV hand-over.
using kv_peer_actor = caf::typed_actor<tells<msg<s::KvOffer>>, tells<msg<s::KvAccept>>, tells<msg<s::KvRefuse>>,
    tells<msg<s::KvCommit>>, tells<msg<s::KvAbort>>, tells<msg<s::KvTaken>>>;

/// A prefill, decode or mixed instance.
using instance_actor = kv_peer_actor::extend<asks<msg<s::Ack>, msg<s::StartSequence>>, tells<msg<s::CancelSequence>>,
    tells<msg<s::MigrateSequence>>, tells<msg<s::StepDone>>, tells<msg<s::KvMoved>>, tells<msg<s::Retire>>,
    tells<msg<s::PeerUp>, kv_peer_actor>, tells<msg<s::InstanceGone>>, tells<msg<s::Tick>>>;

/// Accepts jobs and owns the promise that each ends once.
using router_actor = caf::typed_actor<asks<msg<s::SubmitAnswer>, msg<s::SubmitJob>, client_actor>,
    asks<msg<s::CommandAnswer>, msg<s::CancelJob>>, asks<msg<s::JobList>, msg<s::JobQuery>>,
    asks<msg<s::WaitAnswer>, msg<s::WaitJob>, client_actor>, tells<msg<s::Placed>>, tells<msg<s::Shed>>,
    tells<msg<s::TokensProduced>>, tells<msg<s::SequenceEnded>>, tells<msg<s::HandedBack>>,
    tells<msg<s::InstanceUp>, instance_actor>, tells<msg<s::InstanceGone>>, tells<msg<s::SequencesHeld>>,
    tells<msg<s::Migrate>>, tells<msg<s::MigrationEnded>>, tells<msg<s::Tick>>>;

/// Who wants to know what is asked of the fleet.
using demand_actor = caf::typed_actor<tells<msg<s::DemandReport>>>;

/// Who shows people what instances are used for.
using duty_actor = caf::typed_actor<tells<msg<s::InstanceDuty>>>;

/// Decides which instance serves which request, and when.
using scheduler_actor = caf::typed_actor<tells<msg<s::Ack>, router_actor>, // "this is the router": placements go there
    tells<msg<s::Ack>, demand_actor>,                                      // "this is the scaler": demand goes there
    tells<msg<s::Ack>, duty_actor>,                                        // "this is the cluster": duties go there
    tells<msg<s::RequestArrived>>, tells<msg<s::RequestEnded>>, tells<msg<s::PrefillFinished>>,
    tells<msg<s::InstanceUp>>, tells<msg<s::InstanceGone>>, tells<msg<s::InstanceDraining>>, tells<msg<s::StepReport>>,
    tells<msg<s::WeightsExpected>>, tells<msg<s::Moved>>, asks<msg<s::CommandAnswer>, msg<s::MigrateRequest>>,
    asks<msg<s::Explanation>, msg<s::ExplainRequest>>, tells<msg<s::Tick>>>;

/// One host's agent: owns device contexts, spawns and watches instances.
using node_agent_actor =
    caf::typed_actor<tells<msg<s::StartInstance>>, tells<msg<s::StopInstance>>, tells<msg<s::ChangeRole>>,
        tells<msg<s::LoadFrom>>, tells<msg<s::StopLoad>>, tells<msg<s::WeightsGiveUp>>, tells<msg<s::GrantWeights>>,
        tells<msg<s::GiveDeviceWeights>>, tells<msg<s::DeviceTicket>>, tells<msg<s::SourceSlack>>,
        tells<msg<s::Rejoin>>, tells<msg<s::Retired>>, tells<msg<s::NodeLeave>>, tells<msg<s::Tick>>,
        // from its own loader and device threads
        tells<msg<s::WeightsProgress>>, tells<msg<s::WeightsLoaded>>, tells<msg<s::WeightsFailed>>,
        tells<msg<s::ContextReady>>, tells<msg<s::WeightsArriving>>>;

/// Keeps the fleet as it should be.
using scaler_actor = demand_actor::extend<tells<msg<s::NodeUp>, node_agent_actor>, tells<msg<s::NodeGone>>,
    tells<msg<s::InstanceState>>, tells<msg<s::WeightsExpected>>, asks<msg<s::CommandAnswer>, msg<s::ChangeRole>>,
    asks<msg<s::CommandAnswer>, msg<s::Drain>>, asks<msg<s::CommandAnswer>, msg<s::ScaleFleet>>,
    asks<msg<s::ScalingLog>, msg<s::ScalingQuery>>, tells<msg<s::Tick>>>;

/// Tells each new instance where its weights come from.
using weights_actor = caf::typed_actor<tells<msg<s::NodeUp>, node_agent_actor>, tells<msg<s::NodeGone>>,
    tells<msg<s::WeightsNeeded>>, tells<msg<s::WeightsNotNeeded>>, tells<msg<s::WeightsHeld>>,
    tells<msg<s::WeightsReleased>>, tells<msg<s::WeightsProgress>>, tells<msg<s::WeightsLoaded>>,
    tells<msg<s::WeightsFailed>>, tells<msg<s::DeviceTicket>>, tells<msg<s::Tick>>>;

/// The head's front door: membership and topology. Answers a hello with the handles of the other roles.
using cluster_actor = duty_actor::extend<
    caf::replies_to<msg<s::Hello>>::with<msg<s::Directory>, router_actor, scheduler_actor, scaler_actor, weights_actor>,
    asks<msg<s::NodeAnswer>, msg<s::NodeJoin>, node_agent_actor>, tells<msg<s::Heartbeat>>, tells<msg<s::NodeLeave>>,
    tells<msg<s::InstanceReady>, instance_actor>, tells<msg<s::InstanceState>>, tells<msg<s::StepReport>>,
    tells<msg<s::LinkAnswer>>, tells<msg<s::LinkTraffic>>, tells<msg<s::WeightsTraffic>>,
    asks<msg<s::Snapshot>, msg<s::SnapshotQuery>>, asks<msg<s::Ack>, msg<s::Subscribe>, client_actor>,
    tells<msg<s::Tick>>>;

} // namespace hflex::wire

// Names and type numbers by which two processes recognise messages. Append only: the order is part of the protocol.
CAF_BEGIN_TYPE_ID_BLOCK(hflex, caf::first_custom_type_id)
CAF_ADD_TYPE_ID(hflex, (hflex::wire::client_actor))
CAF_ADD_TYPE_ID(hflex, (hflex::wire::kv_peer_actor))
CAF_ADD_TYPE_ID(hflex, (hflex::wire::instance_actor))
CAF_ADD_TYPE_ID(hflex, (hflex::wire::router_actor))
CAF_ADD_TYPE_ID(hflex, (hflex::wire::scheduler_actor))
CAF_ADD_TYPE_ID(hflex, (hflex::wire::node_agent_actor))
CAF_ADD_TYPE_ID(hflex, (hflex::wire::scaler_actor))
CAF_ADD_TYPE_ID(hflex, (hflex::wire::weights_actor))
CAF_ADD_TYPE_ID(hflex, (hflex::wire::cluster_actor))
#define HFLEX_MSG(name) CAF_ADD_TYPE_ID(hflex, (hflex::wire::msg<hflex::wire::schema::name>))
HFLEX_MSG(Tick)
HFLEX_MSG(Ack)
HFLEX_MSG(SubmitJob)
HFLEX_MSG(SubmitAnswer)
HFLEX_MSG(TokenChunk)
HFLEX_MSG(JobRecord)
HFLEX_MSG(JobQuery)
HFLEX_MSG(JobList)
HFLEX_MSG(CancelJob)
HFLEX_MSG(WaitJob)
HFLEX_MSG(WaitAnswer)
HFLEX_MSG(CommandAnswer)
HFLEX_MSG(RequestArrived)
HFLEX_MSG(RequestEnded)
HFLEX_MSG(PrefillFinished)
HFLEX_MSG(Placed)
HFLEX_MSG(Shed)
HFLEX_MSG(InstanceUp)
HFLEX_MSG(InstanceGone)
HFLEX_MSG(InstanceDraining)
HFLEX_MSG(StepReport)
HFLEX_MSG(StartSequence)
HFLEX_MSG(CancelSequence)
HFLEX_MSG(TokensProduced)
HFLEX_MSG(SequenceEnded)
HFLEX_MSG(HandedBack)
HFLEX_MSG(StepDone)
HFLEX_MSG(Retire)
HFLEX_MSG(Retired)
HFLEX_MSG(PeerUp)
HFLEX_MSG(KvOffer)
HFLEX_MSG(KvAccept)
HFLEX_MSG(KvRefuse)
HFLEX_MSG(KvCommit)
HFLEX_MSG(KvAbort)
HFLEX_MSG(KvMoved)
HFLEX_MSG(WeightsNeeded)
HFLEX_MSG(WeightsNotNeeded)
HFLEX_MSG(LoadFrom)
HFLEX_MSG(StopLoad)
HFLEX_MSG(WeightsGiveUp)
HFLEX_MSG(WeightsHeld)
HFLEX_MSG(WeightsReleased)
HFLEX_MSG(WeightsProgress)
HFLEX_MSG(WeightsLoaded)
HFLEX_MSG(WeightsFailed)
HFLEX_MSG(Hello)
HFLEX_MSG(Directory)
HFLEX_MSG(NodeJoin)
HFLEX_MSG(NodeAnswer)
HFLEX_MSG(Rejoin)
HFLEX_MSG(Heartbeat)
HFLEX_MSG(NodeLeave)
HFLEX_MSG(StartInstance)
HFLEX_MSG(StopInstance)
HFLEX_MSG(ChangeRole)
HFLEX_MSG(Drain)
HFLEX_MSG(InstanceState)
HFLEX_MSG(InstanceReady)
HFLEX_MSG(NodeUp)
HFLEX_MSG(NodeGone)
HFLEX_MSG(LinkTraffic)
HFLEX_MSG(ContextReady)
HFLEX_MSG(SnapshotQuery)
HFLEX_MSG(Snapshot)
HFLEX_MSG(Subscribe)
HFLEX_MSG(Event)
HFLEX_MSG(SequencesHeld)
HFLEX_MSG(Migrate)
HFLEX_MSG(Moved)
HFLEX_MSG(MigrateRequest)
HFLEX_MSG(MigrateSequence)
HFLEX_MSG(MigrationEnded)
HFLEX_MSG(KvTaken)
HFLEX_MSG(DemandReport)
HFLEX_MSG(ScaleFleet)
HFLEX_MSG(ScalingQuery)
HFLEX_MSG(ScalingLog)
CAF_ADD_TYPE_ID(hflex, (hflex::wire::demand_actor))
HFLEX_MSG(ExplainRequest)
HFLEX_MSG(Explanation)
HFLEX_MSG(GrantWeights)
HFLEX_MSG(WeightsTraffic)
HFLEX_MSG(SourceSlack)
HFLEX_MSG(LinkAnswer)
HFLEX_MSG(WeightsArriving)
HFLEX_MSG(WeightsExpected)
HFLEX_MSG(DeviceTicket)
HFLEX_MSG(GiveDeviceWeights)
CAF_ADD_TYPE_ID(hflex, (hflex::wire::duty_actor))
HFLEX_MSG(InstanceDuty)
#undef HFLEX_MSG
CAF_END_TYPE_ID_BLOCK(hflex)
