#include "gpu/model/llama.hpp"
#include "actors/common/check.hpp"
#include "gpu/model/rope.hpp"
#include "gpu/model/step_rules.hpp"
#include "gpu/model/weight_groups.hpp"
#include <algorithm>
#include <chrono>
#include <cmath>

namespace hflex::gpu {
namespace {

/// Rows that go through the MLP at a time: its buffers are the widest, and 256 rows already amortise the weights.
constexpr std::uint32_t mlp_block = 256;
/// Rows whose logits exist at a time: a row of a large vocabulary is half a megabyte.
constexpr std::uint32_t logit_block = 32;
/// Rows of one piece of row-wise work: large enough to pay for being claimed.
constexpr std::uint32_t row_block = 8;
/// Weight bytes times rows below which a piece of a product is not worth claiming (some microseconds).
constexpr std::uint64_t matmul_piece = 96U << 10U;
/// Activations that one piece of a product reads again and again: they should stay in the second-level cache.
constexpr std::uint64_t matmul_x_bytes = 512U << 10U;

constexpr std::uint32_t max_threads = 1024;

std::vector<chunk_range> groups_of(const weight_region& weights) {
  if (!weights.arrival()) return {};
  const auto layout = layout_region(packed_model(weights).config());
  HFLEX_CHECK(layout.has_value()); // packed_model has seen to that
  return weight_groups(*layout);
}

} // namespace

result<std::unique_ptr<llama>> llama::make(
    std::shared_ptr<const weight_region> weights, const host_context_options& options) {
  if (!weights) return fail(errc::reject, "no weights");
  if (auto ok = check_step_size(options.max_batched_tokens); !ok) return pass(ok.error());
  if (options.threads > max_threads)
    return fail(errc::reject, "threads {}: expected at most {}", options.threads, max_threads);
  const std::uint32_t threads = options.threads != 0 ? options.threads : usable_cores();
  auto kernels = select_kernels(options.isa, options.compute);
  if (!kernels) return pass(kernels.error());
  if (options.block_size % kv_strip != 0)
    return fail(errc::reject, "block_size {}: the CPU device takes multiples of {}", options.block_size, kv_strip);
  auto geometry = plan_kv_pool(packed_model(*weights).config(), options);
  if (!geometry) return pass(geometry.error());
  auto kv = kv_pool::allocate(*geometry);
  if (!kv) return pass(kv.error());
  std::unique_ptr<llama> made(new llama(std::move(weights), *kernels, std::move(*kv), threads, options));
  if (auto ok = made->allocate_work_space(); !ok) return pass(ok.error());
  return made;
}

llama::llama(std::shared_ptr<const weight_region> weights, const kernel_set& kernels, kv_pool kv, std::uint32_t threads,
    const host_context_options& options)
    : weights_(std::move(weights)), arrival_(weights_->arrival()), groups_(groups_of(*weights_)),
      patience_(options.weights_patience), whole_(arrival_ == nullptr), model_(*weights_), kernels_(kernels),
      kv_(std::move(kv)), threads_(std::make_unique<thread_pool>(threads)), max_rows_(options.max_batched_tokens),
      mlp_rows_(std::min(max_rows_, mlp_block)), logit_rows_(std::min(max_rows_, logit_block)),
      inverse_frequency_(rope_frequencies(config())), samplers_(threads) {}

result<void> llama::allocate_work_space() {
  const model_config& c = config();
  std::uint64_t end = 0;
  const auto take = [&](std::uint64_t rows, std::uint64_t width, std::uint64_t element_bytes) {
    const std::uint64_t at = end;
    end += (rows * width * element_bytes + 63) / 64 * 64;
    return at;
  };
  const std::uint32_t activation = kernels_.activation_bytes;
  const std::uint32_t hidden = padded_width(c.hidden);
  const std::uint64_t scratch = attention_scratch_bytes(c.heads / c.kv_heads, c.head_dim);
  const auto x = take(max_rows_, hidden, sizeof(float));
  const auto normed = take(max_rows_, hidden, activation);
  const auto qkv = take(max_rows_, padded_width((c.heads + 2 * c.kv_heads) * c.head_dim), sizeof(float));
  const auto attended = take(max_rows_, padded_width(c.heads * c.head_dim), activation);
  const auto cos_sin = take(max_rows_, std::uint64_t{2} * c.head_dim, sizeof(float));
  const auto gate_up = take(mlp_rows_, std::uint64_t{2} * padded_width(c.intermediate), sizeof(float));
  const auto activated = take(mlp_rows_, padded_width(c.intermediate), activation);
  const auto logits = take(logit_rows_, padded_width(c.vocab), sizeof(float));
  const auto attention = take(threads(), scratch, 1);
  auto memory = host_memory::allocate(end);
  if (!memory) return fail(memory.error().code, "work space: {}", memory.error().message);
  memory->touch(); // steps must not pay for it
  std::byte* base = memory->data();
  const auto floats = [&](std::uint64_t at) { return reinterpret_cast<float*>(base + at); };
  work_ = {std::move(*memory), floats(x), base + normed, floats(qkv), base + attended, floats(cos_sin), floats(gate_up),
      base + activated, floats(logits), base + attention};
  rows_.reserve(max_rows_);
  pieces_.reserve(max_rows_);
  last_row_.reserve(max_rows_);
  return {};
}

/// A group of weights (weight_groups.hpp) may be read when this is well.
result<void> llama::wait_for(std::size_t group) {
  whole_ = whole_ || arrival_->whole();
  if (whole_) return {};
  const auto begin = std::chrono::steady_clock::now();
  auto here = arrival_->wait(groups_[group], patience_, stopped_);
  waited_ += std::chrono::steady_clock::now() - begin;
  return here;
}

void llama::stop_waiting() {
  stopped_ = true;
  if (arrival_) arrival_->wake();
}

std::uint64_t llama::memory_bytes() const {
  return weights_->bytes() + kv_.geometry().pool_bytes() + work_.memory.size();
}

result<void> llama::check(const step_plan& plan) const { return check_step(config(), kv_.geometry(), max_rows_, plan); }

template <class Body>
void llama::for_rows(std::uint32_t rows, const Body& body) {
  threads_->parallel_for((rows + row_block - 1) / row_block, [&](std::uint32_t block, std::uint32_t thread) {
    body(block * row_block, std::min(rows, (block + 1) * row_block), thread);
  });
}

void llama::multiply(const packed_matrix& w, const void* x, std::uint32_t rows, float* y, bool accumulate) {
  const std::size_t x_stride = padded_width(w.k);
  const matmul_args args{x, x_stride, w, y, padded_width(w.n), accumulate};
  // A piece is some panels of a block of rows. Panels vary fastest: neighbouring pieces share their activations.
  const std::uint64_t cached_rows = matmul_x_bytes / (x_stride * kernels_.activation_bytes);
  const auto height = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(cached_rows / 6 * 6, 24, 192));
  const std::uint32_t row_blocks = (rows + height - 1) / height;
  const std::uint64_t panel_work = w.panel_elements() * sizeof(std::uint16_t) * std::min(rows, height);
  const auto width = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(matmul_piece / panel_work, 1, w.panels()));
  const std::uint32_t strips = (w.panels() + width - 1) / width;
  threads_->parallel_for(row_blocks * strips, [&](std::uint32_t piece, std::uint32_t) {
    const std::uint32_t begin = piece / strips * height;
    const std::uint32_t first = piece % strips * width;
    for (std::uint32_t p = first; p < std::min(first + width, w.panels()); ++p)
      kernels_.matmul(args, p, begin, std::min(rows, begin + height));
  });
}

