# The load as the scheduler tells it to the scaler, what people tell the scaler, and its decisions.
@0xb2da3a6e5e5dff26;
using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("hflex::wire::schema");
using import "/schema/common.capnp".Role;
using import "/schema/common.capnp".StepTime;

struct ClassDemand {             # One SLO class since the report before (actors/common/demand.hpp).
  sloClass @0 :Text;             # its name
  ttftMs @1 :Float64;            # targets of its latest arrival
  tpotMs @2 :Float64;            # the same
  arrivals @3 :UInt32;           # requests that came
  promptTokens @4 :Float64;      # sum over those
  promptTokensSquared @5 :Float64; # sum of squares
  ended @6 :UInt32;              # requests that ended well
  outputTokens @7 :Float64;      # sum over those
}

struct InstanceDemand {          # One instance as the scheduler's accounts have it.
  instance @0 :UInt32;           # instance id
  role @1 :Role;                 # what it does
  draining @2 :Bool;             # nothing new onto it
  decoding @3 :UInt32;           # sequences that decode
  promised @4 :UInt32;           # sequences that will
  decodeContext @5 :UInt64;      # summed context of both, tokens
  pendingPrefill @6 :UInt64;     # prefill tokens to do
  kvBlocks @7 :UInt32;           # KV blocks in the pool
  kvBlocksTaken @8 :UInt32;      # of them, promised or in use
  blockSize @9 :UInt32;          # tokens in a KV block
  maxBatchedTokens @10 :UInt32;  # tokens in one step at most
  maxSequences @11 :UInt32;      # sequences that run at a time
  tpotHeadroom @12 :Float64;     # 1 - planned decode step / tightest target; below 0: over it
  model @13 :StepTime;           # as its steps have corrected it
}

struct DemandReport {            # scheduler -> scaler: at most one per quarter of a second
  spanUs @0 :UInt64;             # time that the sums of `classes` cover
  classes @1 :List(ClassDemand); # those of which something came or went
  instances @2 :List(InstanceDemand); # by number
  waiting @3 :UInt32;            # requests without a place
  waitingTokens @4 :UInt64;      # their prefill
  late @5 :UInt32;               # of them, planned demotions
  lateWithOneMore @6 :UInt32;    # what one more instance would leave of those
  latestByUs @7 :UInt64;         # how late the latest of them would be
  withoutRoom @8 :UInt32;        # of those looked at, that no instance has room for
  lookedAt @9 :UInt32;           # waiting requests that the three above are about
  overdue @10 :UInt32;           # waiting requests whose first token is late already
  mixedApart @11 :Bool;          # mixed instances prefill or decode for now, not both
  decoded @12 :UInt64;           # output tokens after the first ones that all requests have made since the report before
}

struct ScaleFleet {              # client -> scaler: answered by CommandAnswer
  hasRole @0 :Bool;              # false: the only role that there is
  role @1 :Role;                 # whose count
  hasCount @2 :Bool;             # hold the role at `count`
  count @3 :UInt32;              # instances
  hasMin @4 :Bool;               # `min` is a new limit
  min @5 :UInt32;                # instances of all roles
  hasMax @6 :Bool;               # `max` is a new limit
  max @7 :UInt32;                # the same
  automatic @8 :Bool;            # no role is held any more: the policy decides
}

struct ScalingQuery {}           # client -> scaler: answered by ScalingLog

struct ScalingNumber {
  name @0 :Text;                 # with its unit: "arrivals_rps"
  value @1 :Float64;             # in that unit
}

struct ScalingDecision {
  number @0 :UInt64;             # grows by one
  ageUs @1 :Int64;               # how long ago
  why @2 :Text;                  # for people
  advice @3 :Bool;               # dry run: not carried out
  numbers @4 :List(ScalingNumber); # that it stands on
}

struct ScalingLog {
  policy @0 :Text;               # name of the scaling policy
  dryRun @1 :Bool;               # it only recommends
  minInstances @2 :UInt32;       # limits, of all roles
  maxInstances @3 :UInt32;       # the same
  leadTimeMs @4 :Float64;        # of a start, as measured lately
  decisions @5 :List(ScalingDecision); # the latest, oldest first
}
