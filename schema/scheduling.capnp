# Router and instances to the SLO scheduler, and its decisions back.
@0xf9b4437ca95d96b2;
using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("hflex::wire::schema");
using import "/schema/common.capnp".RequestKey;
using import "/schema/common.capnp".SloTargets;
using import "/schema/common.capnp".StepShape;
using import "/schema/common.capnp".Role;

struct RequestArrived {          # router -> scheduler
  key @0 :RequestKey;            # request and attempt
  ageUs @1 :Int64;               # since arrival
  promptTokens @2 :UInt32;       # tokens of the prompt
  produced @3 :UInt32;           # output tokens of earlier attempts (to be prefilled again)
  maxOutputTokens @4 :UInt32;    # output tokens at most, over all attempts
  slo @5 :SloTargets;            # its targets
  sloClass @6 :Text;             # name of its SLO class
  prefixMarks @7 :List(UInt64);  # of the tokens to prefill (actors/common/prefix_marks.hpp); at most 256, none: not known
}

struct RequestEnded {            # router -> scheduler: this attempt holds nothing any more
  key @0 :RequestKey;            # request and attempt
  finished @1 :Bool;             # the request ended well: its length trains the prediction
  outputTokens @2 :UInt32;       # over all attempts
}

struct PrefillFinished {         # router -> scheduler: its first token is there
  key @0 :RequestKey;            # request and attempt
  cachedPromptTokens @1 :UInt32; # tokens that its prefill instance did not have to compute
}

struct Placed {                  # scheduler -> router
  key @0 :RequestKey;            # request and attempt
  prefillInstance @1 :UInt32;    # where it prefills
  decodeInstance @2 :UInt32;     # the same when collocated
  why @3 :Text;                  # not set any more: the scheduler tells it to those who ask (ExplainRequest)
}

struct Shed {                    # scheduler -> router
  key @0 :RequestKey;            # request and attempt
  reason @1 :Text;               # why, for people
}

struct Migrate {                 # scheduler -> router: move a decoding request; answered by Moved, unless it ends first
  key @0 :RequestKey;            # request and attempt
  from @1 :UInt32;               # instance that decodes it
  to @2 :UInt32;                 # instance that is to decode it
  why @3 :Text;                  # for people
}

struct InstanceDuty {            # scheduler -> cluster: what an instance of role mixed is used for now, for people
  instance @0 :UInt32;           # instance id
  duty @1 :Role;                 # mixed: for both
}

struct Moved {                   # router -> scheduler: a migration is over
  key @0 :RequestKey;            # request and attempt
  at @1 :UInt32;                 # instance that decodes it now
  reason @2 :Text;               # why it stayed, for people; empty: it moved
}

struct MigrateRequest {          # client -> scheduler: move it now; answered when it has moved or stays
  id @0 :UInt64;                 # request id
  to @1 :UInt32;                 # instance id
}

struct InstanceUp {              # cluster -> router, scheduler, scaler: may be used from now on
  instance @0 :UInt32;           # instance id
  node @1 :UInt32;               # node id
  device @2 :UInt32;             # index on its node
  role @3 :Role;                 # what it does, or is to do
  kvBlocks @4 :UInt32;           # KV blocks in its pool
  blockSize @5 :UInt32;          # tokens in a KV block
  maxBatchedTokens @6 :UInt32;   # tokens in one step at most
  maxSequences @7 :UInt32;       # sequences that run at a time
  weightsDueMs @8 :UInt32;       # expected until the last of its weights is there; 0 = all are
}

struct WeightsExpected {         # cluster -> scheduler, scaler: of an instance that was announced before they were all there
  instance @0 :UInt32;           # instance id
  dueMs @1 :UInt32;              # from now; 0 = all are there
}

struct InstanceGone {            # cluster -> router, scheduler, scaler, peers
  instance @0 :UInt32;           # instance id
  reason @1 :Text;               # why, for people
}

struct InstanceDraining { instance @0 :UInt32; } # cluster -> scheduler: nothing new onto it

struct StepReport {              # instance -> scheduler (and cluster): coalesced, at most one per few milliseconds
  instance @0 :UInt32;           # instance id
  shape @1 :StepShape;           # of the last step
  elapsedUs @2 :UInt64;          # of the last step
  running @3 :UInt32;            # sequences that prefill or decode
  waiting @4 :UInt32;            # sequences that wait here
  kvBlocksTotal @5 :UInt32;      # KV blocks in the pool
  kvBlocksFree @6 :UInt32;       # of them, empty or idle in the prefix cache
  stepMsMean @7 :Float64;        # smoothed
  mailbox @8 :UInt32;            # messages waiting for the actor
  steps @9 :UInt64;              # finished since the start
  preemptions @10 :UInt64;       # since the start
  kvBlocksCached @11 :UInt32;    # in the prefix cache, in use or idle
  startedTokens @12 :UInt64;     # to compute, of the sequences started (again) here, since the start
  cachedTokens @13 :UInt64;      # of them, found in the prefix cache
  handoverUs @14 :UInt64;        # from a prefill's end until its rows are at the decode instance, smoothed; 0 = none yet
}

struct ExplainRequest { id @0 :UInt64; } # client -> scheduler: what happened to it, and why; answered by Explanation

struct Explanation {             # scheduler -> client
  union {
    refused @0 :Text;            # why there is none: never known here, or forgotten
    story @1 :Story;             # what is remembered
  }
}

struct Story {                   # What the scheduler remembers of one request.
  id @0 :UInt64;                 # request id
  retries @1 :UInt32;            # attempts after the first
  slo @2 :SloTargets;            # its targets, as planned with
  ageMs @3 :Float64;             # since arrival
  happenings @4 :List(Happening); # oldest first
  omitted @5 :UInt32;            # happenings that were left out of the middle
  standing @6 :Standing;         # absent: it does not wait for an instance
}

struct Happening {               # One thing that happened to a request.
  afterMs @0 :Float64;           # since its arrival
  attempt @1 :UInt32;            # of which attempt
  what @2 :Text;                 # one word, for scripts (actors/scheduler/decision_log.hpp)
  why @3 :Text;                  # for people
  prefillInstance @4 :UInt32;    # of a dispatch; 0 = none
  decodeInstance @5 :UInt32;     # of a dispatch or a move: where it decodes, or is to; 0 = none
}

struct Standing {                # How a waiting request stands, as its policy sees it.
  band @0 :Text;                 # "planned", "demoted", "first come", ...
  position @1 :UInt32;           # in its band, 1 = next
  of @2 :UInt32;                 # requests in that band
  dueMs @3 :Float64;             # until its next token is due; negative: it is late
  latestStartMs @4 :Float64;     # until it must start to be in time; valid when latestStartKnown
  latestStartKnown @5 :Bool;     # the policy plans with such a time
  obstacles @6 :List(Obstacle);  # why it is not on these instances
  more @7 :UInt32;               # instances that are not listed
}

struct Obstacle {                # Why a waiting request is not on an instance.
  instance @0 :UInt32;           # instance id
  why @1 :Text;                  # for people
}
