// What a test can ask of the fake CUDA plug-in, by a step's first token or a pool's size, and what it counts.
#pragma once
#include <atomic>
#include <cstdint>

namespace hflex::test {

inline constexpr std::int32_t fake_launch_fails = 101;
inline constexpr std::int32_t fake_launch_rejects = 102;
inline constexpr std::int32_t fake_stream_fails = 103; ///< after the launch: nothing is signalled any more
inline constexpr std::int32_t fake_logits_not_finite = 104;
inline constexpr std::uint32_t fake_no_memory_blocks = 77;

/// Of the process: dlsym("fake_cuda_counts") is a function that returns it.
struct fake_counts {
  std::atomic<int> tensors{0}; ///< that came from the host
  std::atomic<int> there{0};   ///< weights that take memory of devices, those on their way included
  std::atomic<int> most{0};    ///< that there have been at a time, since a test set it to 0
};

/// When this is in the environment, weights come from the host at so many MiB/s.
inline constexpr const char* fake_mib_s = "FAKE_CUDA_MIB_S";

} // namespace hflex::test
