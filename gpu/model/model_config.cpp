#include "gpu/model/model_config.hpp"
#include "gpu/kernels/kernels.hpp"
#include "gpu/model/chat_template.hpp"
#include "gpu/model/gguf_model.hpp"
#include "gpu/model/json_file.hpp"
#include <algorithm>
#include <array>
#include <filesystem>
#include <limits>
#include <optional>
#include <utility>

namespace hflex::gpu {
namespace {

using nlohmann::json;

constexpr std::uint64_t max_config_bytes = 1U << 20U;
/// What the families differ in. All are Llama's decoder otherwise.
struct family {
  std::string_view architecture;
  bool qkv_bias{};
  bool qk_norm{};
  bool explicit_shape{};    ///< kv heads and, where it norms heads, head_dim have no default that follows from others
  std::string_view windows; ///< the flag that turns sliding_window on; "always"; "" where Llama has none
};
constexpr std::array families{
    family{"LlamaForCausalLM", false, false, false, ""},
    family{"MistralForCausalLM", false, false, true, "always"},
    family{"Qwen2ForCausalLM", true, false, true, "use_sliding_window"},
    family{"Qwen3ForCausalLM", false, true, true, "use_sliding_window"},
};

constexpr auto supported = "supported: LlamaForCausalLM (Llama, SmolLM), MistralForCausalLM, Qwen2ForCausalLM and "
                           "Qwen3ForCausalLM with silu, rotary embeddings of type default, linear or llama3 and "
                           "unquantised f32, f16 or bf16 weights";

constexpr std::uint32_t max_heads = 1U << 12U;
/// Attention takes heads in vectors of 16.
constexpr std::uint32_t head_dim_step = 16;

/// Takes typed, range-checked fields out of one JSON object and notes what is wrong with them.
class field_reader {
public:
  field_reader(const json& object, std::string source, std::vector<std::string>& faults)
      : object_(object), source_(std::move(source)), faults_(faults) {}

  void fault(std::string_view key, const std::string& what) {
    faults_.push_back(fmt::format("{}: {}: {}", source_, key, what));
  }

  /// The value, or nothing for a key that is absent or null.
  const json* find(const char* key) const {
    const auto at = object_.find(key);
    return at == object_.end() || at->is_null() ? nullptr : &*at;
  }

  /// An integer in [1, max]; a key that is absent has the value `absent`, or is a fault without one.
  std::uint32_t size(const char* key, std::uint32_t max, std::optional<std::uint32_t> absent = {}) {
    const auto* value = find(key);
    if (!value) return absent_or_fault(key, absent);
    if (value->is_number_unsigned()) {
      const auto n = value->get<std::uint64_t>();
      if (n >= 1 && n <= max) return static_cast<std::uint32_t>(n);
    }
    fault(key, fmt::format("expected an integer from 1 to {}, found {}", max, described(*value)));
    return 0;
  }

  /// A number in [min, max].
  float real(const char* key, double min, double max, std::optional<float> absent = {}) {
    const auto* value = find(key);
    if (!value) return absent_or_fault(key, absent);
    if (value->is_number()) {
      const auto x = value->get<double>();
      if (x >= min && x <= max) return static_cast<float>(x);
    }
    fault(key, fmt::format("expected a number from {} to {}, found {}", min, max, described(*value)));
    return 0;
  }

  bool flag(const char* key) {
    const auto* value = find(key);
    if (value && !value->is_boolean()) fault(key, "expected true or false, found " + described(*value));
    return value && value->is_boolean() && value->get<bool>();
  }

  /// A token id below `vocab` (no upper bound when that is 0, because it has a fault of its own).
  std::optional<token_id> token(std::string_view key, const json& value, std::uint32_t vocab) {
    const std::uint64_t end = vocab != 0 ? vocab : std::numeric_limits<token_id>::max();
    if (value.is_number_unsigned() && value.get<std::uint64_t>() < end) return value.get<token_id>();
    fault(key, fmt::format("expected a token id below vocab_size {}, found {}", end, described(value)));
    return std::nullopt;
  }

  /// eos_token_id: a number or a list of numbers; appended to `eos` where not yet there.
  void add_eos(std::uint32_t vocab, std::vector<token_id>& eos) {
    const auto* value = find("eos_token_id");
    if (!value) return;
    const auto add = [&](const json& item) {
      const auto id = token("eos_token_id", item, vocab);
      if (id && std::find(eos.begin(), eos.end(), *id) == eos.end()) eos.push_back(*id);
    };
    if (!value->is_array()) return add(*value);
    if (value->size() > 64) return fault("eos_token_id", fmt::format("{} ids; at most 64 are expected", value->size()));
    for (const auto& item : *value) add(item);
  }

private:
  template <class Number>
  Number absent_or_fault(const char* key, std::optional<Number> absent) {
    if (!absent) fault(key, "is missing");
    return absent.value_or(Number{});
  }

