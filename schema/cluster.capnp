# Nodes joining the head, orders to them, and their reports.
@0xd163e5127506b0f1;
using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("hflex::wire::schema");
using import "/schema/common.capnp".Role;
using import "/schema/common.capnp".StepTime;

struct Hello {                   # anyone -> head, first of all
  protocol @0 :UInt32;           # wire::protocol_version
}

struct Directory {               # head's answer; the roles' handles come beside it
  protocol @0 :UInt32;           # wire::protocol_version of the sender
  epoch @1 :UInt64;              # grows with every change of the cluster
  model @2 :Text;                # name of the model that is served
  listenAddress @3 :Text;        # HOST:PORT of the head
}

struct Device {
  kind @0 :Text;                 # "cpu" or "cuda"
  name @1 :Text;                 # for people
  isa @2 :Text;                  # kernels in use: "avx512_bf16", "avx2", "sm_90", ...
  memoryBytes @3 :UInt64;        # all that it may use
  memoryUsedBytes @4 :UInt64;    # of it, in use
  threads @5 :UInt32;            # compute threads; 0 on a GPU
  maxInstances @6 :UInt32;       # how many instances it takes at once
}

struct NodeJoin {
  protocol @0 :UInt32;           # wire::protocol_version of the sender
  name @1 :Text;                 # for people
  incarnation @2 :UInt64;        # random; another one for each life and re-join
  address @3 :Text;              # host, as people know it
  hostId @4 :Text;               # equal for processes that can share memory
  devices @5 :List(Device);      # of this node
  pid @6 :UInt32;                # the agent's process
}

struct NodeAnswer {
  union {
    welcome :group {
      node @0 :UInt32;           # node id
      epoch @1 :UInt64;          # grows with every change of the cluster
      heartbeatMs @2 :UInt32;    # how often to beat
    }
    refused @3 :Text;            # why not, for people
  }
}

struct Rejoin {                  # head -> node agent: this life of the node no longer counts; join again
  incarnation @0 :UInt64;        # this life of the node's connection
}

struct Heartbeat {
  node @0 :UInt32;               # node id
  incarnation @1 :UInt64;        # this life of the node's connection
  seq @2 :UInt64;                # grows by one
  memoryUsedBytes @3 :List(UInt64); # per device
  weightsBytes @4 :UInt64;       # weights in the host's memory
  weightsIdleBytes @5 :UInt64;   # of them, kept for the next start only
}

struct NodeLeave {
  node @0 :UInt32;               # node id
  incarnation @1 :UInt64;        # this life of the node's connection
}

struct InstanceOptions {         # The head's settings for an instance.
  modelDir @0 :Text;             # checkpoint directory, on the node's host
  compute @1 :Text;              # "f32", "bf16" or "f16"
  threads @2 :UInt32;            # 0 = the device's
  isa @3 :Text;                  # forces one set of CPU kernels; empty = best
  blockSize @4 :UInt32;          # tokens in a KV block
  kvBlocks @5 :UInt32;           # 0 = from kvMemoryBytes
  kvMemoryBytes @6 :UInt64;      # size of the KV pool, when kvBlocks is 0
  maxBatchedTokens @7 :UInt32;   # tokens in one step at most
  maxSequences @8 :UInt32;       # sequences that run at a time
  maxWaiting @9 :UInt32;         # sequences that wait inside it at most
  slackBudget @10 :Bool;         # not read any more: see stepPolicy
  safety @11 :Float64;           # share of that slack left unplanned
  kvLeaseMs @12 :UInt32;         # a hand-over takes at most this long
  stepTime @13 :StepTime;        # what its steps are taken to last before they were measured
  prefixCache @14 :Bool = true;  # keep and share the KV blocks of prompts that begin alike
  stepPolicy @15 :StepPolicy;    # how its steps are planned
  prefillWeightUs @16 :Float64;  # hybridPriority: what a prefill token left adds to a deadline, microseconds, 0 to 10^7
}

enum StepPolicy {                # actors/common/step_time.hpp says what each does
  fixedBudget @0;                # first come, first served, a fixed number of tokens
  slackBudget @1;                # by deadline, chunks by the residents' slack
  hybridPriority @2;             # by deadline and prefill left, the late behind
  credits @3;                    # decodes by credits
  tokenAllocation @4;            # decodes as their targets ask for, the late behind
  layeredBudget @5;              # as hybridPriority; the late in short steps, early decodes give way to pressing prefill
}

struct StartInstance {           # scaler -> node agent
  instance @0 :UInt32;           # instance id
  device @1 :UInt32;             # index on its node
  role @2 :Role;                 # what it does, or is to do
  options @3 :InstanceOptions;   # how to run it
}

struct StopInstance {            # scaler -> node agent
  instance @0 :UInt32;           # instance id
  drain @1 :Bool;                # let residents finish first
}

