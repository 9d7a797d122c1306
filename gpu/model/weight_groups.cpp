#include "gpu/model/weight_groups.hpp"
#include "actors/common/check.hpp"

namespace hflex::gpu {
namespace {

bool is_outside_layers(tensor_kind kind) {
  return kind == tensor_kind::embedding || kind == tensor_kind::final_norm || kind == tensor_kind::head;
}

} // namespace

std::vector<chunk_range> weight_groups(const region_layout& layout) {
  std::uint32_t layers = 0;
  bool tied = true;
  for (const auto& t : layout.tensors) {
    if (!is_outside_layers(t.kind)) layers = std::max(layers, t.layer + 1);
    if (t.kind == tensor_kind::embedding) tied = false;
  }
  std::vector<chunk_range> groups(layers + 2);
  // The tensors of a group lie one behind the other.
  const auto take = [&](chunk_range& group, const tensor_place& t) {
    const auto first = static_cast<std::uint32_t>((t.offset - layout.head_bytes) / weight_chunk_bytes);
    const auto end = static_cast<std::uint32_t>(
        (t.offset + t.bytes - layout.head_bytes + weight_chunk_bytes - 1) / weight_chunk_bytes);
    group =
        group.end == 0 ? chunk_range{first, end} : chunk_range{std::min(group.begin, first), std::max(group.end, end)};
  };
  for (const auto& t : layout.tensors) {
    if (t.kind == tensor_kind::embedding || (tied && t.kind == tensor_kind::head)) take(groups.front(), t);
    if (!is_outside_layers(t.kind)) take(groups[1 + t.layer], t);
    if (t.kind == tensor_kind::final_norm || t.kind == tensor_kind::head) take(groups.back(), t);
  }
  return groups;
}

std::vector<std::uint32_t> arrival_order(const region_layout& layout) {
  std::vector<std::uint32_t> order;
  std::vector<bool> taken(layout.chunks());
  for (const auto& group : weight_groups(layout))
    for (auto chunk = group.begin; chunk < group.end; ++chunk)
      if (!taken[chunk]) {
        taken[chunk] = true;
        order.push_back(chunk);
      }
  HFLEX_CHECK(order.size() == taken.size()); // every chunk holds a part of some tensor
  return order;
}

} // namespace hflex::gpu
