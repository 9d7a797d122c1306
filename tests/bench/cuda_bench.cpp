// The CUDA engine on random weights of Llama-3.1-8B's shape, against what the same device copies and multiplies: decode
// at 1k context by batch, prefill by length, KV and weight moves. Prints a table. Arguments, of which the last may be
// left out: the plug-in, where JSON goes, the JSON that torch_llama.py wrote, the commit. Makes a file of 1 GiB without
// a name in the current folder. Exit code 77 where there is no device.
#include "gpu/cuda_device.hpp"
#include "gpu/model/packed_model.hpp"
#include "tests/bench/cuda_rates.hpp"
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <future>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <random>
#include <sys/mman.h>

using namespace hflex;

namespace {

constexpr std::uint32_t context_tokens = 1024;
constexpr std::uint32_t block_size = 16;
constexpr std::uint32_t max_prefill = 8192;
constexpr std::uint32_t max_batch = 256;
constexpr int runs = 9;

std::string cuda_plugin = gpu::cuda_plugin_path();

gpu::model_config shape_of_8b() {
  gpu::model_config c;
  c.architecture = "LlamaForCausalLM";
  c.hidden = 4096;
  c.intermediate = 14336;
  c.layers = 32;
  c.heads = 32;
  c.kv_heads = 8;
  c.head_dim = 128;
  c.vocab = 128256;
  c.max_context = 131072;
  c.rms_norm_eps = 1e-5F;
  c.rope_theta = 500000.0F;
  return c;
}

/// Weights that were never trained. The same 64 MiB of small random numbers over and over: fast to make, and as many
/// different bytes to read for the device.
class random_region final : public gpu::weight_region {
public:
  explicit random_region(const gpu::model_config& config) {
    const auto layout = *gpu::layout_region(config);
    bytes_ = layout.bytes;
    void* at = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<std::byte*>(at);
    gpu::region_header header;
    header.config = *gpu::to_region_config(config);
    std::memcpy(base_, &header, sizeof header);
    const auto some = random_weights();
    for (const auto& t : layout.tensors) {
      if (t.kind == gpu::tensor_kind::attn_norm || t.kind == gpu::tensor_kind::mlp_norm ||
          t.kind == gpu::tensor_kind::final_norm) {
        std::fill_n(reinterpret_cast<float*>(base_ + t.offset), t.columns, 1.0F);
        continue;
      }
      for (std::uint64_t done = 0; done < t.bytes; done += some.size())
        std::memcpy(base_ + t.offset + done, some.data(), std::min<std::uint64_t>(some.size(), t.bytes - done));
    }
  }
  ~random_region() override { ::munmap(base_, bytes_); }
  random_region(const random_region&) = delete;
  random_region& operator=(const random_region&) = delete;
  const std::string& digest() const override { return digest_; }
  std::uint64_t bytes() const override { return bytes_; }
  int fd() const override { return -1; }
  std::span<const std::byte> data() const override { return {base_, bytes_}; }

private:
  static std::vector<std::byte> random_weights() {
    std::mt19937 random(1);
    std::vector<std::byte> out(std::size_t{64} << 20U);
    for (std::size_t i = 0; i < out.size(); i += 4) { // two bf16 of 2^-7 to 2^-5 and either sign
      const std::uint32_t word = (random() & 0x80ff80ffU) | 0x3c003c00U;
      std::memcpy(out.data() + i, &word, 4);
    }
    return out;
  }
  std::string digest_{"random"};
  std::byte* base_{};
  std::uint64_t bytes_{};
};

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

struct timing {
  double device_ms{}; ///< median, by the device's events
  double wall_ms{};   ///< median, submit to callback
};

timing time_step(gpu::device_context& context, const gpu::step_plan& plan) {
  std::vector<double> device;
  std::vector<double> wall;
  for (int i = 0; i < runs + 3; ++i) { // the first ones load kernels, plan products and capture graphs
    std::promise<gpu::step_result> done;
    const auto begin = std::chrono::steady_clock::now();
    context.submit(plan, [&](gpu::step_result r) { done.set_value(std::move(r)); });
    const auto r = done.get_future().get();
    if (!r.status) throw std::runtime_error(r.status.error().message);
    if (i < 3) continue;
    wall.push_back(seconds_since(begin) * 1e3);
    device.push_back(std::chrono::duration<double, std::milli>(r.elapsed).count());
  }
  std::sort(device.begin(), device.end());
  std::sort(wall.begin(), wall.end());
  return {device[device.size() / 2], wall[wall.size() / 2]};
}

gpu::step_plan decode_plan(std::uint32_t batch) {
  gpu::step_plan plan;
  constexpr std::uint32_t blocks = context_tokens / block_size + 1;
  for (std::uint32_t i = 0; i < batch; ++i) {
    gpu::step_item item;
    item.tokens = {static_cast<token_id>(100 + i)};
    item.position = context_tokens;
    item.block_table.resize(blocks);
    std::iota(item.block_table.begin(), item.block_table.end(), i * blocks);
    item.sample = true;
    plan.items.push_back(std::move(item));
  }
  return plan;
}

gpu::step_plan prefill_plan(std::uint32_t tokens) {
  gpu::step_plan plan;
  gpu::step_item item;
  for (std::uint32_t i = 0; i < tokens; ++i) item.tokens.push_back(static_cast<token_id>(i * 7 % 128000));
  item.block_table.resize(tokens / block_size);
  std::iota(item.block_table.begin(), item.block_table.end(), 0U);
  item.sample = true;
  plan.items.push_back(std::move(item));
  return plan;
}

/// Weights that every token passes: all but the embedding, which is looked up.
double passed_weights(const gpu::model_config& c) {
  const double attention = static_cast<double>(c.hidden) * c.head_dim * (2.0 * c.heads + 2.0 * c.kv_heads);
  const double mlp = 3.0 * c.hidden * c.intermediate;
  return c.layers * (attention + mlp) + static_cast<double>(c.hidden) * c.vocab;
}

/// What is asked for, of the bound named beside it.
constexpr double wanted_decode = 75;  ///< % of the copy bandwidth, batch 1 to 64
constexpr double wanted_prefill = 60; ///< % of the matrix rate, 2,048 tokens and more

class report {
public:
  void line(const std::string& what, const std::string& value, const std::string& bound = {}) {
    std::printf("%-34s %-32s %s\n", what.c_str(), value.c_str(), bound.c_str());
    std::fflush(stdout);
  }
  /// ", PyTorch 4.1 ms" where torch_llama.py has measured the same; `key` names the step ("batch" or "tokens").
  std::string torch_beside(const char* phase, const char* key, std::uint32_t value) const {
    if (!torch.is_object() || !torch.contains(phase)) return {};
    for (const auto& step : torch.at(phase))
      if (step.value(key, 0U) == value) return fmt::format(", PyTorch {:.2f} ms", step.value("device_ms", 0.0));
    return {};
  }
  nlohmann::ordered_json json;
  nlohmann::json torch; ///< null: not measured
};

std::string verdict(bool asked, double percent, double wanted) {
  return !asked ? "" : fmt::format(" ({} {:.0f})", percent >= wanted ? "meets" : "MISSES", wanted);
}

void measure_decode(
    gpu::device_context& context, const gpu::model_config& c, const bench::machine_rates& rates, report& out) {
  for (const std::uint32_t batch : {1U, 8U, 64U, 256U}) {
    const auto plan = decode_plan(batch);
    if (plan.items.back().block_table.back() >= context.kv().blocks) {
      out.line(fmt::format("decode, batch {}", batch), "does not fit this device's memory");
      continue;
    }
    const auto t = time_step(context, plan);
    const double bytes = passed_weights(c) * 2 + static_cast<double>(batch) * context_tokens *
                                                     static_cast<double>(context.kv().token_layer_bytes()) * c.layers;
    const double bound_ms = bytes / rates.device_copy_gbs * 1e-6;
    out.line(fmt::format("decode, batch {}, 1k context", batch),
        fmt::format("{:.3f} ms, {:.0f} tok/s", t.device_ms, batch / t.device_ms * 1e3),
        fmt::format("{:.0f} % of copy bandwidth{}; wall {:.3f} ms{}", bound_ms / t.device_ms * 100,
            verdict(batch <= 64, bound_ms / t.device_ms * 100, wanted_decode), t.wall_ms,
            out.torch_beside("decode", "batch", batch)));
    out.json["decode"].push_back({{"batch", batch}, {"context", context_tokens}, {"device_ms", t.device_ms},
        {"wall_ms", t.wall_ms}, {"copy_bound_ms", bound_ms}});
  }
}

void measure_prefill(
    gpu::device_context& context, const gpu::model_config& c, const bench::machine_rates& rates, report& out) {
  for (std::uint32_t tokens = 512; tokens <= max_prefill; tokens *= 2) {
    const auto t = time_step(context, prefill_plan(tokens));
    const double head = static_cast<double>(c.hidden) * c.vocab;                      // for the last token only
    const double attention = 2.0 * tokens * tokens * c.heads * c.head_dim * c.layers; // causal: half of 4 n^2 d
    const double work = 2 * (passed_weights(c) - head) * tokens + attention;
    const double tflops = work / t.device_ms * 1e-9;
    out.line(fmt::format("prefill, {} tokens", tokens),
        fmt::format("{:.2f} ms, {:.0f} tok/s", t.device_ms, tokens / t.device_ms * 1e3),
        fmt::format("{:.0f} TFLOP/s, {:.0f} % of cuBLASLt's{}{}", tflops, tflops / rates.matrix_tflops * 100,
            verdict(tokens >= 2048, tflops / rates.matrix_tflops * 100, wanted_prefill),
            out.torch_beside("prefill", "tokens", tokens)));
    out.json["prefill"].push_back(
        {{"tokens", tokens}, {"device_ms", t.device_ms}, {"wall_ms", t.wall_ms}, {"tflops", tflops}});
  }
}

void measure_kv(gpu::device_context& context, report& out) {
  std::vector<std::byte> rows(context_tokens * context.kv().token_layer_bytes());
  std::vector<gpu::block_index> table(context_tokens / block_size);
  std::iota(table.rbegin(), table.rend(), 0U); // out of order
  for (const bool write : {false, true}) {
    const auto begin = std::chrono::steady_clock::now();
    for (std::uint32_t layer = 0; layer < context.kv().layers; ++layer) {
      const auto ok = write ? context.write_kv(layer, table, 0, context_tokens, rows)
                            : context.read_kv(layer, table, 0, context_tokens, rows);
      if (!ok) throw std::runtime_error(ok.error().message);
    }
    const double gbs = static_cast<double>(rows.size()) * context.kv().layers / seconds_since(begin) * 1e-9;
    out.line(
        write ? "KV, 1k tokens, host to device" : "KV, 1k tokens, device to host", fmt::format("{:.1f} GB/s", gbs));
    out.json[write ? "kv_write_gbs" : "kv_read_gbs"] = gbs;
  }
}

/// 1k tokens out of one context into another on the same device, layer by layer as a hand-over does it.
void measure_kv_between(const gpu::device_context& from, gpu::device_context& to, report& out) {
  std::vector<std::byte> rows(context_tokens * from.kv().token_layer_bytes());
  std::vector<gpu::block_index> table(context_tokens / block_size);
  std::iota(table.rbegin(), table.rend(), 0U);
  std::vector<double> seconds;
  for (int i = 0; i < runs; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    for (std::uint32_t layer = 0; layer < from.kv().layers; ++layer) {
      auto ok = from.read_kv(layer, table, 0, context_tokens, rows);
      if (ok) ok = to.write_kv(layer, table, 0, context_tokens, rows);
      if (!ok) throw std::runtime_error(ok.error().message);
    }
    seconds.push_back(seconds_since(begin));
  }
  std::sort(seconds.begin(), seconds.end());
  const double gbs = static_cast<double>(rows.size()) * from.kv().layers / seconds[runs / 2] * 1e-9;
  out.line("KV, 1k tokens, context to context", fmt::format("{:.1f} GB/s, {:.2f} ms", gbs, seconds[runs / 2] * 1e3),
      "by way of the host");
  out.json["kv_between_contexts_gbs"] = gbs;
}

/// The steps of the table once more in f16: the same kernels and library on elements of the same width.
void measure_f16(gpu::cuda_backend& cuda, const std::shared_ptr<const random_region>& region,
    gpu::host_context_options o, report& out) {
  constexpr std::uint32_t batch = 64;
  constexpr std::uint32_t tokens = 2048;
  o.compute = gpu::compute_type::f16;
  o.kv_blocks = batch * (context_tokens / block_size + 1);
  o.max_batched_tokens = tokens;
  const auto context = cuda.make_context(0, region, o);
  if (!context) throw std::runtime_error(context.error().message);
  const auto decode = time_step(**context, decode_plan(batch));
  const auto prefill = time_step(**context, prefill_plan(tokens));
  out.line("decode in f16, batch 64, 1k context", fmt::format("{:.3f} ms", decode.device_ms));
  out.line("prefill in f16, 2048 tokens", fmt::format("{:.2f} ms", prefill.device_ms));
  out.json["f16"] = {{"batch", batch}, {"context", context_tokens}, {"decode_ms", decode.device_ms}, {"tokens", tokens},
      {"prefill_ms", prefill.device_ms}};
}

bench::machine_rates measure_machine(bench::ipc_peer& peer, report& out) {
  bench::machine_rates r;
  if (!bench::measure_rates(peer, r)) throw std::runtime_error("the device's rates could not be measured");
  out.line("copy on the device", fmt::format("{:.0f} GB/s read + written", r.device_copy_gbs));
  out.line("cuBLASLt, bf16", fmt::format("{:.0f} TFLOP/s", r.matrix_tflops));
  out.line("host to device, pageable", fmt::format("{:.1f} GB/s", r.h2d_pageable_gbs));
  out.line("host to device, pinned", fmt::format("{:.1f} GB/s", r.h2d_pinned_gbs));
  out.line("device to host, pinned", fmt::format("{:.1f} GB/s", r.d2h_pinned_gbs));
  const auto or_not = [](double gbs) { return gbs > 0 ? fmt::format("{:.1f} GB/s", gbs) : "not measured"; };
  out.line("disk to device", or_not(r.disk_gbs));
  out.line("page cache to device", or_not(r.page_cache_gbs));
  out.line("device to device, one process", fmt::format("{:.0f} GB/s", r.device_copy_gbs / 2));
  out.line("between processes, CUDA IPC", r.ipc_gbs > 0 ? fmt::format("{:.0f} GB/s", r.ipc_gbs) : "not measured");
  out.json["device_copy_gbs"] = r.device_copy_gbs;
  out.json["matrix_tflops"] = r.matrix_tflops;
  out.json["h2d_pageable_gbs"] = r.h2d_pageable_gbs;
  out.json["h2d_pinned_gbs"] = r.h2d_pinned_gbs;
  out.json["d2h_pinned_gbs"] = r.d2h_pinned_gbs;
  out.json["disk_gbs"] = r.disk_gbs;
  out.json["page_cache_gbs"] = r.page_cache_gbs;
  out.json["d2d_gbs"] = r.device_copy_gbs / 2;
  out.json["ipc_gbs"] = r.ipc_gbs;
  return r;
}

/// A context on weights that somebody else has on the same device, as another process' would be made.
void measure_adoption(gpu::cuda_backend& cuda, const std::shared_ptr<const random_region>& region,
    const gpu::host_context_options& o, report& out) {
  std::map<std::string, gpu::shared_device_memory> offered;
  gpu::device_sharing giving;
  giving.offer = [&](const std::string& key, gpu::shared_device_memory m) -> std::function<void()> {
    offered[key] = std::move(m);
    return {};
  };
  const gpu::device_sharing taking{[&](const std::string& key) -> std::optional<gpu::shared_device_memory> {
                                     const auto at = offered.find(key);
                                     return at == offered.end() ? std::nullopt : std::optional(at->second);
                                   },
      {}};
  gpu::host_context_options f16 = o;
  f16.compute = gpu::compute_type::f16; // weights that nobody has yet, so that they are offered
  const auto holder = cuda.make_context(0, region, f16, giving);
  auto newcomer = gpu::cuda_backend::load(cuda_plugin);
  if (!holder || !newcomer) throw std::runtime_error((holder ? newcomer.error() : holder.error()).message);
  const auto begin = std::chrono::steady_clock::now();
  const auto context = (*newcomer)->make_context(0, region, f16, taking);
  if (!context) throw std::runtime_error(context.error().message);
  out.json["adopted_context_s"] = seconds_since(begin);
  out.json["adopted_from"] = (*context)->weights_from();
  out.line(
      "context on another process' weights", fmt::format("{:.3f} s", seconds_since(begin)), (*context)->weights_from());
}

void run(gpu::cuda_backend& cuda, bench::ipc_peer& peer, report& out) {
  out.line("device", cuda.devices()[0].name, cuda.devices()[0].isa);
  out.json["device"] = cuda.devices()[0].name;
  const auto rates = measure_machine(peer, out);
  const auto config = shape_of_8b();
  const auto region = std::make_shared<const random_region>(config);
  gpu::host_context_options o;
  o.block_size = block_size;
  o.max_batched_tokens = max_prefill;
  // All that 256 sequences need, or what is left beside weights, work space and some air.
  constexpr std::uint32_t wanted = max_batch * (context_tokens / block_size + 1);
  constexpr std::uint64_t block_bytes = std::uint64_t{2} * 8 * 128 * 2 * 32 * block_size;
  const std::uint64_t beside = region->bytes() + (std::uint64_t{6} << 30U);
  const std::uint64_t memory = cuda.devices()[0].memory_bytes;
  if (memory < beside + max_prefill / block_size * block_bytes)
    throw std::runtime_error("this device has too little memory for a model of this shape");
  o.kv_blocks = static_cast<std::uint32_t>(std::min<std::uint64_t>(wanted, (memory - beside) / block_bytes));
  auto begin = std::chrono::steady_clock::now();
  auto context = cuda.make_context(0, region, o);
  if (!context) throw std::runtime_error(context.error().message);
  const double seconds = seconds_since(begin);
  out.line("weights and context", fmt::format("{:.2f} s", seconds),
      fmt::format("{:.1f} GB/s", static_cast<double>(region->bytes()) / seconds * 1e-9));
  out.json["context_s"] = seconds;
  measure_decode(**context, config, rates, out);
  measure_prefill(**context, config, rates, out);
  measure_kv(**context, out);
  o.kv_blocks = context_tokens / block_size;
  o.max_batched_tokens = 512;
  begin = std::chrono::steady_clock::now();
  auto second = cuda.make_context(0, region, o); // the weights are there already
  if (!second) throw std::runtime_error(second.error().message);
  out.json["second_context_s"] = seconds_since(begin);
  out.line("second context, weights shared", fmt::format("{:.3f} s", seconds_since(begin)));
  measure_kv_between(**context, **second, out);
  context->reset(); // f16 wants weights of its own
  second->reset();
  measure_adoption(cuda, region, o, out);
  measure_f16(cuda, region, o, out);
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  return fmt::format("{:04}-{:02}-{:02}", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday);
}

} // namespace

int main(int argc, char** argv) {
  bench::ipc_peer peer; // a process of its own, before CUDA starts in this one
  if (argc > 1) cuda_plugin = argv[1];
  auto cuda = gpu::cuda_backend::load(cuda_plugin);
  if (!cuda) {
    std::fprintf(stderr, "%s\n", cuda.error().message.c_str());
    return 77;
  }
  report out;
  out.json["date"] = today();
  if (argc > 4) out.json["commit"] = argv[4];
  if (argc > 3) {
    out.torch = nlohmann::json::parse(std::ifstream(argv[3]), nullptr, false); // discarded when it is not there
    if (out.torch.is_object()) out.json["torch"] = out.torch;
  }
  try {
    run(**cuda, peer, out);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "cuda_bench: %s\n", e.what());
    return 1;
  }
  if (argc > 2) std::ofstream(argv[2]) << out.json.dump(2) << '\n';
  return 0;
}