void llama::lay_out(const step_plan& plan) {
  rows_.clear();
  pieces_.clear();
  last_row_.clear();
  const std::uint32_t most = attention_tokens(config().heads / config().kv_heads);
  for (std::uint32_t i = 0; i < plan.items.size(); ++i) {
    const step_item& item = plan.items[i];
    const auto count = static_cast<std::uint32_t>(item.tokens.size());
    const auto row = static_cast<std::uint32_t>(rows_.size());
    for (std::uint32_t t = 0; t < count; t += most)
      pieces_.push_back({i, row + t, item.position + t, std::min(most, count - t)});
    for (std::uint32_t t = 0; t < count; ++t) rows_.push_back({i, item.position + t});
    last_row_.push_back(row + count - 1);
  }
  // Pieces are claimed in order: the longest first, so that none is left running alone at the end.
  std::stable_sort(pieces_.begin(), pieces_.end(), [](const attention_piece& a, const attention_piece& b) {
    return std::uint64_t{a.position + a.tokens} * a.tokens > std::uint64_t{b.position + b.tokens} * b.tokens;
  });
}

void llama::embed(const step_plan& plan) {
  const std::uint32_t dim = config().head_dim;
  const std::size_t stride = padded_width(config().hidden);
  for_rows(static_cast<std::uint32_t>(rows_.size()), [&](std::uint32_t begin, std::uint32_t end, std::uint32_t) {
    for (std::uint32_t r = begin; r < end; ++r) {
      const step_item& item = plan.items[rows_[r].item];
      model_.embed(item.tokens[rows_[r].position - item.position], work_.x + r * stride);
      float* cosines = work_.cos_sin + std::size_t{r} * 2 * dim;
      float* sines = cosines + dim;
      for (std::uint32_t i = 0; i < dim / 2; ++i) {
        const auto angle = static_cast<double>(static_cast<float>(rows_[r].position) * inverse_frequency_[i]);
        cosines[i] = cosines[i + dim / 2] = static_cast<float>(std::cos(angle));
        sines[i + dim / 2] = static_cast<float>(std::sin(angle));
        sines[i] = -sines[i + dim / 2];
      }
    }
  });
}

