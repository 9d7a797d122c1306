#include "tools/bench/engine.hpp"
#include "gpu/kernels/kernels.hpp"
#include "gpu/model/packed_model.hpp"
#include "gpu/thread_pool.hpp"
#include "tools/bench/stepper.hpp"
#include <algorithm>
#include <array>
#include <numeric>

namespace hflex::bench {
namespace {

using clock = std::chrono::steady_clock;

double seconds_since(clock::time_point begin) { return std::chrono::duration<double>(clock::now() - begin).count(); }

struct named_shape {
  const char* name;
  gpu::model_config config;
};

/// Shapes of published models; contexts are cut to what a bench needs.
const std::vector<named_shape>& shapes() {
  static const std::vector<named_shape> all{
      {"smollm2-135m", {"LlamaForCausalLM", 576, 1536, 30, 9, 3, 64, 49152, 16384, 1e-5F, 1e5F, true, false, 0, {}}},
      {"llama-3.2-1b", {"LlamaForCausalLM", 2048, 8192, 16, 32, 8, 64, 128256, 16384, 1e-5F, 5e5F, true, false, 0, {}}},
      {"llama-3.1-8b",
          {"LlamaForCausalLM", 4096, 14336, 32, 32, 8, 128, 128256, 16384, 1e-5F, 5e5F, false, false, 0, {}}},
  };
  return all;
}

result<std::shared_ptr<const gpu::weight_region>> weights_for(const engine_options& o) {
  if (!o.model.empty()) return gpu::load_weights(o.model, {});
  for (const auto& s : shapes())
    if (s.name == o.shape) return gpu::random_weights(s.config, 1);
  return fail(errc::reject, "shape {}: expected {}", o.shape, fmt::join(shape_names(), ", "));
}

/// The best of some passes: a ceiling is what the machine can do when nobody disturbs.
double measure_reads(gpu::thread_pool& pool, const gpu::kernel_set& kernels) {
  constexpr std::size_t part = std::size_t{32} << 20U; // bytes a piece; far beyond a core's share of the caches
  constexpr std::size_t floats = part / sizeof(float);
  const std::uint32_t pieces = pool.threads() * 4;
  std::vector<float> memory(floats * pieces, 1.0F);
  std::vector<float> sums(pieces);
  double best = 0;
  for (int pass = 0; pass < 20; ++pass) {
    auto begin = clock::now();
    pool.parallel_for(pieces, [&](std::uint32_t piece, std::uint32_t) {
      sums[piece] = kernels.read(memory.data() + piece * floats, floats);
    });
    best = std::max(best, static_cast<double>(part) * pieces / seconds_since(begin) / 1e9);
  }
  // Every word was read, or this is no measurement.
  return std::all_of(sums.begin(), sums.end(), [](float sum) { return sum == static_cast<float>(floats); }) ? best : 0;
}

double measure_flops(gpu::thread_pool& pool, const gpu::kernel_set& kernels) {
  constexpr std::uint64_t rounds = 4'000'000;
  std::vector<std::array<float, 64>> sinks(pool.threads() * 2);
  std::vector<std::uint64_t> each(sinks.size());
  double best = 0;
  for (int pass = 0; pass < 5; ++pass) {
    auto begin = clock::now();
    pool.parallel_for(static_cast<std::uint32_t>(sinks.size()),
        [&](std::uint32_t piece, std::uint32_t) { each[piece] = kernels.spin(rounds, sinks[piece].data()); });
    auto operations = static_cast<double>(std::accumulate(each.begin(), each.end(), std::uint64_t{0})) * rounds;
    best = std::max(best, operations / seconds_since(begin) / 1e9);
  }
  return best;
}

/// What a step must at least do, from the model's shape.
struct work_model {
  gpu::model_config c;
  gpu::kv_geometry kv;

  std::uint64_t layer_weights() const {
    const std::uint64_t q = std::uint64_t{c.heads} * c.head_dim;
    const std::uint64_t kv_width = std::uint64_t{c.kv_heads} * c.head_dim;
    return c.hidden * (q + 2 * kv_width) + q * c.hidden + std::uint64_t{3} * c.hidden * c.intermediate;
  }
  std::uint64_t head_weights() const { return std::uint64_t{c.hidden} * c.vocab; }
  double bytes(std::uint64_t read_tokens) const {
    return 2.0 * static_cast<double>(layer_weights() * c.layers + head_weights()) +
           static_cast<double>(kv.token_layer_bytes()) * c.layers * static_cast<double>(read_tokens);
  }
  /// `pairs`: query-key pairs over all sequences.
  double flops(std::uint64_t rows, std::uint64_t logit_rows, std::uint64_t pairs) const {
    return 2.0 * static_cast<double>(rows * layer_weights() * c.layers + logit_rows * head_weights()) +
           4.0 * static_cast<double>(pairs) * c.heads * c.head_dim * c.layers;
  }
};

class runner {
public:
  runner(std::shared_ptr<gpu::device_context> context, work_model work, ceilings most, duration per_point)
      : context_(std::move(context)), work_(std::move(work)), most_(most), per_point_(per_point) {}

