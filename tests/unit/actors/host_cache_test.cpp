#include "actors/node/host_cache.hpp"
#include "tests/support/catch.hpp"
#include <random>

namespace hflex::host_cache_test {

using namespace hflex::node;

using digests = std::vector<std::string>;

TEST_CASE("weights that nobody uses any more stay in the host's memory up to the bound, the oldest go first") {
  host_cache cache(100);
  for (const auto* d : {"a", "b", "c"}) {
    CHECK(cache.add(d, 40).empty());
    cache.use(d);
  }
  CHECK(cache.idle_bytes() == 0);
  CHECK(cache.release("b").empty());
  CHECK(cache.release("a").empty());
  CHECK(cache.idle_bytes() == 80);
  CHECK(cache.release("c") == digests{"b"});
  CHECK(cache.bytes() == 80);
  cache.use("a"); // the next start is warm, and makes it young
  CHECK(cache.release("a").empty());
  CHECK(cache.add("d", 30) == digests{"c"});
}

TEST_CASE("weights stay as long as anybody uses them, whatever the bound") {
  host_cache cache(0);
  CHECK(cache.add("a", 40).empty()); // its first user is on the way
  cache.use("a");
  cache.use("a");
  CHECK(cache.release("a").empty());
  CHECK(cache.bytes() == 40);
  CHECK(cache.release("a") == digests{"a"});
  CHECK(cache.bytes() == 0);
  CHECK(cache.release("a").empty());
  cache.use("never seen");
  CHECK(cache.bytes() == 0);
}

TEST_CASE("a host's cache counts what it holds, and empties at the end") {
  host_cache cache(300);
  std::map<std::string, int> users;
  std::mt19937 random(7);
  for (int i = 0; i < 5000; ++i) {
    const std::string digest(1, static_cast<char>('a' + random() % 8));
    digests freed;
    if (const auto what = random() % 3; what == 0) {
      freed = cache.add(digest, 50 + digest[0]);
      users.emplace(digest, 0);
    } else if (what == 1 && users.count(digest) > 0) {
      cache.use(digest);
      ++users[digest];
    } else if (users.count(digest) > 0 && users[digest] > 0) {
      --users[digest];
      freed = cache.release(digest);
    }
    for (const auto& d : freed) {
      CHECK(users.at(d) == 0);
      users.erase(d);
    }
    std::uint64_t all = 0;
    std::uint64_t idle = 0;
    for (const auto& [d, n] : users) {
      all += 50U + static_cast<unsigned char>(d[0]);
      idle += n == 0 ? 50U + static_cast<unsigned char>(d[0]) : 0U;
    }
    REQUIRE(cache.bytes() == all);
    REQUIRE(cache.idle_bytes() == idle);
  }
  for (auto& [d, n] : users)
    for (; n > 0; --n) cache.release(d);
  cache.clear();
  CHECK(cache.bytes() == 0);
}

} // namespace hflex::host_cache_test
