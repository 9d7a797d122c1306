#include "gpu/model/model_info.hpp"
#include "gpu/model/checkpoint.hpp"
#include "gpu/model/gguf_model.hpp"
#include "gpu/model/json_file.hpp"
#include "gpu/model/safetensors.hpp"
#include "gpu/model/tokenizer.hpp"
#include <algorithm>
#include <filesystem>
#include <set>

namespace hflex::gpu {
namespace {

namespace fs = std::filesystem;

void add_layer(const model_config& c, std::uint32_t layer, std::vector<expected_tensor>& out) {
  const auto prefix = fmt::format("model.layers.{}.", layer);
  const std::uint64_t hidden = c.hidden;
  const std::uint64_t queries = std::uint64_t{c.heads} * c.head_dim;
  const std::uint64_t keys = std::uint64_t{c.kv_heads} * c.head_dim;
  const auto projection = [&](const char* name, std::uint64_t rows, std::uint64_t columns, bool bias) {
    out.push_back({fmt::format("{}self_attn.{}_proj.weight", prefix, name), {rows, columns}});
    if (bias) out.push_back({fmt::format("{}self_attn.{}_proj.bias", prefix, name), {rows}});
  };
  out.push_back({prefix + "input_layernorm.weight", {hidden}});
  projection("q", queries, hidden, c.qkv_bias);
  projection("k", keys, hidden, c.qkv_bias);
  projection("v", keys, hidden, c.qkv_bias);
  if (c.qk_norm) {
    out.push_back({prefix + "self_attn.q_norm.weight", {c.head_dim}});
    out.push_back({prefix + "self_attn.k_norm.weight", {c.head_dim}});
  }
  projection("o", hidden, queries, false);
  out.push_back({prefix + "post_attention_layernorm.weight", {hidden}});
  out.push_back({prefix + "mlp.gate_proj.weight", {c.intermediate, hidden}});
  out.push_back({prefix + "mlp.up_proj.weight", {c.intermediate, hidden}});
  out.push_back({prefix + "mlp.down_proj.weight", {hidden, c.intermediate}});
}

/// Tensors that some checkpoints carry although nothing reads them: rotary frequencies follow from the configuration,
/// and a tied lm_head is the embedding once more.
bool is_harmless(std::string_view name, const model_config& config) {
  return name.ends_with(".rotary_emb.inv_freq") || (config.tie_embeddings && name == "lm_head.weight");
}

/// How faults name the parts of a model.
struct part_names {
  std::string tensors;   ///< where the tensors are
  std::string config;    ///< what says which ones there must be
  std::string tokenizer; ///< where the tokens are
  bool gguf{};
  std::string tensor(const std::string& name) const { return printable(gguf ? gguf_tensor_name(name) : name); }
};

void check_tensors(
    const part_names& in, const model_config& config, const tensor_map& tensors, std::vector<std::string>& faults) {
  std::set<std::string, std::less<>> wanted;
  for (const auto& want : expected_tensors(config)) {
    const auto found = tensors.find(want.name);
    if (found == tensors.end()) {
      faults.push_back(fmt::format("{}: tensor {} is missing; {} asks for it with shape [{}]", in.tensors,
          in.tensor(want.name), in.config, fmt::join(want.shape, ", ")));
    } else if (found->second.shape != want.shape) {
      faults.push_back(fmt::format("{}: tensor {} has shape [{}]; {} asks for [{}]", in.tensors, in.tensor(want.name),
          fmt::join(found->second.shape, ", "), in.config, fmt::join(want.shape, ", ")));
    }
    wanted.insert(want.name);
  }
  for (const auto& item : tensors) {
    if (wanted.count(item.first) != 0 || is_harmless(item.first, config)) continue;
    faults.push_back(fmt::format(
        "{}: tensor {} has no place in the model that {} describes", in.tensors, in.tensor(item.first), in.config));
  }
}

void check_vocabulary(
    const part_names& in, const model_config& config, const tokenizer& words, std::vector<std::string>& faults) {
  if (words.vocab_size() > config.vocab) {
    faults.push_back(fmt::format("{}: has ids up to {}, but {}: vocab_size is {}", in.tokenizer, words.vocab_size() - 1,
        in.config, config.vocab));
  }
  for (const auto id : config.eos) {
    if (!words.bytes_of(id).empty()) continue;
    faults.push_back(fmt::format("{}: has no token for eos_token_id {}", in.tokenizer, id));
  }
}

void check_tokenizer(
    const std::string& model, const part_names& in, const model_config* config, std::vector<std::string>& faults) {
  const auto words = tokenizer::load(model);
  if (!words) faults.push_back(words.error().message);
  if (words && config != nullptr) check_vocabulary(in, *config, **words, faults);
}

std::vector<std::string> check_gguf(const std::string& path) {
  const auto opened = open_gguf(path);
  if (!opened) return {opened.error().message};
  auto report = gguf_config(opened->content, path);
  const bool good = report.faults.empty();
  const part_names names{path, "the metadata", path, true};
  if (good) check_tensors(names, report.config, huggingface_tensors(opened->content, report.config), report.faults);
  check_tokenizer(path, names, good ? &report.config : nullptr, report.faults);
  return std::move(report.faults);
}

std::vector<std::string> check_directory(const std::string& dir) {
  auto faults = missing_model_files(dir, needs_tokenizer::yes);
  std::error_code ignored;
  const auto has = [&](const char* name) { return fs::exists(dir + "/" + name, ignored); };
  const part_names names{dir, "config.json", dir + "/tokenizer.json", false};

  const auto report = has("config.json") ? inspect_model_config(dir) : config_report{};
  faults.insert(faults.end(), report.faults.begin(), report.faults.end());
  const bool config_good = has("config.json") && report.faults.empty();

  if (has("model.safetensors") || has("model.safetensors.index.json")) {
    const auto before = faults.size();
    const auto weights = open_tensor_files(dir, faults);
    // Tensors that the header lists but that could not be understood have been named; "missing" would name them
    // wrongly.
    if (config_good && faults.size() == before) check_tensors(names, report.config, weights.tensors, faults);
  }
  if (has("tokenizer.json")) check_tokenizer(dir, names, config_good ? &report.config : nullptr, faults);
  return faults;
}

std::vector<model_summary::file_size> list_files(const std::string& dir) {
  std::vector<model_summary::file_size> files;
  std::error_code ignored;
  if (fs::is_regular_file(dir, ignored)) return {{fs::path(dir).filename().string(), fs::file_size(dir, ignored)}};
  for (fs::directory_iterator at(dir, ignored), end; at != end; at.increment(ignored)) {
    if (at->is_regular_file(ignored)) files.push_back({at->path().filename().string(), at->file_size(ignored)});
  }
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return files;
}

} // namespace

std::vector<expected_tensor> expected_tensors(const model_config& config) {
  std::vector<expected_tensor> out;
  out.push_back({"model.embed_tokens.weight", {config.vocab, config.hidden}});
  for (std::uint32_t layer = 0; layer < config.layers; ++layer) add_layer(config, layer, out);
  out.push_back({"model.norm.weight", {config.hidden}});
  if (!config.tie_embeddings) out.push_back({"lm_head.weight", {config.vocab, config.hidden}});
  return out;
}

result<model_summary> summarize_model(const std::string& path) {
  const auto model = checkpoint::open(path);
  if (!model) return pass(model.error());
  const auto words = tokenizer::load(path);
  if (!words) return pass(words.error());

  model_summary out;
  out.config = model->config();
  out.parameters = model->parameters();
  const auto names = model->names();
  out.tensors = names.size();
  for (const auto type : all_dtypes) {
    model_summary::dtype_share share{type};
    for (const auto& name : names) {
      const auto view = model->tensor(name);
      if (!view || view->type != type) continue;
      share.tensors += 1;
      share.bytes += view->data.size();
    }
    if (share.tensors != 0) out.dtypes.push_back(share);
  }
  out.files = list_files(path);
  out.tokenizer_vocab = (*words)->vocab_size();
  constexpr std::uint64_t bf16_bytes = bytes_of(dtype::bf16);
  for (const auto& want : expected_tensors(out.config)) {
    std::uint64_t elements = 1;
    for (const auto n : want.shape) elements *= n; // cannot overflow: model_config bounds every size
    out.weights_bytes += elements * bf16_bytes;
  }
  out.kv_bytes_per_token = 2 * bf16_bytes * out.config.layers * out.config.kv_heads * out.config.head_dim;
  return out;
}

std::vector<std::string> check_model(const std::string& model) {
  const auto gguf = gguf_path_of(model);
  if (!gguf) return {gguf.error().message};
  return *gguf ? check_gguf(**gguf) : check_directory(model);
}

} // namespace hflex::gpu
