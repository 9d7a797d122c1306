#include "gpu/model/f16_range.hpp"
#include "tests/support/altered_region.hpp"
#include "tests/unit/gpu/engine_fixture.hpp"

namespace hflex::test::f16_range_test {
namespace {

using gpu::tensor_kind;

constexpr std::uint16_t largest_inside = 0x477f; // 65280
constexpr std::uint16_t smallest_outside = 0x4780;

result<void> check(const altered_region& region) { return gpu::check_f16_range(region.data(), region.places()); }

/// What is said of the demo model with one weight changed; empty: nothing.
std::string said_of(tensor_kind kind, std::uint32_t layer, std::size_t index, std::uint16_t weight) {
  altered_region region(*demo_weights());
  region.put(kind, layer, index, weight);
  const auto checked = check(region);
  if (checked) return {};
  CHECK(checked.error().code == errc::reject);
  return checked.error().message;
}

} // namespace

TEST_CASE("a model whose weights fit f16 is let through, up to the last value inside") {
  CHECK(check(altered_region(*demo_weights())).has_value());
  CHECK(said_of(tensor_kind::down, 5, 7, largest_inside).empty());
  CHECK(said_of(tensor_kind::down, 5, 7, largest_inside | 0x8000U).empty());
}

TEST_CASE("a weight beyond f16 is refused by the name of its tensor, wherever in it and of either sign") {
  const auto place = altered_region(*demo_weights()).places().back(); // the head: the last in the region
  CHECK(contains(said_of(tensor_kind::head, 0, place.bytes / 2 - 1, smallest_outside), "output head"));
  CHECK(contains(said_of(tensor_kind::qkv, 3, 0, smallest_outside | 0x8000U), "layer 3, q, k or v projection"));
  CHECK(contains(said_of(tensor_kind::gate_up, 1, 99, smallest_outside), "magnitude 65536 is beyond f16's 65504"));
  CHECK(contains(said_of(tensor_kind::o, 0, 1, 0x7f80), "inf"));
}

TEST_CASE("norms stay f32 on a device and may be as large as they like") {
  altered_region region(*demo_weights());
  region.put(tensor_kind::attn_norm, 2, 0, 1e9F);
  CHECK(check(region).has_value());
}

} // namespace hflex::test::f16_range_test
