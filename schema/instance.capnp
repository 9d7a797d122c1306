# Router and node agent to an instance, and what it answers.
@0xcdc1b418197789df;
using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("hflex::wire::schema");
using import "/schema/common.capnp".RequestKey;
using import "/schema/common.capnp".SequenceSpec;
using import "/schema/common.capnp".Errc;
using import "/schema/common.capnp".StepShape;
using import "/schema/common.capnp".Role;

struct StartSequence {           # router -> instance: run this (prefill here, decode at `decodeInstance`)
  spec @0 :SequenceSpec;         # the sequence to run
  decodeInstance @1 :UInt32;     # own id or 0: decode here
}

struct CancelSequence { key @0 :RequestKey; }

struct ProducedTokens {
  key @0 :RequestKey;            # request and attempt
  firstIndex @1 :UInt32;         # output index of tokens[0]
  tokens @2 :List(Int32);        # token ids, in order
  cachedPromptTokens @3 :UInt32; # of the prompt, found in this instance's prefix cache when the attempt started
}

struct TokensProduced {          # instance -> router: what one step produced, for all its requests
  instance @0 :UInt32;           # instance id
  sequences @1 :List(ProducedTokens); # one entry per sequence that produced
}

struct SequencesHeld {           # instance -> router: these are alive here, though they may have no token to show yet
  instance @0 :UInt32;           # instance id
  keys @1 :List(RequestKey);     # requests and attempts
}

enum StopCause {
  eos @0;
  maxTokens @1;
  contextFull @2;
}

struct SequenceEnded {           # instance -> router: well
  key @0 :RequestKey;            # request and attempt
  instance @1 :UInt32;           # instance id
  cause @2 :StopCause;           # how it ended well
  cachedPromptTokens @3 :UInt32; # as in ProducedTokens
  outputTokens @4 :UInt32;       # over all attempts and instances; 0 = not known
}

struct MigrateSequence {         # router -> instance: hand it over while it goes on decoding
  key @0 :RequestKey;            # request and attempt
  to @1 :UInt32;                 # instance id
}

struct MigrationEnded {          # instance -> router: answers MigrateSequence, unless the attempt ends here first
  key @0 :RequestKey;            # request and attempt
  instance @1 :UInt32;           # instance id of the sender
  to @2 :UInt32;                 # instance id
  failed @3 :Bool;               # false: it decodes at `to`; true: it goes on at `instance`
  reason @4 :Text;               # why it failed, for people
}

struct HandedBack {              # instance -> router: not here; try elsewhere or give up, by the code
  key @0 :RequestKey;            # request and attempt
  instance @1 :UInt32;           # instance id
  code @2 :Errc;                 # what the receiver does about it
  reason @3 :Text;               # why, for people
  leaving @4 :Bool;              # an instance leaves the fleet or its role: not the request's fault, nor a failed attempt
}

struct StepDone {                # device callback -> its instance
  step @0 :UInt64;               # id of the plan
  sampled @1 :List(Int32);       # parallel to the plan; -1 where none was asked for
  elapsedUs @2 :UInt64;          # microseconds it took
  failed @3 :Bool;               # false: it went well
  message @4 :Text;              # when failed
  waitedUs @5 :UInt64;           # microseconds of them, for weights that were still arriving
}

struct Retire {                  # node agent -> instance: hand back what waits, finish what runs, then report and end
  drainMs @0 :UInt32;            # residents still here after this are handed back too
}

struct Retired { instance @0 :UInt32; } # instance -> node agent: empty; the context may be taken over

struct PeerUp {                  # cluster -> instance: a counterpart to hand KV to or take it from (its handle comes beside)
  instance @0 :UInt32;           # instance id
  node @1 :UInt32;               # node id
  role @2 :Role;                 # what it does, or is to do
  sends @3 :Bool;                # open the way there, and say with LinkAnswer what came of it
  round @4 :UInt64;              # to be repeated in that
  endpoints @5 :List(Text);      # of the counterpart's transport
}
