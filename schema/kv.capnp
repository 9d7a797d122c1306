# The hand-over of KV blocks from a prefill to a decode instance, or between two that decode while the sequence goes on
# (migration). The bytes go by the transport, never in these.
@0xf36d25edaba5fd10;
using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("hflex::wire::schema");
using import "/schema/common.capnp".SequenceSpec;
using import "/schema/common.capnp".Errc;
using import "/schema/common.capnp".RequestKey;

struct KvOffer {                 # prefill -> decode, before prefill starts: take this sequence over when its KV is there
  transfer @0 :UInt64;           # unique among the prefill instance's transfers
  from @1 :UInt32;               # prefill instance
  spec @2 :SequenceSpec;         # the sequence to run
  tokensToSend @3 :UInt32;       # rows per layer; more than the spec has tokens: a migration, with rows yet to come
  leaseMs @4 :UInt32;            # both sides let go after this
}

struct KvAccept {                # decode -> prefill: blocks are reserved, push here
  transfer @0 :UInt64;           # KV transfer id
  instance @1 :UInt32;           # decode instance
  key @2 :UInt64;                # proof of invitation, random
  endpoints @3 :List(Text);      # of the decode side's transport
}

struct KvRefuse {                # decode -> prefill
  transfer @0 :UInt64;           # KV transfer id
  instance @1 :UInt32;           # instance id
  code @2 :Errc;                 # what the receiver does about it
  reason @3 :Text;               # why, for people
  leaving @4 :Bool;              # the decode instance leaves the fleet or its role
}

struct KvCommit {                # prefill -> decode: the last row is computed, this was the token then; go on with the next
  transfer @0 :UInt64;           # KV transfer id
  from @1 :UInt32;               # prefill instance id
  firstIndex @2 :UInt32;         # output index of `token`
  token @3 :Int32;               # the last token sampled: the first, unless it is a migration
  earlier @4 :List(Int32);       # migration: the tokens between those offered and `token`
}

struct KvTaken {                 # sink of a migration -> source: decodes it from now on
  transfer @0 :UInt64;           # KV transfer id
  instance @1 :UInt32;           # the sink
}

struct KvAbort {                 # either side: this hand-over is off
  transfer @0 :UInt64;           # KV transfer id
  from @1 :UInt32;               # the sender's instance
  reason @2 :Text;               # why, for people
}

struct KvMoved {                 # transport callback -> its instance
  transfer @0 :UInt64;           # KV transfer id
  inbound @1 :Bool;              # true at the decode side
  failed @2 :Bool;               # false: all rows arrived
  code @3 :Errc;                 # what the receiver does about it
  message @4 :Text;              # for people
  path @5 :Text;                 # "local", "shm" or "tcp"
  bytes @6 :UInt64;              # moved by this transfer
}
