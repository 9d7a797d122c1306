// What a test can ask of the fake CUDA plug-in, by a step's first token or a pool's size.
#pragma once
#include <cstdint>

namespace hflex::test {

inline constexpr std::int32_t fake_launch_fails = 101;
inline constexpr std::int32_t fake_launch_rejects = 102;
inline constexpr std::int32_t fake_stream_fails = 103; ///< after the launch: nothing is signalled any more
inline constexpr std::int32_t fake_logits_not_finite = 104;
inline constexpr std::uint32_t fake_no_memory_blocks = 77;

} // namespace hflex::test
