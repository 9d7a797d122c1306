// Any bytes as the words of a control message: refused as a whole, refused while it is read, or values that can be
// written and read again. The first byte chooses the message.
#include "actors/common/check.hpp"
#include "actors/wire/convert.hpp"
#include "actors/wire/convert_scaling.hpp"
#include "actors/wire/convert_topology.hpp"
#include "actors/wire/instance_options.hpp"
#include "actors/wire/msg.hpp"
#include <kj/exception.h>

namespace {

using namespace hflex;
using namespace hflex::wire;

/// What wire::on does around every handler. `use` gets the reader.
template <class Schema, class Use>
void try_message(const shared_words& words, const Use& use) {
  try {
    auto content = msg<Schema>{words}.read();
    use(*content);
  } catch (const kj::Exception& e) {
    HFLEX_CHECK(e.getDescription().size() > 0);
  }
}

/// Reads a value; what was let in must survive being passed on.
template <class Schema>
void try_value(const shared_words& words) {
  try_message<Schema>(words, [](typename Schema::Reader in) {
    const auto value = read(in);
    bool passed_on = false;
    try {
      const auto again = msg<Schema>::make([&](typename Schema::Builder out) { write(out, value); });
      read(*again.read());
      passed_on = true;
    } catch (const kj::Exception&) {
    }
    HFLEX_CHECK(passed_on);
  });
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1 + sizeof(capnp::word)) return 0;
  const auto words = shared_words::allocate((size - 1) / sizeof(capnp::word), false);
  std::memcpy(words.data(), data + 1, words.bytes());
  if (!plausible(words)) return 0;
  switch (data[0] % 9) {
  case 0:
    try_value<schema::InstanceOptions>(words);
    break;
  case 1:
    try_value<schema::Snapshot>(words);
    break;
  case 2:
    try_value<schema::DemandReport>(words);
    break;
  case 3:
    try_value<schema::ScaleFleet>(words);
    break;
  case 4:
    try_value<schema::Sampling>(words);
    break;
  case 5:
    try_value<schema::SloTargets>(words);
    break;
  case 6:
    try_value<schema::StepTime>(words);
    break;
  case 7:
    try_message<schema::SequenceSpec>(words, [](schema::SequenceSpec::Reader in) {
      const auto spec = read(in, time_point{});
      HFLEX_CHECK(!spec.tokens.empty() && spec.prompt_tokens <= spec.tokens.size());
    });
    break;
  default:
    try_message<schema::Event>(words, [](schema::Event::Reader in) { read(in); });
    break;
  }
  return 0;
}
