# Values that every other schema uses. Units are the last word of a field's name; 0 means "none" for ids.
# Points in time never travel: hosts' clocks are not comparable. Ages ("how long ago") and remainders do.
@0xf470b999cd296ff5;
using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("hflex::wire::schema");

enum Role {            # What an instance does for requests.
  prefill @0;
  decode @1;
  mixed @2;
}

enum Errc {            # What the receiver of an error does about it.
  retry @0;            # the same may succeed in a moment
  reroute @1;          # this place cannot, another may
  reject @2;           # the input is at fault
  fatal @3;            # the sender cannot go on
}

struct Failure {       # Why something did not happen.
  code @0 :Errc;                 # what the receiver does about it
  message @1 :Text;    # for people: what was wrong, where, what to do
}

struct RequestKey {    # A request and which try of it; older attempts are ignored by number.
  id @0 :UInt64;                 # request id
  attempt @1 :UInt32;            # counts from 1
}

struct Sampling {
  temperature @0 :Float32;       # 0 = greedy
  topP @1 :Float32 = 1;          # (0, 1]
  topK @2 :UInt32;               # 0 = off
  seed @3 :UInt64;               # same seed, same tokens
}

struct SloTargets {
  ttftMs @0 :Float64;            # arrival to first token
  tpotMs @1 :Float64;            # mean time per output token after the first
  e2eMs @2 :Float64;             # arrival to last token; 0 = no such target
  weight @3 :Float64 = 1;        # worth of attaining it
  shedWhenLate @4 :Bool;         # else it is served late
}

struct SequenceSpec {            # All that an instance needs to run one attempt of a request.
  key @0 :RequestKey;            # request and attempt
  tokens @1 :List(Int32);        # prompt, then the output tokens of earlier attempts
  promptTokens @2 :UInt32;       # how many of them are the prompt
  maxOutputTokens @3 :UInt32;    # over all attempts
  sampling @4 :Sampling;         # how tokens are picked
  ignoreEos @5 :Bool;            # go on past the end-of-text token
  ageUs @6 :Int64;               # time since arrival, at the sender, in microseconds
  slo @7 :SloTargets;            # its targets
}

struct StepShape {               # What one step worked on (actors/common/step_time.hpp).
  prefillTokens @0 :UInt32;      # P: prompt tokens computed
  decodeSeqs @1 :UInt32;         # D: sequences that decode one token
  queryKeyPairs @2 :Float64;     # Q: sum of n * (position + n/2) over prefill chunks
  decodeContext @3 :Float64;     # K: summed context of the decoding sequences
}

struct StepTime {                # Coefficients of the step-time model, milliseconds per unit (actors/common/step_time.hpp).
  c0 @0 :Float64;                # per step
  c1 @1 :Float64;                # per token beyond the knee
  m0 @2 :UInt32;                 # the knee, in tokens
  c2 @3 :Float64;                # per query-key pair
  c3 @4 :Float64;                # per decoding sequence
  c4 @5 :Float64;                # per token of context
  c5 @6 :Float64;                # per token of context, in a step that also prefills
  safety @7 :Float64;            # measured/predicted at the quantile to plan with
}

struct Tick {}                   # An actor's own timer; carries nothing.

struct Ack {}                    # "Done", where a reply is expected.
