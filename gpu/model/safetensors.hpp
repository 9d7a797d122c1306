// The safetensors format: which bytes of a file are which tensor. Judges the layout of files that may come from anyone
// and maps them into memory; checkpoint builds on it. Knows nothing of models.
#pragma once
#include "gpu/model/tensor_file.hpp"

namespace hflex::gpu {

/// Finds the tensors of one whole file. Every fault is appended to `faults` (at most 32, and one line that counts the
/// others), naming `source` and the tensor: header longer than the file or 100 MB, malformed JSON, an unknown dtype, a
/// size that is not product(shape) * element size, offsets outside the file, tensors that overlap, bytes that belong to
/// none. With faults, the tensors that could be understood are returned all the same, each inside `file`.
tensor_map parse_safetensors(
    std::span<const std::byte> file, const std::string& source, std::vector<std::string>& faults);

/// Maps and parses the tensor files of `dir`: model.safetensors, or the shards that model.safetensors.index.json lists.
/// Blocks on the disk, reads headers only. Faults as above, and: a file that is missing, a tensor in two shards, a
/// shard that does not hold what the index says.
tensor_files open_tensor_files(const std::string& dir, std::vector<std::string>& faults);

} // namespace hflex::gpu
