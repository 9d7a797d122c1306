#include "gpu/transport/frame.hpp"
#include <xxhash.h>

namespace hflex::gpu {
namespace {

/// Byte offsets of the header's fields.
enum at : std::size_t {
  at_magic = 0,
  at_version = 4,
  at_type = 6,
  at_transfer = 8,
  at_key = 16,
  at_layer = 24,
  at_begin = 28,
  at_count = 32,
  at_code = 36,
  at_position = 40,
  at_payload = 48,
  at_checksum = 56,
};

template <class T>
void put(std::span<std::byte, frame_header_bytes> out, at offset, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) out[offset + i] = static_cast<std::byte>(value >> (8 * i));
}

template <class T>
T get(std::span<const std::byte, frame_header_bytes> in, at offset) {
  T value{};
  for (std::size_t i = 0; i < sizeof(T); ++i)
    value = static_cast<T>(value | static_cast<T>(static_cast<T>(in[offset + i]) << (8 * i)));
  return value;
}

std::uint64_t max_payload_of(frame_type type) {
  if (type == frame_type::data) return max_payload_bytes;
  if (type == frame_type::have) return max_note_bytes;
  return type == frame_type::want ? max_digest_bytes : 0;
}

} // namespace

frame_header failed_frame(transfer_id id, fault cause) {
  frame_header h;
  h.type = frame_type::failed;
  h.transfer = id;
  h.code = static_cast<std::uint32_t>(cause);
  return h;
}

void encode(const frame_header& header, std::span<std::byte, frame_header_bytes> out) {
  put(out, at_magic, frame_magic);
  put(out, at_version, frame_version);
  put(out, at_type, static_cast<std::uint16_t>(header.type));
  put(out, at_transfer, header.transfer.value);
  put(out, at_key, header.key);
  put(out, at_layer, header.layer);
  put(out, at_begin, header.begin);
  put(out, at_count, header.count);
  put(out, at_code, header.code);
  put(out, at_position, header.position);
  put(out, at_payload, header.payload_bytes);
  put(out, at_checksum, header.checksum);
}

result<frame_header> decode(std::span<const std::byte, frame_header_bytes> in) {
  if (get<std::uint32_t>(in, at_magic) != frame_magic) return fail(errc::reject, "not a transport frame");
  if (const auto version = get<std::uint16_t>(in, at_version); version != frame_version)
    return fail(errc::reject, "transport version {}: expected {}", version, frame_version);
  const auto type = get<std::uint16_t>(in, at_type);
  if (type < static_cast<std::uint16_t>(frame_type::hello) || type > static_cast<std::uint16_t>(frame_type::have))
    return fail(errc::reject, "unknown frame type {}", type);
  const frame_header header{static_cast<frame_type>(type), {get<std::uint64_t>(in, at_transfer)},
      get<std::uint64_t>(in, at_key), get<std::uint32_t>(in, at_layer), get<std::uint32_t>(in, at_begin),
      get<std::uint32_t>(in, at_count), get<std::uint32_t>(in, at_code), get<std::uint64_t>(in, at_position),
      get<std::uint64_t>(in, at_payload), get<std::uint64_t>(in, at_checksum)};
  if (const auto most = max_payload_of(header.type); header.payload_bytes > most)
    return fail(
        errc::reject, "frame type {} with {} payload bytes: expected at most {}", type, header.payload_bytes, most);
  return header;
}

std::uint64_t payload_checksum(std::span<const std::byte> payload) {
  return XXH3_64bits(payload.data(), payload.size());
}

error describe(fault cause, std::string_view who) {
  const auto say = [&](errc code, std::string_view what) { return error{code, fmt::format("{}: {}", who, what)}; };
  switch (cause) {
  case fault::refused:
    return say(errc::reroute, "refused");
  case fault::lease_ended:
    return say(errc::retry, "lease ended");
  case fault::queue_full:
    return say(errc::retry, "too many bytes queued");
  case fault::checksum:
    return say(errc::reroute, "bad checksum");
  case fault::device:
    return say(errc::reroute, "device failed to read or write blocks");
  case fault::closed:
    return say(errc::reroute, "closed");
  case fault::mismatch:
    return say(errc::reject, "the two ends' KV differs in shape or element type");
  case fault::protocol:
    break;
  }
  return say(errc::reject, "protocol broken");
}

fault fault_of(const frame_header& header) {
  const bool known = header.code >= static_cast<std::uint32_t>(fault::refused) &&
                     header.code <= static_cast<std::uint32_t>(fault::mismatch);
  return known ? static_cast<fault>(header.code) : fault::protocol;
}

} // namespace hflex::gpu
