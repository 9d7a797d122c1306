// The wire format: one fixed 64-byte little-endian header for every frame, the same on Unix and TCP sockets. Pure:
// bytes in, values out; decides what a well-formed header is, never what it means for a transfer.
//
//   source -> sink                                     sink -> source
//   hello    begins a connection; on a Unix socket     welcome  the connection is up
//            with the ring's memfd (SCM_RIGHTS)        credit   ring bytes up to `position` may be used again
//   open     begins a transfer                         delivered  every (layer, token) has arrived
//   data     rows of one layer                         failed   the transfer ended; `code` is a fault
//   failed   the transfer ended; `code` is a fault
//
//   fetcher -> holder (Unix sockets only)              holder -> fetcher
//   want     digest of weights, inline                 have     the region's memfd (SCM_RIGHTS); or failed
//   want     (code 1) key of device memory, inline     have     its descriptor, and a note inline; or failed
//
// A `data` payload follows its header on a connection without a ring and lies in the ring otherwise.
#pragma once
#include "actors/common/ids.hpp"
#include "actors/common/result.hpp"
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace hflex::gpu {

inline constexpr std::size_t frame_header_bytes = 64;
inline constexpr std::uint32_t frame_magic = 0x584c4648; // "HFLX"
inline constexpr std::uint16_t frame_version = 2;        // 1: `open` did not say its elements' type
/// Payload of one data frame at most: small enough to stay in a core's L2 between copy, checksum and copy.
inline constexpr std::uint64_t max_payload_bytes = 256U << 10U;
inline constexpr std::uint64_t max_digest_bytes = 256;
inline constexpr std::uint64_t max_note_bytes = 256;
/// `code` of a `want`.
inline constexpr std::uint32_t want_region = 0;
inline constexpr std::uint32_t want_device_memory = 1;

enum class frame_type : std::uint16_t { hello = 1, welcome, open, data, credit, delivered, failed, want, have };

/// A read can return several frames and one descriptor: this says whose it is.
constexpr bool may_carry_fd(frame_type type) { return type == frame_type::hello || type == frame_type::have; }

/// Why a transfer ended, as told to the other side.
enum class fault : std::uint32_t {
  refused = 1, ///< unknown transfer, wrong key, already taken, or no such weights
  lease_ended,
  queue_full,
  checksum,
  protocol, ///< the peer broke the rules
  device,   ///< a device could not read or write its blocks
  closed,   ///< closed by its owner
  mismatch, ///< the two ends' KV differs in shape or element type
};

struct frame_header {
  frame_type type{};
  transfer_id transfer;
  std::uint64_t key{};      ///< open
  std::uint32_t layer{};    ///< data: which; open: how many layers
  std::uint32_t begin{};    ///< data: first token
  std::uint32_t count{};    ///< data: tokens; open: tokens in every layer
  std::uint32_t code{};     ///< failed: a fault; open: the rows' compute_type; want: of what
  std::uint64_t position{}; ///< data: where in the ring; credit: consumed up to here; open: bytes of one token in one
                            ///< layer; hello: bytes of the ring (0 = none)
  std::uint64_t payload_bytes{}; ///< data, want, have
  std::uint64_t checksum{};      ///< data: xxh3-64 of the payload
};

frame_header failed_frame(transfer_id id, fault cause);

void encode(const frame_header& header, std::span<std::byte, frame_header_bytes> out);
/// errc::reject: not ours, another version, unknown type, or a payload larger than its type may have.
result<frame_header> decode(std::span<const std::byte, frame_header_bytes> in);

std::uint64_t payload_checksum(std::span<const std::byte> payload);

/// What a fault means for the side that meets it or is told of it. `who` begins the message.
error describe(fault cause, std::string_view who);
/// The fault of a `failed` frame; a number we do not know counts as `protocol`.
fault fault_of(const frame_header& header);

} // namespace hflex::gpu
