// What makes a transfer possible at all, the same on both sides. Pure.
#pragma once
#include "gpu/transport/frame.hpp"
#include "gpu/transport/transport.hpp"
#include <algorithm>

namespace hflex::gpu {

/// errc::reject: no id or context, an empty shape, one that the context does not have, or a table too short or out of
/// range.
inline result<void> check_transfer(
    transfer_id id, const kv_shape& shape, const device_context* context, const std::vector<block_index>& table) {
  if (!id || context == nullptr) return fail(errc::reject, "KV transfer {} without id or context", id.value);
  const kv_geometry& kv = context->kv();
  if (shape.element != kv.element)
    return fail(errc::reject, "KV transfer {} of {}: this context keeps {}", id.value, name_of(shape.element),
        name_of(kv.element));
  if (shape.layers == 0 || shape.tokens == 0 || shape.layers > kv.layers ||
      shape.token_layer_bytes != kv.token_layer_bytes())
    return fail(errc::reject,
        "KV transfer {} of {} layers, {} tokens, {} bytes each: expected 1..{} layers of {} bytes a token", id.value,
        shape.layers, shape.tokens, shape.token_layer_bytes, kv.layers, kv.token_layer_bytes());
  if (shape.token_layer_bytes == 0 || shape.token_layer_bytes > max_payload_bytes)
    return fail(errc::reject, "{} bytes a token and layer: at most {} are possible", shape.token_layer_bytes,
        max_payload_bytes);
  const bool inside = std::all_of(table.begin(), table.end(), [&](block_index b) { return b < kv.blocks; });
  if (!inside || table.size() * std::uint64_t{kv.block_size} < shape.tokens)
    return fail(errc::reject, "KV transfer {}: {} blocks do not hold {} tokens", id.value, table.size(), shape.tokens);
  return {};
}

} // namespace hflex::gpu
