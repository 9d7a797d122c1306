# Who holds which weights, and where a new instance takes them from.
@0x9d816cb63694ffc4;
using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("hflex::wire::schema");
using import "/schema/common.capnp".Errc;

struct WeightsNeeded {           # node agent -> coordinator
  instance @0 :UInt32;
  node @1 :UInt32;
  hostId @2 :Text;               # equal for processes that can share memory
  modelDir @3 :Text;
  digest @4 :Text;               # empty: not known before the directory was read
}

struct WeightsNotNeeded { instance @0 :UInt32; } # node agent -> coordinator: stopped before it was loaded

enum SourceKind {
  sameProcess @0;                # this node agent has them mapped
  sharedMemory @1;               # another process on this host gives its file descriptor
  disk @2;
}

struct LoadFrom {                # coordinator -> node agent
  instance @0 :UInt32;
  kind @1 :SourceKind;
  modelDir @2 :Text;             # for disk
  digest @3 :Text;               # for the others: exactly these weights
  endpoints @4 :List(Text);      # of the holder's transport
  fromNode @5 :UInt32;
  attempt @6 :UInt32;            # reports name it; those of an earlier one are ignored
}

struct StopLoad {                # coordinator -> node agent: that attempt stalled, or its source died
  instance @0 :UInt32;
  attempt @1 :UInt32;
}

struct WeightsGiveUp {           # coordinator -> node agent: no source is left
  instance @0 :UInt32;
  reason @1 :Text;
}

struct WeightsHeld {             # node agent -> coordinator: others may take them from here
  node @0 :UInt32;
  hostId @1 :Text;
  modelDir @2 :Text;
  digest @3 :Text;
  bytes @4 :UInt64;
  endpoints @5 :List(Text);
}

struct WeightsReleased {         # node agent -> coordinator: it let them go
  node @0 :UInt32;
  digest @1 :Text;
}

struct WeightsProgress {         # node agent -> coordinator
  instance @0 :UInt32;
  bytesDone @1 :UInt64;
  bytesTotal @2 :UInt64;
  attempt @3 :UInt32;
}

struct WeightsLoaded {           # node agent -> coordinator
  instance @0 :UInt32;
  kind @1 :SourceKind;
  bytes @2 :UInt64;
  elapsedUs @3 :UInt64;
  attempt @4 :UInt32;
  digest @5 :Text;
  endpoints @6 :List(Text);      # how waiting neighbours reach them
}

struct WeightsFailed {           # node agent -> coordinator
  instance @0 :UInt32;
  attempt @1 :UInt32;
  reason @2 :Text;
}
