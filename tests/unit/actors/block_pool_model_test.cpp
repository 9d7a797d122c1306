// A block pool against a model that keeps whole texts and looks through everything. A failure prints its seed.
#include "actors/instance/block_pool.hpp"
#include "tests/support/catch.hpp"
#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <random>

namespace hflex::block_pool_model_test {

using namespace hflex::instance;

namespace {

constexpr std::uint32_t block_size = 2;
using text = std::vector<token_id>;

/// A table that is filled from its front, as a sequence's is.
struct user {
  text tokens; ///< a whole number of blocks
  std::vector<block_hash> chain;
  std::vector<std::uint32_t> table;
  std::uint32_t full{};
  bool may_swap{};
};

/// What the pool should say of a block.
struct known {
  std::uint32_t users{};
  std::optional<text> holds; ///< from the beginning to its end
  std::uint64_t idle_since{};
};

class pair_of_pools {
public:
  explicit pair_of_pools(std::uint64_t seed) : random_(seed), pool_(6 + below(20), block_size), model_(pool_.total()) {}

  void run(int moves) {
    for (int i = 0; i < moves; ++i) {
      const auto what = below(10);
      if (what < 3)
        start();
      else if (!users_.empty() && what < 8)
        fill_one(users_[below(static_cast<std::uint32_t>(users_.size()))]);
      else if (!users_.empty())
        stop(below(static_cast<std::uint32_t>(users_.size())));
      compare();
    }
    while (!users_.empty()) stop(0);
    compare();
    CHECK(pool_.free() == pool_.total());
  }

  std::uint64_t hits{};
  std::uint64_t evictions{};
  std::uint64_t swaps{};

private:
  std::uint32_t below(std::uint32_t n) { return std::uniform_int_distribution<std::uint32_t>{0, n - 1}(random_); }

  /// Two tokens only, so that texts share beginnings of every length.
  text random_text() {
    text t((1 + below(6)) * block_size);
    for (std::size_t i = 0; i < t.size(); ++i) t[i] = i % block_size == 0 ? static_cast<token_id>(below(2)) : 5;
    return t;
  }
  static text first_blocks(const text& t, std::size_t blocks) {
    return {t.begin(), t.begin() + static_cast<std::ptrdiff_t>(blocks * block_size)};
  }

  void start() {
    user u;
    u.tokens = random_text();
    u.may_swap = below(2) == 0;
    for (std::size_t i = 0; i < u.tokens.size(); i += block_size)
      u.chain.push_back(chain_hash(
          {7, 8}, u.chain.empty() ? block_hash{} : u.chain.back(), std::span(u.tokens).subspan(i, block_size)));
    const auto hit = pool_.find(u.chain, u.tokens);
    std::vector<std::uint32_t> expected;
    std::uint32_t idle = 0;
    for (std::size_t n = 1; n <= u.chain.size(); ++n) {
      const auto at = found_.find(first_blocks(u.tokens, n));
      if (at == found_.end()) break;
      expected.push_back(at->second);
      idle += model_[at->second].users == 0;
    }
    REQUIRE(hit.blocks == expected.size());
    REQUIRE(hit.idle == idle);
    const auto fresh = static_cast<std::uint32_t>(u.chain.size()) - hit.blocks;
    if (fresh > pool_.free() - hit.idle) return;
    pool_.share(std::span(u.chain).first(hit.blocks), u.table);
    REQUIRE(u.table == expected);
    for (auto block : u.table) ++model_[block].users;
    for (std::uint32_t i = 0; i < fresh; ++i) {
      REQUIRE(pool_.allocate(1, u.table));
      took(u.table.back());
    }
    u.full = hit.blocks;
    hits += hit.blocks;
    users_.push_back(std::move(u));
  }

  /// An empty block while there is one, else the one that is idle for longest.
  void took(std::uint32_t block) {
    auto& b = model_[block];
    REQUIRE(b.users == 0);
    if (b.holds) {
      REQUIRE(std::all_of(model_.begin(), model_.end(),
          [&](const known& other) { return other.users > 0 || (other.holds && other.idle_since >= b.idle_since); }));
      found_.erase(*b.holds);
      b.holds.reset();
      ++evictions;
    }
    b.users = 1;
  }

  void fill_one(user& u) {
    if (u.full == u.chain.size()) return;
    auto& block = u.table[u.full];
    const auto before = block;
    const auto holds = first_blocks(u.tokens, u.full + 1);
    pool_.publish(block, u.chain[u.full], std::span(u.tokens).subspan(u.full * block_size, block_size), u.may_swap);
    ++u.full;
    const auto [twin, is_new] = found_.try_emplace(holds, before);
    if (is_new || !u.may_swap) {
      REQUIRE(block == before);
      model_[before].holds = holds;
    } else {
      REQUIRE(block == twin->second);
      ++model_[block].users;
      model_[before].users = 0;
      ++swaps;
    }
  }

  void stop(std::uint32_t which) {
    auto u = std::move(users_[which]);
    users_.erase(users_.begin() + which);
    const auto blocks = u.table;
    pool_.release(u.table);
    for (auto at = blocks.rbegin(); at != blocks.rend(); ++at) {
      auto& b = model_[*at];
      if (--b.users > 0 || !b.holds) continue;
      const auto finder = found_.try_emplace(*b.holds, *at).first->second;
      if (finder != *at) b.holds.reset();
      model_[finder].idle_since = ++clock_;
    }
  }

  void compare() const {
    std::vector<const std::vector<std::uint32_t>*> tables;
    for (const auto& u : users_) tables.push_back(&u.table);
    REQUIRE(pool_.accounts_for(tables));
    REQUIRE(pool_.cached() == found_.size());
    for (std::uint32_t i = 0; i < pool_.total(); ++i)
      if (pool_.users(i) != model_[i].users) FAIL("block " << i << " has " << pool_.users(i) << " users");
    // What is idle is of use: all that comes before it is there as well.
    for (const auto& [holds, block] : found_)
      if (model_[block].users == 0 && holds.size() > block_size)
        if (found_.count(first_blocks(holds, holds.size() / block_size - 1)) == 0)
          FAIL("block " << block << " is lost");
  }

  std::mt19937_64 random_;
  block_pool pool_;
  std::vector<known> model_;
  std::map<text, std::uint32_t> found_;
  std::deque<user> users_;
  std::uint64_t clock_{};
};

} // namespace

TEST_CASE("a block pool shares, evicts and counts as a model does that keeps whole texts") {
  std::uint64_t hits = 0, evictions = 0, swaps = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    INFO("seed " << seed);
    pair_of_pools both(seed);
    both.run(400);
    hits += both.hits;
    evictions += both.evictions;
    swaps += both.swaps;
  }
  CHECK(hits > 1000); // or the test has not tested it
  CHECK(evictions > 1000);
  CHECK(swaps > 50);
}

} // namespace hflex::block_pool_model_test
