// The rules that every device's steps and KV pool obey, whatever computes them. Called by llama.cpp (CPU) and
// gpu/cuda_device.cpp. Pure.
#pragma once
#include "gpu/device.hpp"
#include "gpu/host_device.hpp"
#include "gpu/model/model_config.hpp"
#include <span>

namespace hflex::gpu {

/// The pool that the options ask for. errc::reject for impossible sizes.
result<kv_geometry> plan_kv_pool(const model_config& config, const host_context_options& options);

/// errc::reject when max_batched_tokens is out of range.
result<void> check_step_size(std::uint32_t max_batched_tokens);

/// errc::reject names the item at fault (see device_context::submit). O(tokens + blocks).
result<void> check_step(
    const model_config& config, const kv_geometry& kv, std::uint32_t max_batched_tokens, const step_plan& plan);

/// errc::reject unless the table's blocks exist and cover tokens [0, tokens).
result<void> check_block_table(const kv_geometry& kv, std::span<const block_index> block_table, std::uint64_t tokens);

/// The same for a copy of `bytes` of one layer's K and V (device_context::read_kv).
result<void> check_kv_copy(const kv_geometry& kv, std::uint32_t layer, std::span<const block_index> block_table,
    std::uint32_t begin, std::uint32_t count, std::size_t bytes);

} // namespace hflex::gpu
