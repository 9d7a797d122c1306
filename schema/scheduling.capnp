# Router and instances to the SLO scheduler, and its decisions back.
@0xf9b4437ca95d96b2;
using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("hflex::wire::schema");
using import "/schema/common.capnp".RequestKey;
using import "/schema/common.capnp".SloTargets;
using import "/schema/common.capnp".StepShape;
using import "/schema/common.capnp".Role;

struct RequestArrived {          # router -> scheduler
  key @0 :RequestKey;
  ageUs @1 :Int64;               # since arrival
  promptTokens @2 :UInt32;
  produced @3 :UInt32;           # output tokens of earlier attempts (to be prefilled again)
  maxOutputTokens @4 :UInt32;
  slo @5 :SloTargets;
  sloClass @6 :Text;
}

struct RequestEnded {            # router -> scheduler: this attempt holds nothing any more
  key @0 :RequestKey;
  finished @1 :Bool;             # the request ended well: its length trains the prediction
  outputTokens @2 :UInt32;       # over all attempts
}

struct PrefillFinished { key @0 :RequestKey; } # router -> scheduler: its first token is there

struct Placed {                  # scheduler -> router
  key @0 :RequestKey;
  prefillInstance @1 :UInt32;
  decodeInstance @2 :UInt32;     # the same when collocated
  why @3 :Text;
}

struct Shed {                    # scheduler -> router
  key @0 :RequestKey;
  reason @1 :Text;
}

struct InstanceUp {              # cluster -> router, scheduler, scaler: may be used from now on
  instance @0 :UInt32;
  node @1 :UInt32;
  device @2 :UInt32;
  role @3 :Role;
  kvBlocks @4 :UInt32;
  blockSize @5 :UInt32;          # tokens in a KV block
  maxBatchedTokens @6 :UInt32;
  maxSequences @7 :UInt32;
}

struct InstanceGone {            # cluster -> router, scheduler, scaler, peers
  instance @0 :UInt32;
  reason @1 :Text;
}

struct InstanceDraining { instance @0 :UInt32; } # cluster -> scheduler: nothing new onto it

struct StepReport {              # instance -> scheduler (and cluster): coalesced, at most one per few milliseconds
  instance @0 :UInt32;
  shape @1 :StepShape;           # of the last step
  elapsedUs @2 :UInt64;          # of the last step
  running @3 :UInt32;
  waiting @4 :UInt32;
  kvBlocksTotal @5 :UInt32;
  kvBlocksFree @6 :UInt32;
  stepMsMean @7 :Float64;        # smoothed
  mailbox @8 :UInt32;            # messages waiting for the actor
  steps @9 :UInt64;
  preemptions @10 :UInt64;
}