  result<engine_point> prefill(std::uint32_t tokens) {
    gpu::step_plan plan;
    plan.items.push_back(item(0, tokens, 0));
    return measure(
        "prefill", std::move(plan), 1, tokens, tokens, tokens, std::uint64_t{tokens} * (std::uint64_t{tokens} + 1) / 2);
  }

  result<engine_point> decode(std::uint32_t batch, std::uint32_t context) {
    gpu::step_plan plan;
    for (std::uint32_t i = 0; i < batch; ++i) plan.items.push_back(item(i, 1, context - 1));
    return measure("decode", std::move(plan), batch, context, batch, std::uint64_t{batch} * context,
        std::uint64_t{batch} * context);
  }

private:
  gpu::step_item item(std::uint32_t index, std::uint32_t tokens, std::uint32_t position) const {
    const auto& kv = context_->kv();
    const std::uint32_t blocks = (position + tokens + kv.block_size - 1) / kv.block_size;
    // Blocks of a sequence lie apart, as they do after a while; sequences share none.
    return make_item(*context_, index, std::max(1U, kv.blocks / blocks), position, tokens);
  }

  result<engine_point> measure(const char* phase, gpu::step_plan plan, std::uint32_t batch, std::uint32_t context,
      std::uint32_t rows, std::uint64_t read_tokens, std::uint64_t pairs) {
    if (auto warm = run_step(*context_, plan); !warm) return pass(warm.error());
    std::vector<double> ms;
    for (duration spent{}; ms.size() < 3 || spent < per_point_;) {
      auto took = run_step(*context_, plan);
      if (!took) return pass(took.error());
      spent += *took;
      ms.push_back(to_ms(*took));
    }
    std::nth_element(ms.begin(), ms.begin() + static_cast<std::ptrdiff_t>(ms.size() / 2), ms.end());
    engine_point p{phase, batch, context, static_cast<std::uint32_t>(ms.size()), ms[ms.size() / 2], 0, 0, 0, 0, 0};
    const double s = p.step_ms / 1e3;
    p.tokens_per_s = rows / s;
    p.gb_s = work_.bytes(read_tokens) / s / 1e9;
    p.gflop_s = work_.flops(rows, batch, pairs) / s / 1e9;
    p.share_of_read = p.gb_s / most_.read_gb_s;
    p.share_of_flops = p.gflop_s / most_.gflop_s;
    return p;
  }

  std::shared_ptr<gpu::device_context> context_;
  work_model work_;
  ceilings most_;
  duration per_point_;
};

} // namespace

result<gpu::model_config> shape_config(const std::string& name) {
  for (const auto& s : shapes())
    if (s.name == name) return s.config;
  return fail(errc::reject, "shape {}: expected {}", name, fmt::join(shape_names(), ", "));
}

std::vector<std::string> shape_names() {
  std::vector<std::string> names;
  for (const auto& s : shapes()) names.emplace_back(s.name);
  return names;
}

result<engine_report> measure_engine(
    const engine_options& options, const std::function<void(const engine_point&)>& on_point) {
  auto weights = weights_for(options);
  if (!weights) return pass(weights.error());
  auto kernels = gpu::select_kernels(options.device.isa, options.device.compute);
  if (!kernels) return pass(kernels.error());
  engine_report report;
  report.model = options.model.empty() ? options.shape + " (random weights)" : options.model;
  report.weight_bytes = (*weights)->bytes();

  auto device = options.device;
  const auto longest = *std::max_element(options.prompts.begin(), options.prompts.end());
  const auto widest = *std::max_element(options.batches.begin(), options.batches.end());
  device.kv_blocks = widest * ((longest + device.block_size - 1) / device.block_size);
  device.max_batched_tokens = std::max(longest, widest);
  {
    gpu::thread_pool pool{device.threads != 0 ? device.threads : gpu::usable_cores()};
    report.most = {measure_reads(pool, *kernels), measure_flops(pool, *kernels)};
  }
  auto context = gpu::make_host_context(*weights, device);
  if (!context) return pass(context.error());
  report.device = (*context)->info();
  runner run{*context, {gpu::packed_model{**weights}.config(), (*context)->kv()}, report.most, options.per_point};
  if (auto ok = fill_kv(**context); !ok) return pass(ok.error());
  auto keep = [&](result<engine_point> p) -> result<void> {
    if (!p) return pass(p.error());
    report.points.push_back(*p);
    if (on_point) on_point(*p);
    return {};
  };
  for (auto tokens : options.prompts)
    if (auto ok = keep(run.prefill(tokens)); !ok) return pass(ok.error());
  for (auto context_tokens : options.prompts)
    for (auto batch : options.batches)
      if (auto ok = keep(run.decode(batch, context_tokens)); !ok) return pass(ok.error());
  return report;
}

} // namespace hflex::bench
