// Small GGUF files for tests: written field by field, and the demo model as llama.cpp's converter would write it.
#pragma once
#include "gpu/kernels/bf16.hpp"
#include "gpu/kernels/decode_weights.hpp"
#include "gpu/model/checkpoint.hpp"
#include "gpu/model/gguf.hpp"
#include "tests/support/model_dir.hpp"
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

namespace hflex::test {

/// The bytes of one value, little-endian.
template <class T>
std::string raw(T value) {
  std::string out(sizeof value, '\0');
  std::memcpy(out.data(), &value, sizeof value);
  return out;
}

inline std::string raw_text(std::string_view text) { return raw<std::uint64_t>(text.size()) + std::string(text); }

/// Puts a file together in the order of the calls. Nothing is checked: tests write nonsense with it too.
class gguf_writer {
public:
  gguf_writer& value(std::string_view key, gpu::gguf_type type, const std::string& bytes) {
    metadata_ += raw_text(key) + raw(static_cast<std::uint32_t>(type)) + bytes;
    ++keys_;
    return *this;
  }
  gguf_writer& text(std::string_view key, std::string_view value_) {
    return value(key, gpu::gguf_type::string, raw_text(value_));
  }
  gguf_writer& natural(std::string_view key, std::uint32_t n) { return value(key, gpu::gguf_type::u32, raw(n)); }
  gguf_writer& real(std::string_view key, float x) { return value(key, gpu::gguf_type::f32, raw(x)); }
  gguf_writer& flag(std::string_view key, bool b) {
    return value(key, gpu::gguf_type::boolean, raw<std::uint8_t>(b ? 1 : 0));
  }
  gguf_writer& list(std::string_view key, gpu::gguf_type element, std::uint64_t count, const std::string& bytes) {
    return value(key, gpu::gguf_type::array, raw(static_cast<std::uint32_t>(element)) + raw(count) + bytes);
  }
  gguf_writer& texts(std::string_view key, const std::vector<std::string>& items) {
    std::string bytes;
    for (const auto& item : items) bytes += raw_text(item);
    return list(key, gpu::gguf_type::string, items.size(), bytes);
  }
  gguf_writer& integers(std::string_view key, const std::vector<std::int32_t>& items) {
    std::string bytes;
    for (const auto item : items) bytes += raw(item);
    return list(key, gpu::gguf_type::i32, items.size(), bytes);
  }

  /// `shape` is [rows, columns]; the data lie behind those of the tensor before, aligned.
  gguf_writer& tensor(
      std::string_view name, const std::vector<std::uint64_t>& shape, std::uint32_t type, std::string_view data) {
    tensor_at(name, shape, type, data_.size());
    data_ += data;
    data_.resize((data_.size() + alignment_ - 1) / alignment_ * alignment_);
    return *this;
  }
  gguf_writer& tensor_at(
      std::string_view name, const std::vector<std::uint64_t>& shape, std::uint32_t type, std::uint64_t offset) {
    list_ += raw_text(name) + raw(static_cast<std::uint32_t>(shape.size()));
    for (auto n = shape.rbegin(); n != shape.rend(); ++n) list_ += raw(*n);
    list_ += raw(type) + raw(offset);
    ++tensors_;
    return *this;
  }
  /// Call it before tensors; writes the key too.
  gguf_writer& align(std::uint32_t alignment) {
    alignment_ = alignment;
    return natural("general.alignment", alignment);
  }
  gguf_writer& version(std::uint32_t number) {
    version_ = number;
    return *this;
  }

  std::string header() const { return "GGUF" + raw(version_) + raw(tensors_) + raw(keys_) + metadata_ + list_; }
  std::string bytes() const {
    auto out = header();
    out.resize((out.size() + alignment_ - 1) / alignment_ * alignment_);
    return out + data_;
  }

private:
  std::uint32_t version_{3};
  std::uint64_t keys_{0};
  std::uint64_t tensors_{0};
  std::size_t alignment_{32};
  std::string metadata_, list_, data_;
};

/// ggml's code of a type.
inline std::uint32_t code_of(gpu::dtype type) {
  constexpr std::array<std::uint32_t, gpu::all_dtypes.size()> codes{0, 1, 30, 2, 3, 6, 7, 8, 12, 13, 14};
  return codes[static_cast<std::size_t>(type)];
}

/// The nearest f16 of a number that f16 has in its normal range; towards zero below it.
inline std::uint16_t to_f16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>(bits >> 16U & 0x8000U);
  const auto magnitude = bits & 0x7fffffffU;
  if (magnitude < 0x38800000U) return sign;
  return static_cast<std::uint16_t>(sign | ((magnitude + 0xfffU + (magnitude >> 13U & 1U) - 0x38000000U) >> 13U));
}

/// One block of 32 (q8_0, q4_0, q4_1), rounded to nearest.
inline std::string quantized_block(gpu::dtype type, const float* x) {
  const auto [low, high] = std::minmax_element(x, x + 32);
  const float top = std::max(std::abs(*low), std::abs(*high));
  const bool small = type != gpu::dtype::q8_0;
  const bool shifted = type == gpu::dtype::q4_1;
  const float step = shifted ? (*high - *low) / 15.0F : top / (small ? 7.0F : 127.0F);
  const auto d = to_f16(step);
  const auto m = to_f16(*low);
  const float scale = gpu::f16_to_f32(d);
  const auto quantum = [&](unsigned i) {
    const float q = scale == 0.0F ? 0.0F : std::nearbyint((x[i] - (shifted ? gpu::f16_to_f32(m) : 0.0F)) / scale);
    if (!small) return static_cast<int>(std::clamp(q, -127.0F, 127.0F));
    return static_cast<int>(std::clamp(q + (shifted ? 0.0F : 8.0F), 0.0F, 15.0F));
  };
  std::string out = raw(d) + (shifted ? raw(m) : "");
  for (unsigned i = 0; i < (small ? 16U : 32U); ++i)
    out += static_cast<char>(small ? quantum(i) | quantum(i + 16) << 4 : quantum(i));
  return out;
}

