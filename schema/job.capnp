# A client and the router: submit, stream, list, cancel, wait.
@0xbaede7cb810f1527;
using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("hflex::wire::schema");
using import "/schema/common.capnp".Sampling;
using import "/schema/common.capnp".RequestKey;

struct SubmitJob {
  prompt @0 :Text;               # UTF-8; tokenised by the router; empty when there are messages
  maxOutputTokens @1 :UInt32;    # 0 = the head's default
  sampling @2 :Sampling;         # how tokens are picked
  ignoreEos @3 :Bool;            # go on past the end-of-text token
  sloClass @4 :Text;             # empty = the head's default class
  ttftTargetMs @5 :Float64;      # overrides the class; 0 = the class's
  tpotTargetMs @6 :Float64;      # overrides the class; 0 = the class's
  detach @7 :Bool;               # go on when the client disconnects
  messages @8 :List(ChatMessage); # a conversation instead of a prompt; rendered by the model's chat template
}

struct ChatMessage {             # one turn of a conversation
  role @0 :Text;                 # "system", "user" or "assistant"
  content @1 :Text;              # UTF-8; never read as special tokens
}

struct SubmitAnswer {
  union {
    accepted @0 :UInt64;         # the request's id
    refused @1 :Text;            # why, and what would be accepted
  }
}

struct TokenChunk {              # router -> client: the next tokens of a request, in order, none twice
  id @0 :UInt64;                 # request id
  firstIndex @1 :UInt32;         # index of tokens[0] in the request's output
  tokens @2 :List(Int32);        # token ids, in order
  text @3 :Text;                 # whole UTF-8 characters only
}

enum Outcome {
  finished @0;
  shed @1;
  cancelled @2;
  failed @3;
}

enum JobState {
  queued @0;                     # waits in the scheduler
  running @1;                    # placed on an instance
  ended @2;                      # see outcome
}

struct JobRecord {               # One request: live or at its end.
  id @0 :UInt64;                 # request id
  state @1 :JobState;            # for people
  outcome @2 :Outcome;           # valid when ended
  reason @3 :Text;               # why it ended so ("eos", "max_tokens", "queue full", ...)
  sloClass @4 :Text;             # name of its SLO class
  text @5 :Text;                 # the output, detokenised
  tokenIds @6 :List(Int32);      # the output
  promptTokens @7 :UInt32;       # tokens of the prompt
  outputTokens @8 :UInt32;       # so far
  ttftMs @9 :Float64 = -1;       # -1: no first token
  tpotMs @10 :Float64 = -1;      # -1: no second token
  e2eMs @11 :Float64 = -1;       # arrival to end; -1: not ended
  ttftTargetMs @12 :Float64;     # target
  tpotTargetMs @13 :Float64;     # target
  attained @14 :Bool;            # within all its targets
  prefillInstance @15 :UInt32;   # of the last attempt; 0 = never placed
  decodeInstance @16 :UInt32;    # where it decodes
  migrations @17 :UInt32;        # live moves of its decoding
  retries @18 :UInt32;           # attempts after the first
  ageMs @19 :Float64;            # since arrival
  strictlyAttained @20 :Bool;    # every token by its own deadline
  maxOutputTokens @21 :UInt32;   # output tokens at most, over all attempts
  cachedPromptTokens @22 :UInt32; # of the prompt, not computed again at the last attempt: its prefill instance had them
}

struct JobQuery {
  id @0 :UInt64;                 # 0 = all
  limit @1 :UInt32;              # newest first, 0 = the router's maximum
}

struct JobList {
  jobs @0 :List(JobRecord);      # oldest first
  inFlight @1 :UInt32;           # accepted and not ended
  limit @2 :UInt32;              # in-flight requests the router accepts
}

struct CancelJob { id @0 :UInt64; }

struct WaitJob { id @0 :UInt64; }

struct WaitAnswer {              # comes when the job has ended
  union {
    job @0 :JobRecord;           # as it ended
    refused @1 :Text;            # unknown or forgotten id
  }
}

struct CommandAnswer {           # A command's result, for people.
  ok @0 :Bool;                   # it was done
  message @1 :Text;              # for people
}
