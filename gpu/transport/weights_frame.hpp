// What goes over a line of weights between two hosts: a 32-byte little-endian header for every frame, behind it the
// payload. Pure. A line has a port and a thread of its own, so that gigabytes of weights delay no KV block.
//
//   taker -> giver                                    giver -> taker
//   pull    key of the grant; payload: the digest     head    payload: the region's head (gpu/model/region_head.hpp)
//   ask     chunks [begin, begin + count) are wanted  chunk   number `begin`; payload: its bytes
//                                                     refuse  no such grant, no such weights, or the lease has ended
//
// The taker names what it misses, so it can go on with another giver where the last one died; the giver sends what is
// asked in that order, and what it does not have yet as soon as it has it.
#pragma once
#include "actors/common/result.hpp"
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace hflex::gpu {

inline constexpr std::size_t weights_frame_bytes = 32;
inline constexpr std::uint32_t weights_frame_magic = 0x574c4648; // "HFLW"

enum class weights_frame_type : std::uint16_t { pull = 1, ask, head, chunk, refuse };

struct weights_frame {
  weights_frame_type type{};
  std::uint32_t begin{};   ///< ask, chunk
  std::uint32_t count{};   ///< ask
  std::uint64_t key{};     ///< pull
  std::uint64_t payload{}; ///< bytes that follow
};

std::array<std::byte, weights_frame_bytes> encode(const weights_frame& frame);
/// errc::reject: not ours, unknown type, or more payload than that type may have.
result<weights_frame> decode_weights_frame(std::span<const std::byte, weights_frame_bytes> in);

} // namespace hflex::gpu
