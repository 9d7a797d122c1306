// What a GGUF file says in terms of the rest of the engine: a model_config, and tensors by Hugging Face's names. The
// only place that knows llama.cpp's names for keys, tensors and architectures. Called by checkpoint, model_config and
// model_info; which models run is decided by them, not here.
#pragma once
#include "gpu/model/gguf.hpp"
#include "gpu/model/model_config.hpp"
#include <string>
#include <string_view>
#include <vector>

namespace hflex::gpu {

/// The configuration that the metadata describe, judged by parse_model_config like a config.json; faults name `source`
/// and the key. Embeddings are tied when there is no output.weight. Faults of its own: another kind of file (adapter,
/// part of a split model), an architecture whose tensors this engine cannot map, experts, rotary embeddings of part of
/// a head, values that are not finite.
config_report gguf_config(const gguf_content& content, const std::string& source);

/// The same from the file itself. Blocks on the disk; faults of the layout too.
config_report inspect_gguf_config(const std::string& path);

/// The tensors by Hugging Face's names ("model.layers.0.self_attn.q_proj.weight"); those that have none keep their own.
/// Query and key rows of architectures whose converter interleaves them are marked (tensor_view::paired_rows). `config`
/// comes from gguf_config without faults.
tensor_map huggingface_tensors(const gguf_content& content, const model_config& config);

/// The name in the file ("blk.0.attn_q.weight") of a tensor by Hugging Face's name; the name itself when it has no
/// other.
std::string gguf_tensor_name(std::string_view huggingface_name);

} // namespace hflex::gpu