void llama::normalize(const float* weight) {
  const std::uint32_t hidden = config().hidden;
  const std::size_t stride = padded_width(hidden);
  for_rows(static_cast<std::uint32_t>(rows_.size()), [&](std::uint32_t begin, std::uint32_t end, std::uint32_t) {
    for (std::uint32_t r = begin; r < end; ++r)
      kernels_.rmsnorm(work_.x + r * stride, weight, hidden, config().rms_norm_eps,
          work_.normed + r * stride * kernels_.activation_bytes);
  });
}

/// What a family does to a row of q, k and v between the product and the rotation.
void llama::finish_qkv(const packed_model::layer& weights, float* qkv) {
  const model_config& c = config();
  if (weights.qkv_bias != nullptr) kernels_.add(qkv, weights.qkv_bias, (c.heads + 2 * c.kv_heads) * c.head_dim);
  if (weights.q_norm == nullptr) return;
  kernels_.norm_heads(qkv, weights.q_norm, c.heads, c.head_dim, c.rms_norm_eps);
  kernels_.norm_heads(qkv + std::size_t{c.heads} * c.head_dim, weights.k_norm, c.kv_heads, c.head_dim, c.rms_norm_eps);
}

/// Finishes and rotates q and k of every row in place and puts k and v into the pool.
void llama::store_kv(const step_plan& plan, std::uint32_t layer) {
  const model_config& c = config();
  const std::uint32_t kv_width = c.kv_heads * c.head_dim;
  const std::size_t stride = padded_width((c.heads + 2 * c.kv_heads) * c.head_dim);
  const std::uint32_t block_size = kv_.geometry().block_size;
  std::byte* keys = kv_.layer(layer, kv_side::keys);
  std::byte* values = kv_.layer(layer, kv_side::values);
  for_rows(static_cast<std::uint32_t>(rows_.size()), [&](std::uint32_t begin, std::uint32_t end, std::uint32_t) {
    for (std::uint32_t r = begin; r < end; ++r) {
      float* q = work_.qkv + r * stride;
      float* k = q + std::size_t{c.heads} * c.head_dim;
      finish_qkv(model_.layers()[layer], q);
      kernels_.rope(q, c.heads + c.kv_heads, c.head_dim, work_.cos_sin + std::size_t{r} * 2 * c.head_dim);
      const std::uint32_t block = plan.items[rows_[r].item].block_table[rows_[r].position / block_size];
      kernels_.store_kv({k, k + kv_width, keys + block * kv_.block_bytes(), values + block * kv_.block_bytes(),
          rows_[r].position % block_size, block_size, c.kv_heads, c.head_dim});
    }
  });
}

void llama::attend(const step_plan& plan, std::uint32_t layer) {
  const model_config& c = config();
  const std::size_t q_stride = padded_width((c.heads + 2 * c.kv_heads) * c.head_dim);
  const std::size_t out_stride = padded_width(c.heads * c.head_dim);
  const std::uint32_t group = c.heads / c.kv_heads;
  const std::size_t scratch = attention_scratch_bytes(group, c.head_dim);
  const float scale = 1.0F / std::sqrt(static_cast<float>(c.head_dim));
  const auto count = static_cast<std::uint32_t>(pieces_.size());
  threads_->parallel_for(count * c.kv_heads, [&](std::uint32_t index, std::uint32_t thread) {
    const attention_piece& piece = pieces_[index / c.kv_heads];
    const attention_args args{work_.qkv + piece.row * q_stride, q_stride,
        work_.attended + piece.row * out_stride * kernels_.activation_bytes, out_stride,
        kv_.layer(layer, kv_side::keys), kv_.layer(layer, kv_side::values), plan.items[piece.item].block_table.data(),
        kv_.geometry().block_size, c.kv_heads, c.head_dim, group, scale};
    kernels_.attention(args, index % c.kv_heads, piece.position, piece.tokens, work_.attention + thread * scratch);
  });
}

