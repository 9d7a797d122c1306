#include "gpu/model/tensor_sources.hpp"
#include <algorithm>
#include <set>
#include <string>

namespace hflex::gpu {
namespace {

/// One checkpoint tensor that a packed tensor is made of.
struct ingredient {
  std::string name;
  std::uint32_t first_row{};
  std::vector<std::uint64_t> shape;
};

std::vector<ingredient> ingredients_of(const tensor_place& place, const model_config& c) {
  const std::string layer = fmt::format("model.layers.{}.", place.layer);
  const std::uint32_t q = c.heads * c.head_dim;
  const std::uint32_t kv = c.kv_heads * c.head_dim;
  switch (place.kind) {
  case tensor_kind::embedding:
    return {{"model.embed_tokens.weight", 0, {c.vocab, c.hidden}}};
  case tensor_kind::final_norm:
    return {{"model.norm.weight", 0, {c.hidden}}};
  case tensor_kind::attn_norm:
    return {{layer + "input_layernorm.weight", 0, {c.hidden}}};
  case tensor_kind::qkv:
    return {{layer + "self_attn.q_proj.weight", 0, {q, c.hidden}},
        {layer + "self_attn.k_proj.weight", q, {kv, c.hidden}},
        {layer + "self_attn.v_proj.weight", q + kv, {kv, c.hidden}}};
  case tensor_kind::o:
    return {{layer + "self_attn.o_proj.weight", 0, {c.hidden, q}}};
  case tensor_kind::mlp_norm:
    return {{layer + "post_attention_layernorm.weight", 0, {c.hidden}}};
  case tensor_kind::gate_up:
    return {{layer + "mlp.gate_proj.weight", 0, {c.intermediate, c.hidden}},
        {layer + "mlp.up_proj.weight", padded_width(c.intermediate), {c.intermediate, c.hidden}}};
  case tensor_kind::down:
    return {{layer + "mlp.down_proj.weight", 0, {c.hidden, c.intermediate}}};
  case tensor_kind::head:
    return {{c.tie_embeddings ? "model.embed_tokens.weight" : "lm_head.weight", 0, {c.vocab, c.hidden}}};
  case tensor_kind::qkv_bias:
    return {{layer + "self_attn.q_proj.bias", 0, {q}}, {layer + "self_attn.k_proj.bias", q, {kv}},
        {layer + "self_attn.v_proj.bias", q + kv, {kv}}};
  case tensor_kind::q_norm:
    return {{layer + "self_attn.q_norm.weight", 0, {c.head_dim}}};
  case tensor_kind::k_norm:
    return {{layer + "self_attn.k_norm.weight", 0, {c.head_dim}}};
  }
  return {};
}

/// Tensors that some checkpoints carry and that say nothing the configuration does not.
bool is_redundant(const std::string& name, const model_config& c) {
  return name.ends_with(".rotary_emb.inv_freq") || (c.tie_embeddings && name == "lm_head.weight");
}

constexpr std::size_t max_faults = 32;

/// Where a tensor keeps its row (see tensor_view::paired_rows).
std::size_t stored_row(std::uint32_t row, std::uint32_t paired_rows) {
  if (paired_rows == 0) return row;
  const std::uint32_t half = paired_rows / 2;
  const std::uint32_t in_head = row % paired_rows;
  return std::size_t{row - in_head} + 2 * (in_head % half) + in_head / half;
}

} // namespace

void tensor_source::stack(std::uint32_t first_row, std::uint32_t columns, const tensor_view& tensor) {
  std::uint64_t elements = 1;
  for (const auto n : tensor.shape) elements *= n;
  const auto rows = static_cast<std::uint32_t>(elements / columns);
  parts_.push_back({first_row, rows, tensor.data.size() / rows, tensor.data.data(), tensor.type, tensor.paired_rows});
}

source_row tensor_source::row(std::uint32_t index) const {
  for (const auto& p : parts_) {
    if (index < p.first || index - p.first >= p.rows) continue;
    return {p.data + stored_row(index - p.first, p.paired_rows) * p.row_bytes, p.type};
  }
  return {};
}

tensor_source tensor_source::excerpt(std::uint32_t first, std::uint32_t count) const {
  tensor_source out;
  for (auto p : parts_) {
    // Rows that are stored in pairs lie anywhere in their head.
    const std::uint32_t unit = std::max(1U, p.paired_rows);
    const auto begin = (std::max(first, p.first) - p.first) / unit * unit;
    const auto last = std::uint64_t{first} + count < p.first ? 0 : first + count - p.first;
    const auto end = std::min((last + unit - 1) / unit * unit, p.rows);
    if (begin >= end) continue;
    p.first += begin;
    p.rows = end - begin;
    p.data += begin * p.row_bytes;
    out.parts_.push_back(p);
  }
  return out;
}

std::uint64_t tensor_source::bytes() const {
  std::uint64_t sum = 0;
  for (const auto& p : parts_) sum += p.bytes().size();
  return sum;
}

result<tensor_source> tensor_source::read(const checkpoint& from, std::byte* room) const {
  tensor_source out = *this;
  for (auto& p : out.parts_) {
    if (auto ok = from.read(p.bytes(), room); !ok) return pass(ok.error());
    p.data = room;
    room += p.bytes().size();
  }
  return out;
}

void tensor_source::expect(const checkpoint& from) const {
  for (const auto& p : parts_) from.expect(p.bytes());
}

result<std::vector<tensor_source>> find_sources(const checkpoint& from, const region_layout& layout) {
  std::vector<tensor_source> sources;
  std::vector<std::string> faults;
  std::set<std::string> used;
  for (const auto& place : layout.tensors) {
    auto& source = sources.emplace_back();
    for (const auto& i : ingredients_of(place, from.config())) {
      used.insert(i.name);
      auto tensor = from.tensor(i.name);
      if (!tensor)
        faults.push_back(
            fmt::format("{}: missing, expected shape [{}]", from.name_in_file(i.name), fmt::join(i.shape, ", ")));
      else if (tensor->shape != i.shape)
        faults.push_back(fmt::format("{}: expected shape [{}], found [{}]", from.name_in_file(i.name),
            fmt::join(i.shape, ", "), fmt::join(tensor->shape, ", ")));
      else
        source.stack(i.first_row, place.columns, *tensor);
    }
  }
  for (const auto& name : from.names())
    if (!used.contains(name) && !is_redundant(name, from.config()))
      faults.push_back(fmt::format("{}: not a tensor of a {} model that this engine knows", from.name_in_file(name),
          from.config().architecture));
  if (faults.empty()) return sources;
  const std::size_t shown = std::min(faults.size(), max_faults);
  const std::string more = shown < faults.size() ? fmt::format("\nand {} more", faults.size() - shown) : "";
  return fail(errc::reject, "{}: {}{}", from.path(),
      fmt::join(faults.begin(), faults.begin() + static_cast<std::ptrdiff_t>(shown), "\n"), more);
}

} // namespace hflex::gpu
