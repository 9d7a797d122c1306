#include "actors/instance/block_pool.hpp"
#include "tests/support/catch.hpp"
#include <set>

using hflex::instance::block_pool;
using hflex::instance::blocks_for;

TEST_CASE("a block pool hands out each block once") {
  block_pool pool(5);
  std::vector<std::uint32_t> table;
  REQUIRE(pool.allocate(2, table));
  REQUIRE(pool.allocate(3, table));
  CHECK(std::set<std::uint32_t>(table.begin(), table.end()) == std::set<std::uint32_t>{0, 1, 2, 3, 4});
  CHECK(pool.free() == 0);
  CHECK(pool.accounts_for(std::vector<const std::vector<std::uint32_t>*>{&table}));
}

TEST_CASE("a block pool with too few free blocks gives none") {
  block_pool pool(3);
  std::vector<std::uint32_t> table;
  REQUIRE(pool.allocate(2, table));
  CHECK_FALSE(pool.allocate(2, table));
  CHECK(table.size() == 2);
  CHECK(pool.free() == 1);
}

TEST_CASE("released blocks are free again") {
  block_pool pool(3);
  std::vector<std::uint32_t> table;
  REQUIRE(pool.allocate(3, table));
  pool.release(table);
  CHECK(table.empty());
  CHECK(pool.free() == 3);
  CHECK(pool.allocate(3, table));
}

TEST_CASE("a block pool notices a leaked and a shared block") {
  block_pool pool(4);
  std::vector<std::uint32_t> a, b;
  REQUIRE(pool.allocate(1, a));
  REQUIRE(pool.allocate(1, b));
  using tables = std::vector<const std::vector<std::uint32_t>*>;
  CHECK(pool.accounts_for(tables{&a, &b}));
  CHECK_FALSE(pool.accounts_for(tables{&a}));
  CHECK_FALSE(pool.accounts_for(tables{&a, &a}));
}

TEST_CASE("a partly used block counts whole") {
  CHECK(blocks_for(0, 16) == 0);
  CHECK(blocks_for(1, 16) == 1);
  CHECK(blocks_for(16, 16) == 1);
  CHECK(blocks_for(17, 16) == 2);
}
