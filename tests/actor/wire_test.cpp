// Messages on their way between processes: what CAF's serializer does with them, and what becomes of damaged ones.
#include "actors/cluster/cluster_actor.hpp"
#include "actors/wire/convert.hpp"
#include "actors/wire/convert_scaling.hpp"
#include "actors/wire/convert_topology.hpp"
#include "actors/wire/instance_options.hpp"
#include "tests/support/actor_fixture.hpp"
#include "tests/support/random_message.hpp"
#include <array>
#include <capnp/pretty-print.h>
#include <kj/string-tree.h>

namespace hflex::test::wire_test {
namespace {

namespace s = wire::schema;
using wire::msg;
using bytes = std::vector<char>;

template <class... Schemas>
struct schema_list {};
using all_schemas = schema_list<s::SubmitJob, s::SubmitAnswer, s::TokenChunk, s::JobRecord, s::JobQuery, s::JobList,
    s::CancelJob, s::WaitJob, s::WaitAnswer, s::CommandAnswer, s::RequestArrived, s::RequestEnded, s::PrefillFinished,
    s::Placed, s::Shed, s::InstanceUp, s::InstanceGone, s::InstanceDraining, s::StepReport, s::StartSequence,
    s::CancelSequence, s::TokensProduced, s::SequenceEnded, s::HandedBack, s::StepDone, s::Retire, s::Retired,
    s::PeerUp, s::KvOffer, s::KvAccept, s::KvRefuse, s::KvCommit, s::KvAbort, s::KvTaken, s::Migrate, s::Moved,
    s::MigrateRequest, s::MigrateSequence, s::MigrationEnded, s::KvMoved, s::WeightsNeeded, s::WeightsNotNeeded,
    s::LoadFrom, s::StopLoad, s::WeightsGiveUp, s::WeightsHeld, s::WeightsReleased, s::WeightsProgress,
    s::WeightsLoaded, s::WeightsFailed, s::Hello, s::Directory, s::NodeJoin, s::NodeAnswer, s::Rejoin, s::Heartbeat,
    s::NodeLeave, s::StartInstance, s::StopInstance, s::ChangeRole, s::Drain, s::InstanceState, s::InstanceReady,
    s::NodeUp, s::NodeGone, s::LinkTraffic, s::WeightsTraffic, s::GrantWeights, s::DeviceTicket, s::SourceSlack,
    s::ContextReady, s::WeightsArriving, s::Snapshot, s::Subscribe, s::Event, s::ExplainRequest, s::Explanation,
    s::DemandReport, s::ScaleFleet, s::ScalingLog, s::GiveDeviceWeights>;
/// Structs that convert.hpp and its kin read.
using converted_schemas = schema_list<s::RequestKey, s::Sampling, s::SloTargets, s::StepShape, s::SequenceSpec,
    s::InstanceOptions, s::Snapshot, s::Event, s::DemandReport, s::ScaleFleet>;

template <class... Schemas, class F>
void for_each_schema(schema_list<Schemas...>, F f) {
  (f(static_cast<Schemas*>(nullptr)), ...);
}

template <class Schema>
bytes serialized(actor_fixture& fixture, msg<Schema> message) {
  bytes out;
  caf::binary_serializer sink{fixture.system, out};
  REQUIRE(!sink(message));
  return out;
}

/// Nothing when CAF would drop the frame.
template <class Schema>
std::optional<msg<Schema>> deserialized(actor_fixture& fixture, const bytes& in) {
  msg<Schema> out;
  caf::binary_deserializer source{fixture.system, in};
  if (source(out)) return std::nullopt;
  return out;
}

template <class Schema>
std::string printed(const msg<Schema>& message) {
  auto view = message.read();
  return capnp::prettyPrint(capnp::DynamicStruct::Reader{*view}).flatten().cStr();
}

/// Reads the whole message; what is malformed must throw kj::Exception and nothing else.
template <class Schema>
bool readable(const msg<Schema>& message) {
  try {
    return !printed(message).empty();
  } catch (const kj::Exception&) {
    return false;
  }
}

template <class Schema>
bool convertible(const msg<Schema>& message) {
  try {
    auto view = message.read();
    if constexpr (std::is_same_v<Schema, s::SequenceSpec>)
      wire::read(*view, time_point{});
    else
      wire::read(*view);
    return true;
  } catch (const kj::Exception&) {
    return false;
  }
}

bytes damaged(bytes in, dice& random) {
  if (random() % 4 == 0) in.resize(random() % (in.size() + 1));
  for (auto flips = 1 + random() % 4; flips > 0 && !in.empty(); --flips) {
    auto& byte = in[random() % in.size()];
    byte = random() % 2 == 0 ? static_cast<char>(random()) : static_cast<char>(byte ^ (1 << random() % 8));
  }
  return in;
}

/// The bytes that CAF puts in front of a sequence: its size, seven bits at a time.
bytes sequence_header(std::uint64_t size) {
  bytes out;
  for (; size > 0x7f; size >>= 7U) out.push_back(static_cast<char>((size & 0x7fU) | 0x80U));
  out.push_back(static_cast<char>(size));
  return out;
}

msg<s::CancelJob> cancel_of(std::uint64_t id) {
  return msg<s::CancelJob>::make([&](s::CancelJob::Builder out) { out.setId(id); });
}

} // namespace

TEST_CASE_METHOD(actor_fixture, "every message reads the same after a trip through the binary serializer") {
  dice random{1};
  for_each_schema(all_schemas{}, [&]<class Schema>(Schema*) {
    auto sent = random_message<Schema>(random);
    auto received = deserialized<Schema>(*this, serialized(*this, sent));
    REQUIRE(received);
    CHECK(printed(*received) == printed(sent));
    CHECK(received->words().data() != sent.words().data());
  });
}

TEST_CASE_METHOD(actor_fixture, "an empty message stands for its schema's defaults on both sides of the wire") {
  auto received = deserialized<s::JobRecord>(*this, serialized(*this, msg<s::JobRecord>{}));
  REQUIRE(received);
  CHECK(received->read()->getTtftMs() == -1);
}

TEST_CASE_METHOD(actor_fixture, "a message of several segments is joined into one block of words") {
  std::string text(5000, 'a');
  auto sent = msg<s::SubmitJob>::make(
      [&](s::SubmitJob::Builder out) {
        out.setPrompt(text);
        out.setSloClass("chat");
      },
      16);
  auto received = deserialized<s::SubmitJob>(*this, serialized(*this, sent));
  REQUIRE(received);
  CHECK(received->read()->getPrompt() == text.c_str());
  CHECK(received->read()->getSloClass() == "chat");
}

TEST_CASE_METHOD(actor_fixture, "delivering a message inside a process shares its words") {
  std::vector<const void*> seen;
  auto receiver = system.spawn(
      [](caf::event_based_actor*, std::vector<const void*>* to) -> caf::behavior {
        return {[to](const msg<s::CancelJob>& m) { to->push_back(m.words().data()); }};
      },
      &seen);
  auto message = cancel_of(7);
  caf::anon_send(receiver, message);
  caf::anon_send(receiver, message);
  run();
  CHECK(seen == std::vector<const void*>{message.words().data(), message.words().data()});
  kill(receiver);
}

TEST_CASE_METHOD(actor_fixture, "truncated words are refused wherever they are cut") {
  auto whole = serialized(*this, cancel_of(7));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    INFO("cut to " << size << " bytes");
    CHECK_FALSE(
        deserialized<s::CancelJob>(*this, bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size))));
  }
}

