#include "actors/common/nearest.hpp"
#include "tests/support/catch.hpp"
#include <array>

namespace hflex::nearest_test {

TEST_CASE("edit distance counts insertions, removals, replacements and swaps of neighbours") {
  CHECK(edit_distance("", "") == 0);
  CHECK(edit_distance("abc", "abc") == 0);
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("abc", "ab") == 1);
  CHECK(edit_distance("abc", "axc") == 1);
  CHECK(edit_distance("abc", "acb") == 1);
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(edit_distance(std::string(65, 'a'), "a") == 65);
}

TEST_CASE("the nearest word is one that a typing error explains") {
  constexpr std::array<std::string_view, 4> known{"max_queued", "max_wait_ms", "policy", "p"};
  CHECK(nearest_word("max_queue", known) == "max_queued");
  CHECK(nearest_word("polciy", known) == "policy");
  CHECK(nearest_word("zebra", known).empty());
  CHECK(nearest_word("x", known).empty()); // one letter replaced is another word
  CHECK(nearest_word("anything", {}).empty());
  CHECK(did_you_mean("polcy", known) == "did you mean 'policy'?");
  CHECK(did_you_mean("zebra", known).empty());
}

} // namespace hflex::nearest_test