struct ChangeRole {              # CLI -> scaler -> node agent
  instance @0 :UInt32;           # instance id
  to @1 :Role;                   # the new role
}

struct Drain {                   # CLI -> scaler: stop placing, finish or move what is there, then stop
  union {
    instance @0 :UInt32;         # instance id
    node @1 :UInt32;             # node id
  }
}

enum InstancePhase {
  starting @0;
  ready @1;
  draining @2;
  gone @3;               # ended as asked
  failed @4;             # ended otherwise, or never was
}

struct InstanceState {           # node agent -> cluster -> scaler (an instance that is ready is announced by InstanceReady)
  instance @0 :UInt32;           # instance id
  node @1 :UInt32;               # node id
  device @2 :UInt32;             # index on its node
  role @3 :Role;                 # what it does, or is to do
  phase @4 :InstancePhase;       # where it is in its life
  reason @5 :Text;               # why, for people
  startedMs @6 :Float64;         # when ready: from the order to here
  parts @7 :StartParts;          # of it
  weightsPath @8 :Text;          # where the weights came from: as in InstanceReady
  drainUs @9 :UInt32;            # when ready in another role: microseconds from the order until its residents had gone
  weightsComing @10 :Bool;       # when ready: as in InstanceReady; a WeightsExpected of 0 ends it
  deviceWeights @11 :Text;       # when ready: as in InstanceReady
}

struct InstanceReady {           # node agent -> cluster, beside the handle: a new actor serves (also after a role flip)
  instance @0 :UInt32;           # instance id
  node @1 :UInt32;               # node id
  device @2 :UInt32;             # index on its node
  role @3 :Role;                 # what it does, or is to do
  kvBlocks @4 :UInt32;           # KV blocks in its pool
  blockSize @5 :UInt32;          # tokens in a KV block
  maxBatchedTokens @6 :UInt32;   # tokens in one step at most
  maxSequences @7 :UInt32;       # sequences that run at a time
  memoryUsedBytes @8 :UInt64;    # of the device
  weightsPath @9 :Text;          # "disk", "network", "shared_memory", "same_process": where the weights came from
  weightsBytes @10 :UInt64;      # size of the weights
  weightsFromNode @11 :UInt32;   # holder they came from; 0 = none
  startedMs @12 :Float64;        # from the order to here
  parts @13 :StartParts;         # of it
  drainUs @14 :UInt32;           # after a role flip: microseconds from the order until its residents had gone
  endpoints @15 :List(Text);     # of its process's transport: how counterparts reach it
  weightsComing @16 :Bool;       # it serves with what has come of its weights so far; WeightsTraffic tells of the rest
  deviceWeights @17 :Text;       # how they came onto a device with memory of its own: "host memory", "another device",
                                 # "this device" (nothing moved), and in brackets why not by a cheaper way; else empty
}

struct StartParts {              # What a start of an instance was spent on; the rest is messages and the actor's spawn.
  planMs @0 :Float64;            # until a source of weights was named
  weightsMs @1 :Float64;         # until they were in the process, by the last source
  allocateMs @2 :Float64;        # KV memory, work space, threads
  warmUpMs @3 :Float64;          # first step
  linkMs @4 :Float64;            # until its KV links were open, as the head saw it; beside startedMs, not of it
}

struct NodeUp {                  # cluster -> scaler, weights; the agent's handle comes beside
  node @0 :UInt32;               # node id
  hostId @1 :Text;               # equal for processes that can share memory
  devices @2 :List(Device);      # of this node
}

struct NodeGone {
  node @0 :UInt32;               # node id
  reason @1 :Text;               # why, for people
}

struct LinkTraffic {             # instance -> cluster: what went over a KV link so far
  from @0 :UInt32;               # prefill instance id
  to @1 :UInt32;                 # the new role
  transport @2 :Text;            # "local", "shm", "tcp" or "caf"
  bytesTotal @3 :UInt64;         # so far
}

struct LinkAnswer {              # instance -> cluster: what came of opening the way to a counterpart (PeerUp)
  from @0 :UInt32;               # the sender, who sends KV there
  to @1 :UInt32;                 # the counterpart
  round @2 :UInt64;              # as in PeerUp
  open @3 :Bool;                 # false: it failed; transfers try again
  transport @4 :Text;            # when open: "local", "shm" or "tcp"
  reason @5 :Text;               # when not, for people
}

struct ContextReady {            # device thread -> its node agent: what came of making a context
  context @0 :UInt32;            # the agent's number of it
  failed @1 :Bool;               # false: it went well
  message @2 :Text;              # when failed
  allocateMs @3 :Float64;        # KV memory, work space, threads
  warmUpMs @4 :Float64;          # first step
}
