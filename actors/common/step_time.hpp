// The step-time model: the ground of every budget (t = c0 + c1*max(0, P+D-m0) + c2*Q + c3*D + c4*K + c5*mixed).
// P prefill tokens, D decode sequences, Q query-key pairs of the prefill chunks, K summed context of the decode sequences.
#pragma once
#include "actors/common/time.hpp"
#include <cstdint>

namespace hflex {

/// What one step works on. `ctx_before` is a chunk's position when it starts: Q grows by n*(ctx_before + n/2).
struct step_shape {
  std::uint32_t prefill_tokens{};  ///< P
  std::uint32_t decode_seqs{};     ///< D
  double query_key_pairs{};        ///< Q
  double decode_context{};         ///< K
  constexpr void add_prefill(std::uint32_t n, std::uint32_t ctx_before) {
    prefill_tokens += n;
    query_key_pairs += static_cast<double>(n) * (static_cast<double>(ctx_before) + n * 0.5);
  }
  constexpr void add_decode(std::uint32_t context) {
    decode_seqs += 1;
    decode_context += context;
  }
  friend bool operator==(const step_shape&, const step_shape&) = default;
};

} // namespace hflex
