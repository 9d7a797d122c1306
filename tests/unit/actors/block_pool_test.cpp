#include "actors/instance/block_pool.hpp"
#include "tests/support/catch.hpp"
#include <set>

namespace hflex::block_pool_test {

using namespace hflex::instance;

namespace {

constexpr std::uint32_t block_size = 2;
using table = std::vector<std::uint32_t>;
using tables = std::vector<const table*>;

/// The tokens [0, 2 * blocks) of a text of its own for each `name`.
std::vector<token_id> text(token_id name, std::uint32_t blocks) {
  std::vector<token_id> out;
  for (std::uint32_t i = 0; i < blocks * block_size; ++i) out.push_back(name * 1000 + static_cast<token_id>(i));
  return out;
}

std::vector<block_hash> chain(std::span<const token_id> tokens) {
  std::vector<block_hash> out;
  for (; tokens.size() >= block_size; tokens = tokens.subspan(block_size))
    out.push_back(chain_hash({}, out.empty() ? block_hash{} : out.back(), tokens.first(block_size)));
  return out;
}

/// A pool, and a table's blocks filled with a text.
struct filled : block_pool {
  explicit filled(std::uint32_t blocks) : block_pool(blocks, block_size) {}
  void fill(table& t, token_id name, bool may_swap = true) {
    const auto tokens = text(name, static_cast<std::uint32_t>(t.size()));
    const auto hashes = chain(tokens);
    for (std::size_t i = 0; i < t.size(); ++i)
      publish(t[i], hashes[i], std::span(tokens).subspan(i * block_size, block_size), may_swap);
  }
  table make(token_id name, std::uint32_t blocks, bool may_swap = true) {
    table t;
    REQUIRE(allocate(blocks, t));
    fill(t, name, may_swap);
    return t;
  }
  prefix_hit look_up(token_id name, std::uint32_t blocks) const {
    const auto tokens = text(name, blocks);
    return find(chain(tokens), tokens);
  }
  table take(token_id name, std::uint32_t blocks) {
    table t;
    share(chain(text(name, blocks)), t);
    return t;
  }
};

} // namespace

TEST_CASE("a block pool hands out each block once") {
  block_pool pool(5, block_size);
  table t;
  REQUIRE(pool.allocate(2, t));
  REQUIRE(pool.allocate(3, t));
  CHECK(std::set<std::uint32_t>(t.begin(), t.end()) == std::set<std::uint32_t>{0, 1, 2, 3, 4});
  CHECK(pool.free() == 0);
  CHECK(pool.accounts_for(tables{&t}));
}

TEST_CASE("a block pool with too few free blocks gives none") {
  block_pool pool(3, block_size);
  table t;
  REQUIRE(pool.allocate(2, t));
  CHECK_FALSE(pool.allocate(2, t));
  CHECK(t.size() == 2);
  CHECK(pool.free() == 1);
}

TEST_CASE("released blocks are free again") {
  block_pool pool(3, block_size);
  table t;
  REQUIRE(pool.allocate(3, t));
  pool.release(t);
  CHECK(t.empty());
  CHECK(pool.free() == 3);
  CHECK(pool.allocate(3, t));
}

TEST_CASE("a block pool notices a leaked and a shared block") {
  block_pool pool(4, block_size);
  table a, b;
  REQUIRE(pool.allocate(1, a));
  REQUIRE(pool.allocate(1, b));
  CHECK(pool.accounts_for(tables{&a, &b}));
  CHECK_FALSE(pool.accounts_for(tables{&a}));
  CHECK_FALSE(pool.accounts_for(tables{&a, &a}));
}

TEST_CASE("what released blocks hold is found until they are used again, and they count as free") {
  filled pool(4);
  auto t = pool.make(1, 3);
  pool.release(t);
  CHECK(pool.free() == 4);
  CHECK(pool.cached() == 3);
  CHECK(pool.look_up(1, 4).blocks == 3);
  CHECK(pool.look_up(1, 4).idle == 3);
  CHECK(pool.look_up(2, 4).blocks == 0);
  REQUIRE(pool.allocate(4, t));
  CHECK(pool.cached() == 0);
  CHECK(pool.look_up(1, 4).blocks == 0);
}

TEST_CASE("a block that nothing was said of is not found") {
  filled pool(4);
  table t;
  REQUIRE(pool.allocate(2, t));
  pool.release(t);
  CHECK(pool.cached() == 0);
}

TEST_CASE("tables that share a text hold the same blocks, which are free when the last has given them back") {
  filled pool(5);
  auto a = pool.make(1, 3);
  CHECK(pool.look_up(1, 2).idle == 0);
  auto b = pool.take(1, 2);
  CHECK(b == table{a[0], a[1]});
  CHECK(pool.users(a[0]) == 2);
  CHECK(pool.accounts_for(tables{&a, &b}));
  pool.release(a);
  CHECK(pool.free() == 3);
  CHECK(pool.accounts_for(tables{&b}));
  pool.release(b);
  CHECK(pool.free() == 5);
}

TEST_CASE("idle blocks are used again only when no empty one is left, and a text loses its end first") {
  filled pool(5);
  auto t = pool.make(1, 3);
  pool.release(t);
  REQUIRE(pool.allocate(2, t));
  CHECK(pool.look_up(1, 3).blocks == 3);
  REQUIRE(pool.allocate(1, t));
  CHECK(pool.look_up(1, 3).blocks == 2);
  REQUIRE(pool.allocate(1, t));
  CHECK(pool.look_up(1, 3).blocks == 1);
}

TEST_CASE("the text that was used longest ago is evicted first") {
  filled pool(4);
  auto a = pool.make(1, 2), b = pool.make(2, 2);
  pool.release(a);
  pool.release(b);
  a = pool.take(1, 2);
  pool.release(a);
  REQUIRE(pool.allocate(2, b));
  CHECK(pool.look_up(1, 2).blocks == 2);
  CHECK(pool.look_up(2, 2).blocks == 0);
}

TEST_CASE("a block that holds what another one does gives way to it") {
  filled pool(6);
  auto a = pool.make(1, 2), b = pool.make(1, 3);
  CHECK(table{b[0], b[1]} == a);
  CHECK(pool.free() == 3);
  CHECK(pool.accounts_for(tables{&a, &b}));
  pool.release(a);
  pool.release(b);
  CHECK(pool.look_up(1, 3).blocks == 3);
}

TEST_CASE("where a table may not change, its blocks stay beside their twins and step in for evicted ones") {
  filled pool(6);
  auto a = pool.make(1, 2), b = pool.make(1, 3, false);
  CHECK(a[0] != b[0]);
  CHECK(pool.cached() == 3);
  pool.release(a);
  SECTION("the twins are still there") {
    pool.release(b);
    CHECK(pool.cached() == 3);
    REQUIRE(pool.allocate(4, a)); // 3 are empty
    CHECK(pool.look_up(1, 3).blocks == 2);
  }
  SECTION("the twins are gone") {
    REQUIRE(pool.allocate(3, a));
    CHECK(pool.look_up(1, 3).blocks == 0);
    pool.release(b);
    CHECK(pool.look_up(1, 3).blocks == 3);
  }
}

TEST_CASE("equal hashes of different tokens are not taken for a hit") {
  filled pool(4);
  auto a = pool.make(1, 1);
  const auto hash = chain(text(1, 1));
  const auto other = text(2, 1);
  CHECK(pool.find(hash, other).blocks == 0);
  table b;
  REQUIRE(pool.allocate(1, b));
  pool.publish(b[0], hash[0], other, true);
  CHECK(a[0] != b[0]);
  CHECK(pool.find(hash, other).blocks == 0);
  CHECK(pool.look_up(1, 1).blocks == 1);
  CHECK(pool.accounts_for(tables{&a, &b}));
}

TEST_CASE("a partly used block counts whole") {
  CHECK(blocks_for(0, 16) == 0);
  CHECK(blocks_for(1, 16) == 1);
  CHECK(blocks_for(16, 16) == 1);
  CHECK(blocks_for(17, 16) == 2);
}

} // namespace hflex::block_pool_test