  const json& object_;
  std::string source_;
  std::vector<std::string>& faults_;
};

/// The first family where the file names none that is known, so that its other keys are judged all the same.
const family& read_architecture(field_reader& in, model_config& config) {
  const auto& unknown = families.front();
  const auto* list = in.find("architectures");
  if (!list) {
    in.fault("architectures", fmt::format("is missing; {}", supported));
    return unknown;
  }
  if (!list->is_array() || list->size() != 1 || !list->front().is_string()) {
    in.fault("architectures", fmt::format("expected a list of one string, found {}", described(*list)));
    return unknown;
  }
  config.architecture = list->front().get<std::string>();
  for (const auto& known : families) {
    if (known.architecture == config.architecture) return known;
  }
  in.fault("architectures", fmt::format("{} is not supported; {}", printable(config.architecture), supported));
  return unknown;
}

void read_head_dim(field_reader& in, const family& kind, model_config& config) {
  const bool divides = config.hidden % config.heads == 0;
  if (!divides && !in.find("head_dim")) {
    return in.fault(
        "head_dim", fmt::format("is missing, and hidden_size {} is not a multiple of num_attention_heads {}",
                        config.hidden, config.heads));
  }
  const bool must_say = kind.explicit_shape && kind.qk_norm;
  config.head_dim = in.size("head_dim", max_head_dim,
      must_say ? std::optional<std::uint32_t>{} : std::optional{config.hidden / config.heads});
  if (config.head_dim % head_dim_step != 0) {
    in.fault("head_dim", fmt::format("{} is not supported; expected a multiple of {}, at most {}", config.head_dim,
                             head_dim_step, max_head_dim));
  }
}

void read_shape(field_reader& in, const family& kind, model_config& config) {
  config.hidden = in.size("hidden_size", max_width);
  config.intermediate = in.size("intermediate_size", max_width);
  config.layers = in.size("num_hidden_layers", max_layers);
  config.heads = in.size("num_attention_heads", max_heads);
  config.kv_heads = in.size("num_key_value_heads", max_heads,
      kind.explicit_shape ? std::optional<std::uint32_t>{} : std::optional{config.heads});
  config.vocab = in.size("vocab_size", max_vocab);
  config.max_context = in.size("max_position_embeddings", max_positions);
  config.rms_norm_eps = in.real("rms_norm_eps", 1e-12, 1e-1);
  config.tie_embeddings = in.flag("tie_word_embeddings");
  config.qkv_bias = kind.qkv_bias;
  config.qk_norm = kind.qk_norm;
  if (config.heads == 0 || config.hidden == 0) return; // said already
  read_head_dim(in, kind, config);
  if (config.kv_heads != 0 && config.heads % config.kv_heads != 0) {
    in.fault(
        "num_key_value_heads", fmt::format("{} does not divide num_attention_heads {}", config.kv_heads, config.heads));
  }
}

/// rope_scaling and rope_parameters say the same; `rope` reads either's members.
void read_rope_scaling(field_reader& rope, const json& type, const char* kind, rope_scaling& scaling) {
  constexpr double max_factor = 1e6;
  if (type == "default") return;
  if (type != "linear" && type != "llama3")
    return rope.fault(kind, fmt::format("{} is not supported; {}", described(type), supported));
  scaling.type = type == "linear" ? rope_scaling::method::linear : rope_scaling::method::llama3;
  scaling.factor = rope.real("factor", 1.0, max_factor);
  if (scaling.type == rope_scaling::method::linear) return;
  scaling.low_freq_factor = rope.real("low_freq_factor", 1e-3, max_factor);
  scaling.high_freq_factor = rope.real("high_freq_factor", 1e-3, max_factor);
  scaling.original_context = rope.size("original_max_position_embeddings", max_positions);
  if (scaling.low_freq_factor != 0 && scaling.high_freq_factor != 0 &&
      scaling.high_freq_factor <= scaling.low_freq_factor)
    rope.fault("high_freq_factor",
        fmt::format("{} is not above low_freq_factor {}", scaling.high_freq_factor, scaling.low_freq_factor));
}

/// Before transformers 5: rope_theta and rope_scaling, which may be null; since: rope_parameters with both in it.
void read_rope(field_reader& in, const std::string& source, std::vector<std::string>& faults, model_config& config) {
  constexpr double min_theta = 1.0;
  constexpr double max_theta = 1e12;
  config.rope_theta = in.real("rope_theta", min_theta, max_theta, 10000.0F);
  for (const auto* key : {"rope_scaling", "rope_parameters"}) {
    const auto* value = in.find(key);
    if (!value) continue;
    if (!value->is_object()) {
      in.fault(key, "expected an object or null, found " + described(*value));
      continue;
    }
    field_reader rope(*value, fmt::format("{}: {}", source, key), faults);
    for (const auto* kind : {"rope_type", "type"}) { // where both are there, the first is heeded
      const auto* type = rope.find(kind);
      if (!type) continue;
      read_rope_scaling(rope, *type, kind, config.rope);
      break;
    }
    if (!rope.find("rope_type") && !rope.find("type") && !rope.find("rope_theta")) {
      in.fault(key, fmt::format("does not say which kind it is (rope_type); {}", supported));
    }
    if (rope.find("partial_rotary_factor")) rope.real("partial_rotary_factor", 1.0, 1.0);
    config.rope_theta = rope.real("rope_theta", min_theta, max_theta, config.rope_theta);
  }
}

/// A window of w positions sees all of them as long as there are no more than w: that is as far as this engine goes.
void read_window(field_reader& in, const family& kind, model_config& config) {
  const bool windowed = kind.windows == "always" || (!kind.windows.empty() && in.flag(kind.windows.data()));
  const bool limited = windowed && in.find("sliding_window");
  if (limited) {
    const auto window = in.size("sliding_window", max_positions);
    if (window < config.max_context) config.uncut_context = std::exchange(config.max_context, window);
  } else if (const auto* value = in.find("sliding_window"); value && kind.windows.empty()) {
    in.fault("sliding_window", fmt::format("{} is not supported; {}", described(*value), supported));
  }
  const auto* types = in.find("layer_types");
  if (!types) return;
  if (!types->is_array()) return in.fault("layer_types", "expected a list, found " + described(*types));
  for (const auto& type : *types) {
    if (type == "full_attention" || (limited && type == "sliding_attention")) continue;
    return in.fault("layer_types", fmt::format("{} is not supported; {}", described(type), supported));
  }
}

void refuse_unsupported(field_reader& in, const family& kind) {
  for (const auto* key : {"mlp_bias", "rope_interleaved"}) {
    if (in.flag(key)) in.fault(key, fmt::format("true is not supported; {}", supported));
  }
  if (in.flag("attention_bias") && !kind.qkv_bias)
    in.fault("attention_bias", fmt::format("true is not supported for {}; {}", kind.architecture, supported));
  // Quantised weights; mixtures of experts; latent attention; capped logits.
  for (const auto* key : {"quantization_config", "num_local_experts", "num_experts", "n_routed_experts", "q_lora_rank",
           "kv_lora_rank", "attn_logit_softcapping", "final_logit_softcapping"}) {
    if (const auto* value = in.find(key)) {
      in.fault(key, fmt::format("{} is not supported; {}", described(*value), supported));
    }
  }
  if (in.find("partial_rotary_factor")) in.real("partial_rotary_factor", 1.0, 1.0);
  const auto* act = in.find("hidden_act");
  if (act && *act != "silu") in.fault("hidden_act", fmt::format("{} is not supported; {}", described(*act), supported));
}

void add_generation_config(const std::string& path, config_report& report) {
  const auto document = load_json(path, max_config_bytes);
  if (!document) return report.faults.push_back(document.error().message);
  if (!document->is_object())
    return report.faults.push_back(path + ": expected an object, found " + described(*document));
  field_reader(*document, path, report.faults).add_eos(report.config.vocab, report.config.eos);
}

/// Files that forget it leave a chat model talking to itself.
void add_end_of_turn(const std::string& dir, model_config& config) {
  const auto id = end_of_turn_token(dir);
  if (!id || static_cast<std::uint32_t>(*id) >= config.vocab) return;
  if (std::find(config.eos.begin(), config.eos.end(), *id) == config.eos.end()) config.eos.push_back(*id);
}

} // namespace

std::vector<std::string_view> known_architectures() {
  std::vector<std::string_view> names;
  for (const auto& known : families) names.push_back(known.architecture);
  return names;
}

config_report parse_model_config(std::string_view text, const std::string& source) {
  config_report report;
  const auto document = parse_json(text, source);
  if (!document) return {{}, {document.error().message}};
  if (!document->is_object()) return {{}, {source + ": expected an object, found " + described(*document)}};
  field_reader in(*document, source, report.faults);
  const auto& kind = read_architecture(in, report.config);
  read_shape(in, kind, report.config);
  read_rope(in, source, report.faults, report.config);
  read_window(in, kind, report.config);
  refuse_unsupported(in, kind);
  if (const auto* bos = in.find("bos_token_id")) {
    report.config.bos = in.token("bos_token_id", *bos, report.config.vocab).value_or(-1);
  }
  in.add_eos(report.config.vocab, report.config.eos);
  return report;
}

config_report inspect_model_config(const std::string& dir) {
  const auto gguf = gguf_path_of(dir);
  if (!gguf) return {{}, {gguf.error().message}};
  if (*gguf) return inspect_gguf_config(**gguf);
  const auto path = dir + "/config.json";
  const auto text = read_file(path, max_config_bytes);
  if (!text) return {{}, {text.error().message}};
  auto report = parse_model_config(*text, path);
  const auto generation = dir + "/generation_config.json";
  std::error_code ignored;
  if (std::filesystem::exists(generation, ignored)) add_generation_config(generation, report);
  add_end_of_turn(dir, report.config);
  return report;
}

result<model_config> load_model_config(const std::string& dir) {
  auto report = inspect_model_config(dir);
  if (report.faults.empty()) return std::move(report.config);
  return fail(errc::reject, "{}", fmt::join(report.faults, "\n"));
}

} // namespace hflex::gpu
