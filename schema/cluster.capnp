# Nodes joining the head, orders to them, and their reports.
@0xd163e5127506b0f1;
using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("hflex::wire::schema");
using import "/schema/common.capnp".Role;

struct Hello {                   # anyone -> head, first of all
  protocol @0 :UInt32;           # wire::protocol_version
}

struct Directory {               # head's answer; the roles' handles come beside it
  protocol @0 :UInt32;
  epoch @1 :UInt64;
  model @2 :Text;                # name of the model that is served
  listenAddress @3 :Text;
}

struct Device {
  kind @0 :Text;                 # "cpu" or "cuda"
  name @1 :Text;
  isa @2 :Text;
  memoryBytes @3 :UInt64;
  memoryUsedBytes @4 :UInt64;
  threads @5 :UInt32;
  maxInstances @6 :UInt32;       # how many instances it takes at once
}

struct NodeJoin {
  protocol @0 :UInt32;
  name @1 :Text;
  incarnation @2 :UInt64;        # random; another one for each life and re-join
  address @3 :Text;              # host, as people know it
  hostId @4 :Text;               # equal for processes that can share memory
  devices @5 :List(Device);
  pid @6 :UInt32;
}

struct NodeAnswer {
  union {
    welcome :group {
      node @0 :UInt32;
      epoch @1 :UInt64;
      heartbeatMs @2 :UInt32;    # how often to beat
    }
    refused @3 :Text;
  }
}

struct Rejoin {                  # head -> node agent: this life of the node no longer counts; join again
  incarnation @0 :UInt64;
}

struct Heartbeat {
  node @0 :UInt32;
  incarnation @1 :UInt64;
  seq @2 :UInt64;
  memoryUsedBytes @3 :List(UInt64); # per device
}

struct NodeLeave {
  node @0 :UInt32;
  incarnation @1 :UInt64;
}

struct InstanceOptions {         # The head's settings for an instance.
  modelDir @0 :Text;
  compute @1 :Text;              # "f32" or "bf16"
  threads @2 :UInt32;            # 0 = the device's
  isa @3 :Text;                  # forces one set of CPU kernels; empty = best
  blockSize @4 :UInt32;          # tokens in a KV block
  kvBlocks @5 :UInt32;           # 0 = from kvMemoryBytes
  kvMemoryBytes @6 :UInt64;
  maxBatchedTokens @7 :UInt32;
  maxSequences @8 :UInt32;
  maxWaiting @9 :UInt32;
  slackBudget @10 :Bool;         # step policy: size prefill chunks by the residents' slack
  safety @11 :Float64;           # share of that slack left unplanned
  kvLeaseMs @12 :UInt32;
}

struct StartInstance {           # scaler -> node agent
  instance @0 :UInt32;
  device @1 :UInt32;
  role @2 :Role;
  options @3 :InstanceOptions;
}

struct StopInstance {            # scaler -> node agent
  instance @0 :UInt32;
  drain @1 :Bool;                # let residents finish first
}

struct ChangeRole {              # CLI -> scaler -> node agent
  instance @0 :UInt32;
  to @1 :Role;
}

struct Drain {                   # CLI -> scaler: stop placing, finish or move what is there, then stop
  union {
    instance @0 :UInt32;
    node @1 :UInt32;
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
  instance @0 :UInt32;
  node @1 :UInt32;
  device @2 :UInt32;
  role @3 :Role;
  phase @4 :InstancePhase;
  reason @5 :Text;
}

struct InstanceReady {           # node agent -> cluster, beside the handle: a new actor serves (also after a role flip)
  instance @0 :UInt32;
  node @1 :UInt32;
  device @2 :UInt32;
  role @3 :Role;
  kvBlocks @4 :UInt32;
  blockSize @5 :UInt32;
  maxBatchedTokens @6 :UInt32;
  maxSequences @7 :UInt32;
  memoryUsedBytes @8 :UInt64;    # of the device
  weightsPath @9 :Text;          # "disk", "shared_memory", "same_process": where the weights came from
  weightsBytes @10 :UInt64;
  weightsFromNode @11 :UInt32;
  startedMs @12 :Float64;        # from the order to here
}

struct NodeUp {                  # cluster -> scaler, weights; the agent's handle comes beside
  node @0 :UInt32;
  hostId @1 :Text;
  devices @2 :List(Device);
}

struct NodeGone {
  node @0 :UInt32;
  reason @1 :Text;
}

struct LinkTraffic {             # instance -> cluster: what went over a KV link so far
  from @0 :UInt32;
  to @1 :UInt32;
  transport @2 :Text;
  bytesTotal @3 :UInt64;
}

struct ContextReady {            # device thread -> its node agent: what came of making a context
  context @0 :UInt32;
  failed @1 :Bool;
  message @2 :Text;              # when failed
}
