#include "gpu/model/gguf_model.hpp"
#include "gpu/model/json_file.hpp"
#include "gpu/model/rope.hpp"
#include <array>
#include <cmath>
#include <cstring>

namespace hflex::gpu {
namespace {

using nlohmann::json;

/// Models whose tensors have the names below. llama.cpp's converter stores query and key rows of the first kind so that
/// the halves that rotary embedding pairs lie side by side.
struct gguf_family {
  std::string_view gguf;        ///< general.architecture
  std::string_view huggingface; ///< architectures[0] of config.json
  bool paired_rows{};
};
constexpr std::array gguf_families{gguf_family{"llama", "LlamaForCausalLM", true},
    gguf_family{"qwen2", "Qwen2ForCausalLM", false}, gguf_family{"qwen3", "Qwen3ForCausalLM", false}};

struct name_pair {
  std::string_view gguf;
  std::string_view huggingface;
};

/// Metadata keys behind "ARCHITECTURE." and what config.json calls them.
constexpr std::array shape_keys{name_pair{"embedding_length", "hidden_size"},
    name_pair{"feed_forward_length", "intermediate_size"}, name_pair{"block_count", "num_hidden_layers"},
    name_pair{"attention.head_count", "num_attention_heads"},
    name_pair{"attention.head_count_kv", "num_key_value_heads"}, name_pair{"attention.key_length", "head_dim"},
    name_pair{"vocab_size", "vocab_size"}, name_pair{"context_length", "max_position_embeddings"},
    name_pair{"attention.layer_norm_rms_epsilon", "rms_norm_eps"}, name_pair{"rope.freq_base", "rope_theta"},
    name_pair{"attention.sliding_window", "sliding_window"}};
/// The same for members of rope_scaling.
constexpr std::array scaling_keys{name_pair{"rope.scaling.type", "rope_type"},
    name_pair{"rope.scaling.factor", "factor"},
    name_pair{"rope.scaling.original_context_length", "original_max_position_embeddings"}};
constexpr std::array token_keys{
    name_pair{"tokenizer.ggml.bos_token_id", "bos_token_id"}, name_pair{"tokenizer.ggml.eos_token_id", "eos_token_id"}};
/// Each of them ends an answer.
constexpr std::array end_keys{
    "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};

/// Tensors of the whole model.
constexpr std::array global_names{name_pair{"token_embd.weight", "model.embed_tokens.weight"},
    name_pair{"output_norm.weight", "model.norm.weight"}, name_pair{"output.weight", "lm_head.weight"}};
/// Tensors of one layer, between "blk.N." or "model.layers.N." and ".weight" or ".bias".
constexpr std::array layer_names{name_pair{"attn_norm", "input_layernorm"}, name_pair{"attn_q", "self_attn.q_proj"},
    name_pair{"attn_k", "self_attn.k_proj"}, name_pair{"attn_v", "self_attn.v_proj"},
    name_pair{"attn_output", "self_attn.o_proj"}, name_pair{"attn_q_norm", "self_attn.q_norm"},
    name_pair{"attn_k_norm", "self_attn.k_norm"}, name_pair{"ffn_norm", "post_attention_layernorm"},
    name_pair{"ffn_gate", "mlp.gate_proj"}, name_pair{"ffn_up", "mlp.up_proj"}, name_pair{"ffn_down", "mlp.down_proj"}};

constexpr std::string_view gguf_layer = "blk.";
constexpr std::string_view huggingface_layer = "model.layers.";

/// Changes the prefix before a layer's number, and what follows it by way of `layer_names`; nothing for other names.
template <class From, class To>
std::string translated(
    std::string_view name, std::string_view from_prefix, std::string_view to_prefix, From from, To to) {
  for (const auto& pair : global_names) {
    if (name == pair.*from) return std::string(pair.*to);
  }
  if (!name.starts_with(from_prefix)) return {};
  const auto rest = name.substr(from_prefix.size());
  const auto number = rest.substr(0, rest.find_first_not_of("0123456789"));
  const auto dot = rest.rfind('.');
  if (number.empty() || dot == rest.npos || dot <= number.size() || rest[number.size()] != '.') return {};
  const auto middle = rest.substr(number.size() + 1, dot - number.size() - 1);
  for (const auto& pair : layer_names) {
    if (middle == pair.*from) return fmt::format("{}{}.{}{}", to_prefix, number, pair.*to, rest.substr(dot));
  }
  return {};
}

constexpr auto rope_divisors = "rope_freqs.weight";

std::string huggingface_name(std::string_view gguf_name) {
  return translated(gguf_name, gguf_layer, huggingface_layer, &name_pair::gguf, &name_pair::huggingface);
}

/// Writes what the config.json of the same model would say, and gives faults their own keys back.
class model_translator {
public:
  model_translator(const gguf_content& content, const std::string& source) : in_(content), source_(source) {}

  config_report run() {
    if (!read_kind()) return std::move(report_);
    for (const auto& key : shape_keys) copy(key, json_);
    if (!json_.contains("vocab_size")) count_tokens();
    json scaling = json::object();
    for (const auto& key : scaling_keys) copy(key, scaling);
    if (!scaling.empty() && scaling.value("rope_type", json()) != "none") json_["rope_scaling"] = scaling;
    json_["tie_word_embeddings"] = in_.tensors.find("output.weight") == in_.tensors.end();
    read_tokens();
    judge();
    return std::move(report_);
  }

private:
  bool fault(std::string_view key, const std::string& what) {
    report_.faults.push_back(fmt::format("{}: {}: {}", source_, key, what));
    return false;
  }
  std::string own(std::string_view key) const { return fmt::format("{}.{}", family_->gguf, key); }

  bool read_kind() {
    const auto* kind = in_.find("general.type");
    if (kind != nullptr && text_of(kind) != "model") {
      return fault("general.type", fmt::format("expected \"model\", found {}", described(*kind)));
    }
    const auto* parts = in_.find("split.count");
    if (parts != nullptr && natural_of(parts).value_or(2) > 1) {
      return fault("split.count", fmt::format("this is one of {} files; join them into one", described(*parts)));
    }
    const auto* name = in_.find("general.architecture");
    if (name == nullptr) return fault("general.architecture", "is missing");
    std::vector<std::string_view> known;
    for (const auto& f : gguf_families) {
      if (text_of(name) == f.gguf) family_ = &f;
      known.push_back(f.gguf);
    }
    if (family_ == nullptr) {
      return fault("general.architecture",
          fmt::format("{} is not supported; known: {}", described(*name), fmt::join(known, ", ")));
    }
    json_["architectures"] = json::array({family_->huggingface});
    return true;
  }

  /// The value as JSON; what config.json cannot say is a fault, and null.
  json value_of(const std::string& key, const gguf_value& value) {
    if (const auto* n = std::get_if<std::uint64_t>(&value)) return *n;
    if (const auto* n = std::get_if<std::int64_t>(&value)) return *n;
    if (const auto* flag = std::get_if<bool>(&value)) return *flag;
    // Names of kinds are plain ASCII; other bytes need not survive as JSON.
    if (const auto text = text_of(&value); text && printable(*text) == fmt::format("\"{}\"", *text)) return *text;
    if (const auto* x = std::get_if<double>(&value); x != nullptr && std::isfinite(*x)) return *x;
    fault(key, fmt::format("expected one number for all layers, found {}", described(value)));
    return nullptr;
  }

  void copy(const name_pair& key, json& to) {
    const auto name = own(key.gguf);
    if (const auto* value = in_.find(name)) to[std::string(key.huggingface)] = value_of(name, *value);
  }

  void count_tokens() {
    const auto* tokens = in_.find("tokenizer.ggml.tokens");
    const auto* list = tokens != nullptr ? std::get_if<gguf_array>(tokens) : nullptr;
    if (list != nullptr) json_["vocab_size"] = list->count;
  }

  void read_tokens() {
    const auto* bos = in_.find("tokenizer.ggml.bos_token_id");
    if (bos != nullptr) json_["bos_token_id"] = value_of("tokenizer.ggml.bos_token_id", *bos);
    json ends = json::array();
    for (const auto* key : end_keys) {
      if (const auto* end = in_.find(key)) ends.push_back(value_of(key, *end));
    }
    json_["eos_token_id"] = ends;
  }

  void judge() {
    auto judged = parse_model_config(json_.dump(), source_);
    for (auto& line : judged.faults) report_.faults.push_back(renamed(std::move(line)));
    report_.config = std::move(judged.config);
    refuse_unsupported();
    if (report_.faults.empty()) read_rope_divisors();
  }

  /// Llama 3's scaling of rotary embeddings: files hold no parameters of it, but what comes of them, a divisor for each
  /// frequency. Long waves have the factor itself; the other parameters are the same for all its models.
  void read_rope_divisors() {
    const auto at = in_.tensors.find(rope_divisors);
    if (at == in_.tensors.end()) return;
    auto& config = report_.config;
    const auto plain = rope_frequencies(config);
    std::vector<float> divisors(plain.size());
    if (at->second.type != dtype::f32 || at->second.data.size() != divisors.size() * sizeof(float)) {
      fault(rope_divisors, fmt::format("expected {} divisors in F32, one for each frequency", divisors.size()));
      return;
    }
    std::memcpy(divisors.data(), at->second.data.data(), at->second.data.size());
    config.rope = {rope_scaling::method::llama3, divisors.back(), 1.0F, 4.0F, 8192};
    const auto scaled = rope_frequencies(config);
    bool known = divisors.back() >= 1.0F;
    for (std::size_t i = 0; i < plain.size(); ++i)
      known = known && std::abs(plain[i] / scaled[i] - divisors[i]) <= 1e-3F * divisors[i];
    if (!known) fault(rope_divisors, "is not Llama 3's scaling of rotary embeddings; no other is supported");
  }

  /// A fault of config.json's key as one of the metadata's.
  std::string renamed(std::string line) const {
    const auto rename = [&](std::string_view huggingface, const std::string& gguf) {
      const auto before = fmt::format("{}: {}: ", source_, huggingface);
      if (!line.starts_with(before)) return false;
      line = fmt::format("{}: {}: {}", source_, gguf, line.substr(before.size()));
      return true;
    };
    if (rename("architectures", "general.architecture")) return line;
    for (const auto& key : shape_keys) {
      if (rename(key.huggingface, own(key.gguf))) return line;
    }
    for (const auto& key : scaling_keys) {
      if (rename(fmt::format("rope_scaling: {}", key.huggingface), own(key.gguf))) return line;
    }
    for (const auto& key : token_keys) {
      if (rename(key.huggingface, std::string(key.gguf))) return line;
    }
    return line;
  }

  /// What config.json has no key for.
  void refuse_unsupported() {
    const auto differs = [&](const std::string& key, std::uint64_t from, const char* what) {
      const auto* value = in_.find(key);
      if (value != nullptr && natural_of(value) != from) fault(key, fmt::format("{} {}", described(*value), what));
    };
    differs(own("expert_count"), 0, "experts are not supported");
    differs("general.quantization_version", 2, "is not supported; 2 is");
    if (report_.config.head_dim == 0) return; // said already
    const std::uint64_t head_dim = report_.config.head_dim;
    const auto want = fmt::format("is not the size of a head, {}; that is not supported", head_dim);
    for (const auto* key : {"attention.value_length", "rope.dimension_count"}) {
      differs(own(key), head_dim, want.c_str());
    }
  }

  const gguf_content& in_;
  const std::string& source_;
  const gguf_family* family_{nullptr};
  json json_;
  config_report report_;
};

} // namespace

config_report gguf_config(const gguf_content& content, const std::string& source) {
  return model_translator(content, source).run();
}

config_report inspect_gguf_config(const std::string& path) {
  const auto file = open_gguf(path);
  if (!file) return {{}, {file.error().message}};
  return gguf_config(file->content, path);
}

tensor_map huggingface_tensors(const gguf_content& content, const model_config& config) {
  bool paired = false;
  for (const auto& f : gguf_families) paired = paired || (f.huggingface == config.architecture && f.paired_rows);
  tensor_map out;
  for (const auto& [name, tensor] : content.tensors) {
    if (name == rope_divisors && config.rope.type == rope_scaling::method::llama3) continue; // in the configuration
    auto view = tensor;
    if (paired && (name.ends_with(".attn_q.weight") || name.ends_with(".attn_k.weight"))) {
      view.paired_rows = config.head_dim;
    }
    const auto known = huggingface_name(name);
    out.emplace(known.empty() ? name : known, std::move(view));
  }
  return out;
}

std::string gguf_tensor_name(std::string_view huggingface_name) {
  const auto name =
      translated(huggingface_name, huggingface_layer, gguf_layer, &name_pair::huggingface, &name_pair::gguf);
  return name.empty() ? std::string(huggingface_name) : name;
}

} // namespace hflex::gpu
