# The live topology: a snapshot and a stream of events. Field names follow the JSON of `hflex topology -o json`.
@0xcc5b2eea8a537110;
using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("hflex::wire::schema");

struct DeviceView {
  id @0 :Text;                   # "n1/0"
  kind @1 :Text;                 # "cpu" or "cuda"
  name @2 :Text;
  memoryBytes @3 :UInt64;
  memoryUsedBytes @4 :UInt64;
}

struct Node {
  id @0 :Text;
  name @1 :Text;
  address @2 :Text;
  state @3 :Text;                # "up", "suspect", "lost"
  devices @4 :List(DeviceView);
}

struct Actor {
  id @0 :Text;
  kind @1 :Text;                 # "router", "scheduler", "scaler", "weights", "cluster", "node_agent", "instance"
  node @2 :Text;
  role @3 :Text;                 # instances only
  device @4 :Text;               # instances only
  state @5 :Text;
  running @6 :UInt32;
  waiting @7 :UInt32;
  kvBlocksTotal @8 :UInt32;
  kvBlocksFree @9 :UInt32;
  mailbox @10 :UInt32;
  stepMsMean @11 :Float64;
}

struct Link {
  from @0 :Text;
  to @1 :Text;
  kind @2 :Text;                 # "control", "kv" or "weights"
  transport @3 :Text;
  bytesTotal @4 :UInt64;
}

struct SnapshotQuery {}

struct Snapshot {
  epoch @0 :UInt64;
  nodes @1 :List(Node);
  actors @2 :List(Actor);
  links @3 :List(Link);
  lastEvent @4 :UInt64;          # sequence number that this snapshot includes
}

struct Subscribe {               # client -> cluster, its handle beside: events from now on, until it goes
  afterEvent @0 :UInt64;         # replay what the ring still has after this number
}

struct Event {
  seq @0 :UInt64;
  unixMs @1 :UInt64;             # wall clock of the head, for people
  epoch @2 :UInt64;
  kind @3 :UInt16;               # number of cluster::change, in actors/cluster/topology.hpp
  subject @4 :Text;              # id
  text @5 :Text;                 # for people
}