/// `values` as a file of that type stores them. f32, bf16, q8_0, q4_0 and q4_1.
inline std::string encoded(gpu::dtype type, const std::vector<float>& values) {
  std::string out;
  for (std::size_t i = 0; i < values.size(); i += gpu::elements_of(type)) {
    if (type == gpu::dtype::f32)
      out += raw(values[i]);
    else if (type == gpu::dtype::bf16)
      out += raw(gpu::f32_to_bf16(values[i]));
    else
      out += quantized_block(type, &values[i]);
  }
  return out;
}

inline std::vector<float> decoded(gpu::dtype type, std::string_view bytes) {
  std::vector<float> out(bytes.size() / gpu::bytes_of(type) * gpu::elements_of(type));
  gpu::decode_weights(type, reinterpret_cast<const std::byte*>(bytes.data()), out);
  return out;
}

/// llama.cpp's name of a tensor of Hugging Face's Llama models.
inline std::string converted_name(std::string name) {
  static const std::vector<std::pair<std::string, std::string>> parts{{"model.layers.", "blk."},
      {"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"},
      {"input_layernorm", "attn_norm"}, {"post_attention_layernorm", "ffn_norm"}, {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"}, {"self_attn.v_proj", "attn_v"}, {"self_attn.o_proj", "attn_output"},
      {"mlp.gate_proj", "ffn_gate"}, {"mlp.up_proj", "ffn_up"}, {"mlp.down_proj", "ffn_down"}};
  for (const auto& [from, to] : parts) {
    if (const auto at = name.find(from); at != name.npos) name.replace(at, from.size(), to);
  }
  return name;
}

/// Rows of [heads][2][head / 2] as [heads][head / 2][2], which is what the converter does to queries and keys.
inline std::vector<float> interleaved(const std::vector<float>& values, std::size_t head, std::size_t columns) {
  std::vector<float> out;
  for (std::size_t first = 0; first < values.size() / columns; first += head) {
    for (std::size_t i = 0; i < head; ++i) {
      const auto* row = &values[(first + i / 2 + i % 2 * (head / 2)) * columns];
      out.insert(out.end(), row, row + columns);
    }
  }
  return out;
}

/// The demo model's metadata and tokenizer.
inline gguf_writer demo_metadata() {
  gguf_writer out;
  out.text("general.architecture", "llama").text("general.name", "austen").natural("general.quantization_version", 2);
  out.natural("llama.block_count", 6).natural("llama.context_length", 1024).natural("llama.embedding_length", 192);
  out.natural("llama.feed_forward_length", 512).natural("llama.attention.head_count", 6);
  out.natural("llama.attention.head_count_kv", 2).natural("llama.rope.dimension_count", 32);
  out.real("llama.rope.freq_base", 10000.0F).real("llama.attention.layer_norm_rms_epsilon", 1e-5F);
  const auto file = nlohmann::json::parse(slurp(demo_model() + "/tokenizer.json"));
  const auto& vocab = file["model"]["vocab"];
  std::vector<std::string> words(2048);
  std::vector<std::int32_t> types(2048, 1);
  for (const auto& item : vocab.items()) words[item.value().get<std::size_t>()] = item.key();
  for (const auto& item : file["added_tokens"]) {
    words[item["id"].get<std::size_t>()] = item["content"].get<std::string>();
    types[item["id"].get<std::size_t>()] = 3;
  }
  std::vector<std::string> merges;
  for (const auto& merge : file["model"]["merges"]) {
    merges.push_back(
        merge.is_string() ? merge.get<std::string>() : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  out.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "llama-bpe");
  out.texts("tokenizer.ggml.tokens", words).integers("tokenizer.ggml.token_type", types);
  out.texts("tokenizer.ggml.merges", merges).natural("tokenizer.ggml.bos_token_id", 0);
  out.natural("tokenizer.ggml.eos_token_id", 1).text("tokenizer.chat_template", "{{ messages }}");
  return out;
}

/// Adds the demo model's tensors: norms as f32, matrices as `type` after `change` (identity when empty).
inline gguf_writer& add_demo_tensors(
    gguf_writer& out, gpu::dtype type, const std::function<std::vector<float>(std::vector<float>)>& change = {}) {
  const auto from = gpu::checkpoint::open(demo_model()).value();
  for (const auto& name : from.names()) {
    const auto tensor = from.tensor(name).value();
    auto values = decoded(tensor.type, {reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size()});
    const bool matrix = tensor.shape.size() == 2;
    const bool paired = name.find("q_proj") != name.npos || name.find("k_proj") != name.npos;
    if (paired) values = interleaved(values, from.config().head_dim, tensor.shape[1]);
    if (matrix && change) values = change(std::move(values));
    const auto stored = matrix ? type : gpu::dtype::f32;
    out.tensor(converted_name(name), tensor.shape, code_of(stored), encoded(stored, values));
  }
  return out;
}

/// The whole demo model as one GGUF file.
inline std::string demo_gguf(gpu::dtype type) {
  auto out = demo_metadata();
  return add_demo_tensors(out, type).bytes();
}

} // namespace hflex::test