TEST_CASE_METHOD(
    actor_fixture, "a size beyond the bound, beyond the frame or no multiple of a word is refused unallocated") {
  for (auto size : {std::uint64_t{wire::max_message_bytes} + 8, std::uint64_t{1} << 40U, std::uint64_t{1} << 20U,
           std::uint64_t{12}}) {
    INFO("claims " << size << " bytes");
    auto frame = sequence_header(size);
    frame.resize(frame.size() + 16);
    CHECK_FALSE(deserialized<s::CancelJob>(*this, frame));
  }
}

TEST_CASE_METHOD(actor_fixture, "a segment table that promises more than there is is refused") {
  auto frame = serialized(*this, cancel_of(7));
  auto table = sequence_header(frame.size() - 1).size(); // of so short a message the header is one byte
  SECTION("more segments than allowed") { frame[table + 1] = '\x7f'; }
  SECTION("more words than sent") { frame[table + 4] = '\x7f'; }
  CHECK_FALSE(deserialized<s::CancelJob>(*this, frame));
}

TEST_CASE_METHOD(actor_fixture, "no damage to any message does worse than an exception when it is read") {
  constexpr int rounds = 200;
  dice random{2};
  int refused = 0;
  int malformed = 0;
  int read = 0;
  for_each_schema(all_schemas{}, [&]<class Schema>(Schema*) {
    for (int i = 0; i < rounds; ++i) {
      auto received = deserialized<Schema>(*this, damaged(serialized(*this, random_message<Schema>(random)), random));
      if (!received)
        ++refused;
      else if (readable(*received))
        ++read;
      else
        ++malformed;
    }
  });
  CHECK(refused > 0);
  CHECK(malformed > 0);
  CHECK(read > 0);
}

TEST_CASE_METHOD(actor_fixture, "no damage to a converted struct does worse than an exception when it is converted") {
  constexpr int rounds = 1000;
  dice random{3};
  int converted = 0;
  int thrown = 0;
  for_each_schema(converted_schemas{}, [&]<class Schema>(Schema*) {
    for (int i = 0; i < rounds; ++i) {
      auto received = deserialized<Schema>(*this, damaged(serialized(*this, random_message<Schema>(random)), random));
      if (received) ++(convertible(*received) ? converted : thrown);
    }
  });
  CHECK(converted > 0);
  CHECK(thrown > 0);
}

TEST_CASE_METHOD(actor_fixture, "a handler answers malformed content with an error and its actor lives on") {
  cluster::shell_settings settings;
  settings.unix_ms = [] { return std::uint64_t{0}; };
  auto actor = system.spawn(cluster::cluster_shell, settings);
  auto client = system.spawn(
      [](wire::client_actor::pointer, int) -> wire::client_actor::behavior_type {
        return {[](const msg<s::TokenChunk>&) {}, [](const msg<s::JobRecord>&) {}, [](const msg<s::Event>&) {}};
      },
      0);
  run();
  // A root pointer far outside of the message: sane as a frame, malformed when read.
  auto words = wire::shared_words::allocate(2, true);
  const std::array<std::uint32_t, 4> content{0, 1, 0x7ffffff0U, 0x00ffffffU};
  std::memcpy(static_cast<void*>(words.data()), content.data(), sizeof(content));

  auto refused = ask_later<msg<s::Ack>>(actor, msg<s::Subscribe>{words}, client);
  CHECK(refused->error.find("invalid_argument") != std::string::npos);
  CHECK(error_of(actor, msg<s::Heartbeat>{words}).find("invalid_argument") != std::string::npos);
  CHECK(ask<msg<s::Snapshot>>(actor, msg<s::SnapshotQuery>{}).read()->getActors().size() == 5);
  kill(client);
  kill(actor);
}

} // namespace hflex::test::wire_test
