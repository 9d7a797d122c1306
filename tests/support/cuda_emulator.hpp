// Runs the kernels of gpu/cuda/kernels on the host: the threads of a block are fibers of the calling thread, switched
// at barriers and warp operations only. Warps run in the order asked for, each as far as it gets before the next one
// moves, so that a kernel that misses a barrier gives another result in one of the two orders; shared memory starts as
// NaNs and ends exactly where the launch said, so that sanitizers see a step beyond it; asynchronous copies arrive as
// late as the rules allow.
//
// A block that can never go on (a thread ended while others wait for it) throws std::runtime_error.
#pragma once
#include "gpu/cuda/kernels/lanes.cuh"
#include <functional>

namespace hflex::test {

enum class thread_order { forward, backward };

struct launch_shape {
  cuda::grid_index grid;
  unsigned threads{}; ///< of a block; a multiple of 32
  std::size_t shared_bytes{};
};

/// Runs `thread` once for each thread of each block, block after block.
void run_blocks(const launch_shape& shape, thread_order order, const std::function<void()>& thread);

template <class... Parameters, class... Arguments>
void emulate(
    const launch_shape& shape, thread_order order, void (*kernel)(Parameters...), const Arguments&... arguments) {
  run_blocks(shape, order, [&] { kernel(arguments...); });
}

} // namespace hflex::test
