# The live topology: a snapshot and a stream of events. Field names follow the JSON of `hflex topology -o json`.
@0xcc5b2eea8a537110;
using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("hflex::wire::schema");

struct DeviceView {
  id @0 :Text;                   # "n1/0"
  kind @1 :Text;                 # "cpu" or "cuda"
  name @2 :Text;                 # for people
  memoryBytes @3 :UInt64;        # all that it may use
  memoryUsedBytes @4 :UInt64;    # of it, in use
}

struct Node {
  id @0 :Text;                   # as people write it: "n1", "i3", "router"
  name @1 :Text;                 # for people
  address @2 :Text;              # the host's, for people
  state @3 :Text;                # "up", "suspect", "lost"
  devices @4 :List(DeviceView);  # by index
  weightsBytes @5 :UInt64;       # weights in the host's memory
  weightsIdleBytes @6 :UInt64;   # of them, kept for the next start only
}

struct Actor {
  id @0 :Text;                   # as people write it: "n1", "i3", "router"
  kind @1 :Text;                 # "router", "scheduler", "scaler", "weights", "cluster", "node_agent", "instance"
  node @2 :Text;                 # empty: the head's process
  role @3 :Text;                 # instances only
  device @4 :Text;               # instances only
  state @5 :Text;                # for people
  running @6 :UInt32;            # sequences that prefill or decode
  waiting @7 :UInt32;            # sequences that wait here
  kvBlocksTotal @8 :UInt32;      # KV blocks in the pool
  kvBlocksFree @9 :UInt32;       # of them, empty or idle in the prefix cache
  mailbox @10 :UInt32;           # messages waiting for it
  stepMsMean @11 :Float64;       # smoothed time of a step
  kvBlocksCached @12 :UInt32;    # in the prefix cache, in use or idle
  prefixHitRatio @13 :Float64;   # share of the tokens to compute that the prefix cache had, since the start
  duty @14 :Text;                # what a mixed instance is used for alone, for now: "prefill" or "decode"; empty: its role
}

struct Link {
  from @0 :Text;                 # actor id
  to @1 :Text;                   # actor id
  kind @2 :Text;                 # "control", "kv" or "weights"
  transport @3 :Text;            # "local", "shm", "tcp" or "caf"
  bytesTotal @4 :UInt64;         # moved so far
  bytesExpected @5 :UInt64;      # of a transfer with an end; 0: has none
  state @6 :Text;                # "opening", "open", "failed"; "done" of a transfer with an end
}

struct SnapshotQuery {}

struct Snapshot {
  epoch @0 :UInt64;              # grows with every change of the cluster
  nodes @1 :List(Node);          # by number
  actors @2 :List(Actor);        # by kind, then number
  links @3 :List(Link);          # by their ends
  lastEvent @4 :UInt64;          # sequence number that this snapshot includes
  firstEvent @5 :UInt64 = 1;     # oldest event that the head still has
}

struct Subscribe {               # client -> cluster, its handle beside: events from now on, until it goes
  afterEvent @0 :UInt64;         # replay what the ring still has after this number
}

struct Event {
  seq @0 :UInt64;                # grows by one
  unixMs @1 :UInt64;             # wall clock of the head, for people
  epoch @2 :UInt64;              # grows with every change of the cluster
  kind @3 :UInt16;               # number of cluster::change, in actors/cluster/topology.hpp
  subject @4 :Text;              # id
  text @5 :Text;                 # for people
}
