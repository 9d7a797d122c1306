# Who holds which weights, and where a new instance takes them from.
@0x9d816cb63694ffc4;
using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("hflex::wire::schema");
using import "/schema/common.capnp".Errc;

struct WeightsNeeded {           # node agent -> coordinator
  instance @0 :UInt32;           # instance id
  node @1 :UInt32;               # node id
  hostId @2 :Text;               # equal for processes that can share memory
  modelDir @3 :Text;             # checkpoint directory, on the node's host
  digest @4 :Text;               # empty: not known before the directory was read
  stamp @5 :Text;                # of the directory's files: equal as long as they are unchanged; empty: not known
  endpoints @6 :List(Text);      # of the node's transport: how others reach what it has while it still loads
  deviceKind @7 :Text;           # what they are to be on a device that can take them from a device of another host: its
                                 # kind and compute type; empty: no such device
}

struct WeightsNotNeeded { instance @0 :UInt32; } # node agent -> coordinator: stopped before it was loaded

enum SourceKind {
  sameProcess @0;                # this node agent has them mapped
  sharedMemory @1;               # another process on this host gives its file descriptor
  disk @2;
  network @3;                    # a process on another host gives it in chunks
}

struct LoadFrom {                # coordinator -> node agent
  instance @0 :UInt32;           # instance id
  kind @1 :SourceKind;           # which source
  modelDir @2 :Text;             # for disk
  digest @3 :Text;               # for the others: exactly these weights
  endpoints @4 :List(Text);      # of the holder's transport
  fromNode @5 :UInt32;           # holder, 0 for disk
  attempt @6 :UInt32;            # reports name it; those of an earlier one are ignored
  key @7 :UInt64;                # network: proof that the holder was told to give them
  leaseMs @8 :UInt32;            # network: how long the holder gives
  neighbours @9 :List(Text);     # of the transports of all other processes of this host that hold these weights: they
                                 # may have them on a device too
}

struct GrantWeights {            # coordinator -> node agent: who shows the key may take these weights from here
  digest @0 :Text;               # which weights
  key @1 :UInt64;                # random
  leaseMs @2 :UInt32;            # for so long
                                 # 3 to 5 were used by protocol 3
}

struct GiveDeviceWeights {       # coordinator -> node agent: instances of other hosts wait for weights on a device; who has
                                 # them on one sends them to all at once, and answers with a DeviceTicket for each
  digest @0 :Text;               # which weights
  deviceKind @1 :Text;           # as in WeightsNeeded
  receivers @2 :List(DeviceReceiver); # at most 64
}

struct DeviceReceiver {
  instance @0 :UInt32;           # whose they are to be
  attempt @1 :UInt32;            # of its load
}

struct DeviceTicket {            # holder's node agent -> coordinator -> newcomer's node agent: they wait to be fetched
  instance @0 :UInt32;           # as in DeviceReceiver
  attempt @1 :UInt32;            # of its load
  ticket @2 :Data;               # what the two devices' libraries need to meet; at most 1 KiB
}

struct StopLoad {                # coordinator -> node agent: that attempt stalled, or its source died
  instance @0 :UInt32;           # instance id
  attempt @1 :UInt32;            # number of this load; an older one is ignored
}

struct WeightsGiveUp {           # coordinator -> node agent: no source is left
  instance @0 :UInt32;           # instance id
  reason @1 :Text;               # why, for people
}

struct WeightsHeld {             # node agent -> coordinator: others may take them from here
  node @0 :UInt32;               # node id
  hostId @1 :Text;               # equal for processes that can share memory
  modelDir @2 :Text;             # checkpoint directory, on the node's host
  digest @3 :Text;               # identity of the weights (hex)
  bytes @4 :UInt64;              # size of the weights
  endpoints @5 :List(Text);      # of the holder's transport
}

struct WeightsReleased {         # node agent -> coordinator: it let them go
  node @0 :UInt32;               # node id
  digest @1 :Text;               # identity of the weights (hex)
}

struct WeightsProgress {         # node agent -> coordinator
  instance @0 :UInt32;           # instance id
  bytesDone @1 :UInt64;          # so far
  bytesTotal @2 :UInt64;         # of the whole load
  attempt @3 :UInt32;            # number of this load; an older one is ignored
}

struct WeightsLoaded {           # node agent -> coordinator
  instance @0 :UInt32;           # instance id
  kind @1 :SourceKind;           # which source
  bytes @2 :UInt64;              # size of the weights
  elapsedUs @3 :UInt64;          # microseconds it took
  attempt @4 :UInt32;            # number of this load; an older one is ignored
  digest @5 :Text;               # identity of the weights (hex)
  endpoints @6 :List(Text);      # how waiting neighbours reach them
}

struct WeightsArriving {         # transport thread -> its node agent: a part is here, and a context may be made of the whole
  instance @0 :UInt32;           # instance id
  attempt @1 :UInt32;            # number of this load; an older one is ignored
}

struct WeightsFailed {           # node agent -> coordinator
  instance @0 :UInt32;           # instance id
  attempt @1 :UInt32;            # number of this load; an older one is ignored
  reason @2 :Text;               # why, for people
}

struct WeightsTraffic {          # node agent -> cluster: what came over a weights link so far, for the topology
  instance @0 :UInt32;           # instance id whose start it is for
  fromNode @1 :UInt32;           # holder
  transport @2 :Text;            # "shm" or "tcp"
  bytesDone @3 :UInt64;          # so far
  bytesExpected @4 :UInt64;      # in all
}

struct SourceSlack {             # instance -> its node agent: how much time its requests can spare, when that changes much
  instance @0 :UInt32;           # instance id
  share @1 :Float64;             # least slack of a resident, as a share of its time per token; 1 or more: plenty
}
