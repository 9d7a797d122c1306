// Block layouts, each with little-endian f16 scales d and m:
//   Q4_0  d, q[16]            x = (q - 8) d; nibbles: the low ones are elements 0..15, the high ones 16..31
//   Q4_1  d, m, q[16]         x = q d + m
//   Q5_0  d, h[4], q[16]      x = (q - 16) d; bit i of h is bit 4 of element i
//   Q5_1  d, m, h[4], q[16]   x = q d + m
//   Q8_0  d, q[32]            x = q d; signed bytes
//   Q4_K  d, m, s[12], q[128]          8 groups of 32: x = q d s - m t; s and t are 6 bits each
//   Q5_K  d, m, s[12], h[32], q[128]   the same with bit 4 of an element in h
//   Q6_K  q[128], h[64], s[16], d      16 groups of 16: x = (q - 32) d s; s are signed bytes
#include "gpu/kernels/decode_weights.hpp"
#include "actors/common/check.hpp"
#include "gpu/kernels/bf16.hpp"
#include <cstring>

namespace hflex::gpu {
namespace {

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

float half_at(const std::byte* at) { return f16_to_f32(load<std::uint16_t>(at)); }
std::uint32_t low(std::byte b) { return std::to_integer<std::uint32_t>(b) & 15U; }
std::uint32_t high(std::byte b) { return std::to_integer<std::uint32_t>(b) >> 4U; }
std::uint32_t bit(std::byte b, unsigned index) { return std::to_integer<std::uint32_t>(b) >> index & 1U; }
float signed_byte(std::byte b) { return static_cast<float>(static_cast<std::int8_t>(b)); }

/// 32 elements of 4 bits, and a fifth from `fifth` where its bits are set; x = q * scale + offset.
void decode_nibbles(const std::byte* q, std::uint32_t fifth, float scale, float offset, float* out) {
  for (unsigned i = 0; i < 16; ++i) {
    out[i] = static_cast<float>(low(q[i]) | (fifth >> i & 1U) << 4U) * scale + offset;
    out[i + 16] = static_cast<float>(high(q[i]) | (fifth >> (i + 16) & 1U) << 4U) * scale + offset;
  }
}

/// A block of 32.
void decode_small(dtype type, const std::byte* at, float* out) {
  const float d = half_at(at);
  switch (type) {
  case dtype::q4_0:
    return decode_nibbles(at + 2, 0, d, -8.0F * d, out);
  case dtype::q4_1:
    return decode_nibbles(at + 4, 0, d, half_at(at + 2), out);
  case dtype::q5_0:
    return decode_nibbles(at + 6, load<std::uint32_t>(at + 2), d, -16.0F * d, out);
  case dtype::q5_1:
    return decode_nibbles(at + 8, load<std::uint32_t>(at + 4), d, half_at(at + 2), out);
  default: // q8_0
    for (unsigned i = 0; i < 32; ++i) out[i] = signed_byte(at[2 + i]) * d;
  }
}

/// The 6-bit scale and minimum of group `g` of 8, out of 12 bytes: those of the first four lie in the low 6 bits of
/// bytes 0..3 and 4..7; those of the others have their low 4 bits in bytes 8..11 and their high 2 bits atop the former.
std::pair<float, float> group_scale(const std::byte* s, unsigned g) {
  const auto byte = [&](unsigned i) { return std::to_integer<std::uint32_t>(s[i]); };
  if (g < 4) return {static_cast<float>(byte(g) & 63U), static_cast<float>(byte(g + 4) & 63U)};
  return {static_cast<float>(low(s[g + 4]) | byte(g - 4) >> 6U << 4U),
      static_cast<float>(high(s[g + 4]) | byte(g) >> 6U << 4U)};
}

/// Q4_K, and Q5_K when there are `fifth` bits: bit g of fifth[i] belongs to element i of group g.
void decode_k(const std::byte* at, const std::byte* fifth, const std::byte* q, float* out) {
  const float d = half_at(at);
  const float m = half_at(at + 2);
  for (unsigned g = 0; g < 8; ++g) {
    const auto [s, t] = group_scale(at + 4, g);
    const float scale = d * s;
    const float offset = m * t;
    const std::byte* nibbles = q + std::size_t{g / 2} * 32; // two groups share 32 bytes: low nibbles, then high ones
    for (unsigned i = 0; i < 32; ++i) {
      auto v = g % 2 == 0 ? low(nibbles[i]) : high(nibbles[i]);
      if (fifth != nullptr) v |= bit(fifth[i], g) << 4U;
      out[g * 32 + i] = static_cast<float>(v) * scale - offset;
    }
  }
}

void decode_q6_k(const std::byte* at, float* out) {
  const float d = half_at(at + 208);
  for (unsigned half = 0; half < 2; ++half) {
    const std::byte* q = at + std::size_t{half} * 64;
    const std::byte* h = at + 128 + std::size_t{half} * 32;
    const std::byte* s = at + 192 + std::size_t{half} * 8;
    for (unsigned quarter = 0; quarter < 4; ++quarter) {
      for (unsigned i = 0; i < 32; ++i) {
        const std::byte nibbles = q[(quarter % 2) * 32 + i];
        const auto upper = std::to_integer<std::uint32_t>(h[i]) >> (2 * quarter) & 3U;
        const auto v = static_cast<int>((quarter < 2 ? low(nibbles) : high(nibbles)) | upper << 4U) - 32;
        out[half * 128 + quarter * 32 + i] = d * signed_byte(s[quarter * 2 + i / 16]) * static_cast<float>(v);
      }
    }
  }
}

void decode_block(dtype type, const std::byte* at, float* out) {
  switch (type) {
  case dtype::q4_k:
    return decode_k(at, nullptr, at + 16, out);
  case dtype::q5_k:
    return decode_k(at, at + 16, at + 48, out);
  case dtype::q6_k:
    return decode_q6_k(at, out);
  default:
    return decode_small(type, at, out);
  }
}

} // namespace

void decode_weights(dtype type, const std::byte* from, std::span<float> out) {
  switch (type) {
  case dtype::f32:
    std::memcpy(out.data(), from, out.size_bytes());
    return;
  case dtype::f16:
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = half_at(from + i * 2);
    return;
  case dtype::bf16:
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = bf16_to_f32(load<std::uint16_t>(from + i * 2));
    return;
  default:
    HFLEX_CHECK(out.size() % elements_of(type) == 0);
    for (std::size_t i = 0; i < out.size(); i += elements_of(type), from += bytes_of(type))
      decode_block(type, from, &out[i]);
  }
}

} // namespace hflex::gpu
