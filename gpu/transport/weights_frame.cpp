#include "gpu/transport/weights_frame.hpp"
#include "gpu/model/region_head.hpp"
#include "gpu/transport/frame.hpp"

namespace hflex::gpu {
namespace {

constexpr std::uint16_t version = 1;

template <class T>
void put(std::byte*& at, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) *at++ = static_cast<std::byte>(value >> (8 * i));
}

template <class T>
T get(const std::byte*& at) {
  T value{};
  for (std::size_t i = 0; i < sizeof(T); ++i)
    value = static_cast<T>(value | static_cast<T>(static_cast<T>(*at++) << (8 * i)));
  return value;
}

std::uint64_t most_payload(weights_frame_type type) {
  switch (type) {
  case weights_frame_type::pull:
    return max_digest_bytes;
  case weights_frame_type::head:
    return max_head_bytes;
  case weights_frame_type::chunk:
    return weight_chunk_bytes;
  case weights_frame_type::ask:
  case weights_frame_type::refuse:
    return 0;
  }
  return 0;
}

} // namespace

std::array<std::byte, weights_frame_bytes> encode(const weights_frame& frame) {
  std::array<std::byte, weights_frame_bytes> out{};
  std::byte* at = out.data();
  put(at, weights_frame_magic);
  put(at, version);
  put(at, static_cast<std::uint16_t>(frame.type));
  put(at, frame.begin);
  put(at, frame.count);
  put(at, frame.key);
  put(at, frame.payload);
  return out;
}

result<weights_frame> decode_weights_frame(std::span<const std::byte, weights_frame_bytes> in) {
  const std::byte* at = in.data();
  if (get<std::uint32_t>(at) != weights_frame_magic) return fail(errc::reject, "not a frame of weights");
  if (const auto v = get<std::uint16_t>(at); v != version)
    return fail(errc::reject, "weights come in version {}: expected {}", v, version);
  const auto type = get<std::uint16_t>(at);
  if (type < static_cast<std::uint16_t>(weights_frame_type::pull) ||
      type > static_cast<std::uint16_t>(weights_frame_type::refuse))
    return fail(errc::reject, "unknown frame type {}", type);
  weights_frame frame{static_cast<weights_frame_type>(type)};
  frame.begin = get<std::uint32_t>(at);
  frame.count = get<std::uint32_t>(at);
  frame.key = get<std::uint64_t>(at);
  frame.payload = get<std::uint64_t>(at);
  if (frame.payload > most_payload(frame.type))
    return fail(errc::reject, "frame type {} with {} bytes of payload", type, frame.payload);
  return frame;
}

} // namespace hflex::gpu
