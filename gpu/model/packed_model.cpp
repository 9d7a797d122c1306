#include "gpu/model/packed_model.hpp"
#include "actors/common/check.hpp"
#include "gpu/kernels/bf16.hpp"
#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <xxhash.h>

namespace hflex::gpu {
namespace {

std::optional<std::uint32_t> architecture_index(const model_config& c) {
  const auto known = known_architectures();
  const auto at = std::find(known.begin(), known.end(), c.architecture);
  return at == known.end() ? std::nullopt : std::optional(static_cast<std::uint32_t>(at - known.begin()));
}

bool sane(const rope_scaling& r) {
  if (r.type == rope_scaling::method::none) return true;
  if (!(r.factor >= 1.0F && std::isfinite(r.factor))) return false;
  if (r.type == rope_scaling::method::linear) return true;
  return r.low_freq_factor > 0.0F && r.high_freq_factor > r.low_freq_factor && std::isfinite(r.high_freq_factor) &&
         r.original_context >= 1;
}

result<void> check_supported(const model_config& c) {
  if (!architecture_index(c))
    return fail(
        errc::reject, "architecture {}: this engine runs {}", c.architecture, fmt::join(known_architectures(), ", "));
  const auto within = [](std::uint32_t value, std::uint32_t limit) { return value >= 1 && value <= limit; };
  if (!within(c.hidden, max_width) || !within(c.intermediate, max_width) || !within(c.layers, max_layers) ||
      !within(c.vocab, max_vocab) || !within(c.max_context, max_positions))
    return fail(errc::reject, "model shape out of range: hidden {}, intermediate {}, layers {}, vocab {}, context {}",
        c.hidden, c.intermediate, c.layers, c.vocab, c.max_context);
  if (c.head_dim == 0 || c.head_dim % 16 != 0 || c.head_dim > max_head_dim)
    return fail(errc::reject, "head_dim {}: expected a multiple of 16, at most {}", c.head_dim, max_head_dim);
  if (c.kv_heads == 0 || c.kv_heads > c.heads || c.heads % c.kv_heads != 0 || c.heads > max_width / c.head_dim)
    return fail(errc::reject, "heads {}, kv_heads {}: expected a whole number of query heads per key head", c.heads,
        c.kv_heads);
  if (!(c.rms_norm_eps >= 0.0F && c.rms_norm_eps < 1.0F) || !(c.rope_theta > 0.0F && std::isfinite(c.rope_theta)))
    return fail(errc::reject, "rms_norm_eps {}, rope_theta {}: out of range", c.rms_norm_eps, c.rope_theta);
  if (!sane(c.rope)) return fail(errc::reject, "rope_scaling: factor {} is out of range", c.rope.factor);
  return {};
}

class layout_builder {
public:
  void matrix(tensor_kind kind, std::uint32_t layer, std::uint32_t rows, std::uint32_t columns) {
    const packed_matrix m{nullptr, rows, columns};
    add(kind, layer, rows, columns, m.panels() * m.panel_elements() * sizeof(std::uint16_t));
  }
  void norm(tensor_kind kind, std::uint32_t layer, std::uint32_t width) {
    add(kind, layer, 1, width, std::uint64_t{padded_width(width)} * sizeof(float));
  }
  void bias(tensor_kind kind, std::uint32_t layer, std::uint32_t rows) {
    add(kind, layer, rows, 1, std::uint64_t{padded_width(rows)} * sizeof(float));
  }
  void add(tensor_kind kind, std::uint32_t layer, std::uint32_t rows, std::uint32_t columns, std::uint64_t bytes) {
    out_.tensors.push_back({kind, layer, rows, columns, 0, bytes});
  }
  region_layout finish() {
    std::uint64_t end = 0;
    for (auto& t : out_.tensors) {
      t.offset = (end + 63) / 64 * 64;
      end = t.offset + t.bytes;
    }
    out_.bytes = end; // without the head, which has a checksum for each chunk of this
    const std::uint64_t head =
        sizeof(region_header) + out_.tensors.size() * sizeof(region_entry) + out_.chunks() * sizeof(hash128);
    out_.head_bytes = (head + 4095) / 4096 * 4096; // chunks begin with a page
    out_.bytes += out_.head_bytes;
    for (auto& t : out_.tensors) t.offset += out_.head_bytes;
    return std::move(out_);
  }

private:
  region_layout out_;
};

} // namespace

result<region_layout> layout_region(const model_config& c) {
  if (auto ok = check_supported(c); !ok) return pass(ok.error());
  layout_builder build;
  if (!c.tie_embeddings)
    build.add(tensor_kind::embedding, 0, c.vocab, c.hidden, std::uint64_t{c.vocab} * c.hidden * sizeof(std::uint16_t));
  for (std::uint32_t layer = 0; layer < c.layers; ++layer) {
    build.norm(tensor_kind::attn_norm, layer, c.hidden);
    build.matrix(tensor_kind::qkv, layer, (c.heads + 2 * c.kv_heads) * c.head_dim, c.hidden);
    if (c.qkv_bias) build.bias(tensor_kind::qkv_bias, layer, (c.heads + 2 * c.kv_heads) * c.head_dim);
    if (c.qk_norm) {
      build.norm(tensor_kind::q_norm, layer, c.head_dim);
      build.norm(tensor_kind::k_norm, layer, c.head_dim);
    }
    build.matrix(tensor_kind::o, layer, c.hidden, c.heads * c.head_dim);
    build.norm(tensor_kind::mlp_norm, layer, c.hidden);
    build.matrix(tensor_kind::gate_up, layer, 2 * padded_width(c.intermediate), c.hidden);
    build.matrix(tensor_kind::down, layer, c.hidden, c.intermediate);
  }
  build.norm(tensor_kind::final_norm, 0, c.hidden);
  build.matrix(tensor_kind::head, 0, c.vocab, c.hidden);
  return build.finish();
}

result<region_config> to_region_config(const model_config& c) {
  if (c.eos.size() > max_eos_tokens)
    return fail(errc::reject, "eos_token_id: {} tokens, at most {} are supported", c.eos.size(), max_eos_tokens);
  const auto architecture = architecture_index(c);
  if (!architecture) return fail(errc::reject, "architecture {}: not known", c.architecture);
  region_config out{c.hidden, c.intermediate, c.layers, c.heads, c.kv_heads, c.head_dim, c.vocab, c.max_context,
      c.rms_norm_eps, c.rope_theta, c.tie_embeddings ? 1U : 0U, c.bos, *architecture, c.qkv_bias ? 1U : 0U,
      c.qk_norm ? 1U : 0U, static_cast<std::uint32_t>(c.rope.type), c.rope.factor, c.rope.low_freq_factor,
      c.rope.high_freq_factor, c.rope.original_context, static_cast<std::uint32_t>(c.eos.size()), {}};
  for (std::size_t i = 0; i < c.eos.size(); ++i) out.eos[i] = c.eos[i];
  return out;
}

result<model_config> to_model_config(const region_config& c) {
  const auto inside = [&](std::int32_t token) { return token >= 0 && static_cast<std::uint32_t>(token) < c.vocab; };
  const auto architectures = known_architectures();
  if (c.tie_embeddings > 1 || c.qkv_bias > 1 || c.qk_norm > 1 || c.architecture >= architectures.size() ||
      c.rope_type > static_cast<std::uint32_t>(rope_scaling::method::llama3) || c.eos_count > max_eos_tokens ||
      (c.bos != -1 && !inside(c.bos)))
    return fail(errc::reject, "weight region: the configuration is damaged");
  model_config out{std::string(architectures[c.architecture]), c.hidden, c.intermediate, c.layers, c.heads, c.kv_heads,
      c.head_dim, c.vocab, c.max_context, c.rms_norm_eps, c.rope_theta, c.tie_embeddings == 1, c.qkv_bias == 1, c.bos,
      {}, c.qk_norm == 1,
      {static_cast<rope_scaling::method>(c.rope_type), c.rope_factor, c.rope_low_freq_factor, c.rope_high_freq_factor,
          c.rope_original_context},
      0};
  for (std::uint32_t i = 0; i < c.eos_count; ++i) {
    if (!inside(c.eos[i])) return fail(errc::reject, "weight region: end token {} is outside the vocabulary", c.eos[i]);
    out.eos.push_back(c.eos[i]);
  }
  return out;
}

hash128 checksum_of(std::span<const std::byte> bytes) {
  const XXH128_hash_t h = XXH3_128bits(bytes.data(), bytes.size());
  return {h.low64, h.high64};
}

std::array<char, 32> digest_of(
    const region_config& config, std::span<const region_entry> entries, std::span<const hash128> sums) {
  // The structs have no padding bytes (see the static_assert), so their memory is their value.
  std::vector<std::byte> text(sizeof region_version + sizeof config + entries.size_bytes() + sums.size_bytes());
  std::byte* at = text.data();
  const auto put = [&at](const void* from, std::size_t bytes) {
    std::memcpy(at, from, bytes);
    at += bytes;
  };
  put(&region_version, sizeof region_version);
  put(&config, sizeof config);
  put(entries.data(), entries.size_bytes());
  put(sums.data(), sums.size_bytes());
  const hash128 h = checksum_of(text);
  std::array<char, 32> hex{};
  const auto digit = [](std::uint64_t nibble) { return "0123456789abcdef"[nibble & 15U]; };
  for (unsigned i = 0; i < 16; ++i) {
    hex[i] = digit(h.high >> (60 - 4 * i));
    hex[16 + i] = digit(h.low >> (60 - 4 * i));
  }
  return hex;
}

packed_model::packed_model(const weight_region& region) {
  const std::byte* base = region.data().data();
  region_header header;
  std::memcpy(&header, base, sizeof header);
  auto config = to_model_config(header.config);
  HFLEX_CHECK(config.has_value());
  config_ = std::move(*config);
  const auto layout = layout_region(config_);
  HFLEX_CHECK(layout.has_value() && layout->bytes == region.bytes());
  layers_.resize(config_.layers);
  for (const auto& t : layout->tensors) {
    const auto* f32 = reinterpret_cast<const float*>(base + t.offset);
    const auto* bf16 = reinterpret_cast<const std::uint16_t*>(base + t.offset);
    const packed_matrix matrix{bf16, t.rows, t.columns};
    auto& at = layers_[t.layer];
    switch (t.kind) {
    case tensor_kind::embedding:
      embedding_ = bf16;
      break;
    case tensor_kind::final_norm:
      final_norm_ = f32;
      break;
    case tensor_kind::attn_norm:
      at.attn_norm = f32;
      break;
    case tensor_kind::qkv:
      at.qkv = matrix;
      break;
    case tensor_kind::o:
      at.o = matrix;
      break;
    case tensor_kind::mlp_norm:
      at.mlp_norm = f32;
      break;
    case tensor_kind::gate_up:
      at.gate_up = matrix;
      break;
    case tensor_kind::down:
      at.down = matrix;
      break;
    case tensor_kind::head:
      head_ = matrix;
      break;
    case tensor_kind::qkv_bias:
      at.qkv_bias = f32;
      break;
    case tensor_kind::q_norm:
      at.q_norm = f32;
      break;
    case tensor_kind::k_norm:
      at.k_norm = f32;
      break;
    }
  }
}

void packed_model::embed(token_id token, float* out) const {
  const auto row = static_cast<std::uint32_t>(token);
  if (embedding_ != nullptr) {
    const std::uint16_t* from = embedding_ + std::size_t{row} * config_.hidden;
    for (std::uint32_t i = 0; i < config_.hidden; ++i) out[i] = bf16_to_f32(from[i]);
    return;
  }
  const std::uint16_t* column = head_.panel(row / panel_columns) + std::size_t{row % panel_columns} * 2;
  for (std::uint32_t i = 0; i < config_.hidden; ++i)
    out[i] = bf16_to_f32(column[std::size_t{i / 2} * panel_columns * 2 + i % 2]);
}

} // namespace hflex::gpu
