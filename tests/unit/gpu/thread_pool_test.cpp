#include "gpu/thread_pool.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/spin.hpp"
#include <chrono>
#include <numeric>

namespace hflex::test::thread_pool_test {

TEST_CASE("every piece runs exactly once, on a thread of the pool") {
  for (const std::uint32_t threads : {1U, 2U, 3U, 8U}) {
    gpu::thread_pool pool(threads);
    CHECK(pool.threads() == threads);
    for (const std::uint32_t count : {0U, 1U, 2U, 7U, 1000U}) {
      std::vector<std::atomic<int>> runs(count);
      std::atomic<bool> stranger{false};
      pool.parallel_for(count, [&](std::uint32_t i, std::uint32_t thread) {
        ++runs[i];
        if (thread >= threads) stranger = true;
      });
      for (const auto& r : runs) REQUIRE(r == 1);
      CHECK_FALSE(stranger);
    }
  }
}

TEST_CASE("many short calls in a row neither lose nor repeat a piece") {
  gpu::thread_pool pool(3);
  std::uint64_t expected = 0;
  std::atomic<std::uint64_t> sum{0};
  for (std::uint32_t round = 0; round < 20000; ++round) {
    const std::uint32_t count = 2 + round % 5;
    // The caller writes plainly, the body reads: a missing edge is a race that the thread sanitizer sees.
    std::vector<std::uint32_t> input(count, round);
    pool.parallel_for(count, [&](std::uint32_t i, std::uint32_t) { sum += input[i]; });
    expected += std::uint64_t{count} * round;
  }
  CHECK(sum == expected);
}

TEST_CASE("parked threads wake for the next call") {
  gpu::thread_pool pool(2);
  for (int round = 0; round < 5; ++round) {
    std::atomic<int> ran{0};
    test::spin_for(std::chrono::milliseconds(5)); // longer than the pool spins
    pool.parallel_for(2, [&](std::uint32_t, std::uint32_t) {
      ++ran;
      // Both pieces must be under way at once: one thread alone would wait here for ever.
      while (ran < 2) std::this_thread::yield();
    });
    CHECK(ran == 2);
  }
}

} // namespace hflex::test::thread_pool_test
