// How an engine keeps activations, keys and values: chosen for each context by whoever makes it (configuration key
// instance.compute), and part of what two ends of a KV transfer must agree on. Names and sizes only: which device
// computes in what is the device's to say.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace hflex::gpu {

/// f32 is the reference; bf16 the fast mode, with f32's range; f16 is as fast on a GPU and has three more bits of
/// precision, but nothing beyond 65504. The numbers travel in transport frames.
enum class compute_type : std::uint8_t { f32 = 0, bf16 = 1, f16 = 2 };

/// By number.
inline constexpr std::array<std::string_view, 3> compute_names{"f32", "bf16", "f16"};

constexpr std::string_view name_of(compute_type t) { return compute_names[static_cast<std::size_t>(t)]; }

/// Nothing for any other word.
constexpr std::optional<compute_type> compute_named(std::string_view word) {
  for (std::size_t i = 0; i < compute_names.size(); ++i)
    if (compute_names[i] == word) return static_cast<compute_type>(i);
  return std::nullopt;
}

/// Bytes of one element.
constexpr std::uint32_t bytes_of(compute_type t) { return t == compute_type::f32 ? 4 : 2; }

} // namespace hflex::gpu
