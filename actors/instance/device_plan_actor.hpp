// A batcher's step as the device takes it: used by the instance shell only.
#pragma once
#include "actors/instance/batcher.hpp"
#include "gpu/device.hpp"
#include "gpu/transport/transport.hpp"
#include <memory>
#include <utility>
#include <vector>

namespace hflex::instance {

/// Takes tokens and block tables out of `plan`. Rows that a hand-over waits for go to `transport` from the device's
/// thread, layer by layer.
inline gpu::step_plan device_plan(step_plan& plan, const std::shared_ptr<gpu::transport>& transport) {
  struct push_range {
    std::uint64_t tag;
    transfer_id transfer;
    std::uint32_t begin;
    std::uint32_t count;
  };
  gpu::step_plan out;
  out.id = plan.id;
  std::vector<push_range> pushes;
  for (auto& entry : plan.entries) {
    gpu::step_item item;
    item.tag = out.items.size();
    item.tokens = std::move(entry.tokens);
    item.position = entry.position;
    item.block_table = std::move(entry.block_table);
    item.sample = entry.sample;
    item.sampling = entry.sampling;
    item.output_index = entry.output_index;
    item.wants_layers = entry.push_kv;
    if (entry.push_kv)
      pushes.push_back({item.tag, entry.transfer, item.position, static_cast<std::uint32_t>(item.tokens.size())});
    out.items.push_back(std::move(item));
  }
  if (!pushes.empty())
    out.on_layer = [transport, pushes = std::move(pushes)](std::uint64_t tag, std::uint32_t layer) {
      for (const auto& rows : pushes)
        if (rows.tag == tag) transport->push(rows.transfer, layer, rows.begin, rows.count);
    };
  return out;
}

} // namespace hflex::instance
