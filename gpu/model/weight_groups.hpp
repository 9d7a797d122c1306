// What of a weight region is read together, and so in which order its chunks should arrive for a step to begin before
// all are here: what embeds tokens, each layer, what makes logits. Pure; used by the taker of weights, which asks in
// this order, and by the engine, which waits in it.
#pragma once
#include "gpu/model/packed_model.hpp"
#include "gpu/weights_arrival.hpp"
#include <vector>

namespace hflex::gpu {

/// By group the chunks that hold it: 0 embeds, 1 + l is layer l, 1 + layers is final norm and head. With tied
/// embeddings the head's matrix is in the first group, too. Neighbours may share a chunk.
std::vector<chunk_range> weight_groups(const region_layout& layout);

/// Every chunk once, those of an earlier group first.
std::vector<std::uint32_t> arrival_order(const region_layout& layout);

} // namespace hflex::gpu
