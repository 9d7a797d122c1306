// The emulator itself: it must find what it is there to find.
#include "tests/support/catch.hpp"
#include "tests/support/cuda_emulator.hpp"
#include <stdexcept>
#include <vector>

namespace hflex::emulator_test {

using namespace hflex::test;

TEST_CASE("a block whose threads part before a barrier is caught by the emulator") {
  const auto parted = [] {
    if (cuda::thread_index() < 5) return;
    cuda::sync_threads();
  };
  CHECK_THROWS_AS(run_blocks({{1, 1, 1}, 64, 0}, thread_order::forward, parted), std::runtime_error);
}

TEST_CASE("a missing barrier gives another result in one of the two orders") {
  const auto neighbour_of = [](thread_order order, bool with_barrier) {
    std::vector<unsigned> seen(64);
    run_blocks({{1, 1, 1}, 64, 64 * sizeof(unsigned)}, order, [&] {
      auto* shared = reinterpret_cast<unsigned*>(cuda::shared_bytes());
      const unsigned i = cuda::thread_index();
      shared[i] = i;
      if (with_barrier) cuda::sync_threads();
      seen[i] = shared[(i + 1) % 64];
    });
    return seen;
  };
  CHECK(neighbour_of(thread_order::forward, true) == neighbour_of(thread_order::backward, true));
  CHECK(neighbour_of(thread_order::forward, false) != neighbour_of(thread_order::backward, false));
}

TEST_CASE("an asynchronous copy that nobody waits for has not arrived") {
  const std::vector<cuda::quad> source(32, cuda::quad{{1, 2, 3, 4}});
  std::vector<std::uint32_t> early(32);
  std::vector<std::uint32_t> late(32);
  run_blocks({{1, 1, 1}, 32, 32 * sizeof(cuda::quad)}, thread_order::forward, [&] {
    const unsigned i = cuda::thread_index();
    auto* mine = cuda::shared_bytes() + i * sizeof(cuda::quad);
    cuda::copy_async(mine, &source[i]);
    cuda::copy_commit();
    early[i] = cuda::load_quad(mine).word[1];
    cuda::copy_wait<0>();
    late[i] = cuda::load_quad(mine).word[1];
  });
  CHECK(early == std::vector<std::uint32_t>(32, 0xffffffffU));
  CHECK(late == std::vector<std::uint32_t>(32, 2U));
}

} // namespace hflex::emulator_test