void llama::run_mlp(const packed_model::layer& weights) {
  const std::size_t hidden = padded_width(config().hidden);
  const std::size_t width = padded_width(config().intermediate);
  const std::size_t bytes = kernels_.activation_bytes;
  const auto rows = static_cast<std::uint32_t>(rows_.size());
  for (std::uint32_t first = 0; first < rows; first += mlp_rows_) {
    const std::uint32_t height = std::min(mlp_rows_, rows - first);
    multiply(weights.gate_up, work_.normed + first * hidden * bytes, height, work_.gate_up, false);
    for_rows(height, [&](std::uint32_t begin, std::uint32_t end, std::uint32_t) {
      for (std::uint32_t r = begin; r < end; ++r) {
        const float* gate = work_.gate_up + r * 2 * width;
        kernels_.swiglu(gate, gate + width, config().intermediate, work_.activated + r * width * bytes);
      }
    });
    multiply(weights.down, work_.activated, height, work_.x + first * hidden, true);
  }
}

void llama::run_layer(const step_plan& plan, std::uint32_t index) {
  const auto rows = static_cast<std::uint32_t>(rows_.size());
  const auto& weights = model_.layers()[index];
  normalize(weights.attn_norm);
  multiply(weights.qkv, work_.normed, rows, work_.qkv, false);
  store_kv(plan, index);
  if (plan.on_layer)
    for (const auto& item : plan.items)
      if (item.wants_layers) plan.on_layer(item.tag, index);
  attend(plan, index);
  multiply(weights.o, work_.attended, rows, work_.x, true);
  normalize(weights.mlp_norm);
  run_mlp(weights);
}

result<void> llama::sample_rows(const step_plan& plan, std::span<const std::uint32_t> items,
    std::vector<token_id>& sampled, const logits_observer& observe) {
  const std::size_t hidden = padded_width(config().hidden);
  const std::size_t stride = padded_width(config().vocab);
  const auto rows = static_cast<std::uint32_t>(items.size());
  for (std::uint32_t i = 0; i < rows; ++i)
    kernels_.rmsnorm(work_.x + last_row_[items[i]] * hidden, model_.final_norm(), config().hidden,
        config().rms_norm_eps, work_.normed + i * hidden * kernels_.activation_bytes);
  multiply(model_.head(), work_.normed, rows, work_.logits, false);
  const auto logits = [&](std::uint32_t i) {
    return std::span<const float>(work_.logits + i * stride, config().vocab);
  };
  if (observe)
    for (std::uint32_t i = 0; i < rows; ++i) observe(items[i], logits(i));
  threads_->parallel_for(rows, [&](std::uint32_t i, std::uint32_t thread) {
    const step_item& item = plan.items[items[i]];
    const auto token = sample_token(logits(i), item.sampling, item.output_index, samplers_[thread]);
    sampled[items[i]] = token ? *token : step_result::no_token;
  });
  for (const std::uint32_t i : items)
    if (sampled[i] == step_result::no_token)
      return fail(errc::fatal, "step {}, item {} (tag {}): the logits are not finite", plan.id, i, plan.items[i].tag);
  return {};
}

result<void> llama::sample(const step_plan& plan, std::vector<token_id>& sampled, const logits_observer& observe) {
  std::vector<std::uint32_t> items;
  for (std::uint32_t i = 0; i < plan.items.size(); ++i)
    if (plan.items[i].sample) items.push_back(i);
  for (std::size_t first = 0; first < items.size(); first += logit_rows_) {
    const auto some = std::span(items).subspan(first, std::min<std::size_t>(logit_rows_, items.size() - first));
    if (auto ok = sample_rows(plan, some, sampled, observe); !ok) return ok;
  }
  return {};
}

result<void> llama::run(const step_plan& plan, std::vector<token_id>& sampled, const logits_observer& observe) {
  sampled.assign(plan.items.size(), step_result::no_token);
  waited_ = {};
  lay_out(plan);
  HFLEX_CHECK(rows_.size() <= max_rows_);
  if (auto here = wait_for(0); !here) return here;
  embed(plan);
  for (std::uint32_t layer = 0; layer < config().layers; ++layer) {
    if (auto here = wait_for(1 + layer); !here) return here;
    run_layer(plan, layer);
  }
  if (auto here = wait_for(1 + config().layers); !here) return here;
  return sample(plan, sampled, observe);
}

} // namespace hflex::gpu
