#include "actors/common/prefix_marks.hpp"
#include "tests/support/catch.hpp"

namespace hflex::prefix_marks_test {

namespace {

constexpr hash_key key{1, 2};

std::vector<token_id> text(std::size_t length, token_id first = 1) {
  std::vector<token_id> tokens(length);
  for (std::size_t i = 0; i < length; ++i) tokens[i] = static_cast<token_id>(first + i * 7 % 1000);
  return tokens;
}

} // namespace

TEST_CASE("marks stand for growing lengths, dense first") {
  CHECK(mark_length(0) == 64);
  CHECK(mark_length(15) == 1024);
  CHECK(mark_length(16) == 1280);
  CHECK(mark_length(43) == 8192);
  CHECK(mark_length(44) == 9216);
  for (std::size_t i = 1; i < most_prefix_marks; ++i) REQUIRE(mark_length(i) > mark_length(i - 1));
}

TEST_CASE("a text has a mark for each length that it reaches") {
  CHECK(prefix_marks(key, text(63)).empty());
  CHECK(prefix_marks(key, text(64)).size() == 1);
  CHECK(prefix_marks(key, text(1279)).size() == 16);
  CHECK(prefix_marks(key, text(131'072)).size() == 164);
  CHECK(prefix_marks(key, text(400'000)).size() == most_prefix_marks);
}

TEST_CASE("texts share the marks of the beginning that they share, and no later one") {
  const auto a = text(600);
  auto b = a;
  b[200] += 1;
  const auto marks_of_a = prefix_marks(key, a);
  const auto marks_of_b = prefix_marks(key, b);
  REQUIRE(marks_of_a.size() == 9);
  for (std::size_t i = 0; i < 9; ++i) CHECK((marks_of_a[i] == marks_of_b[i]) == (mark_length(i) <= 200));
}

TEST_CASE("without the key nobody can tell what a mark stands for") {
  CHECK(prefix_marks({1, 2}, text(64)) != prefix_marks({1, 3}, text(64)));
}

} // namespace hflex::prefix_marks_test
