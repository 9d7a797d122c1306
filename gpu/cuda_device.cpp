// The worker thread launches a step and waits for what the plug-in signals from the device's stream: layers to report,
// then the end. Signals come on a thread that must neither block nor call CUDA, so they only go into a queue; callbacks
// run on the worker, which may do both.
#include "gpu/cuda_device.hpp"
#include "gpu/model/step_rules.hpp"
#include "gpu/step_worker.hpp"
#include "gpu/weights_upload.hpp"
#include <algorithm>
#include <chrono>
#include <optional>

namespace hflex::gpu {
namespace {

constexpr std::uint32_t max_cuda_head_dim = 256;
/// How often a waiting worker asks whether the device has given up: a failed stream signals nothing any more.
constexpr std::chrono::milliseconds poll_interval{50};

/// What the stream has signalled; at most one entry per layer and the end.
class signal_queue {
public:
  void clear() {
    const std::lock_guard lock(mutex_);
    events_.clear();
  }
  static void put(void* self, std::uint32_t event) {
    auto& q = *static_cast<signal_queue*>(self);
    const std::lock_guard lock(q.mutex_);
    q.events_.push_back(event);
    q.wake_.notify_one();
  }
  /// Nothing after poll_interval.
  std::optional<std::uint32_t> take() {
    std::unique_lock lock(mutex_);
    if (!wake_.wait_for(lock, poll_interval, [&] { return !events_.empty(); })) return std::nullopt;
    const std::uint32_t event = events_.front();
    events_.pop_front();
    return event;
  }

private:
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::uint32_t> events_;
};

/// A context of the plug-in with the host's rules around it.
class cuda_engine {
public:
  cuda_engine(const hflex_cuda_functions& cuda, std::shared_ptr<placed_weights> weights, hflex_cuda_context* handle,
      model_config config, const kv_geometry& kv, std::uint32_t max_batched_tokens)
      : config_(std::move(config)), kv_(kv), cuda_(cuda), weights_(std::move(weights)), handle_(handle),
        max_batched_tokens_(max_batched_tokens) {}
  cuda_engine(const cuda_engine&) = delete;
  cuda_engine& operator=(const cuda_engine&) = delete;
  ~cuda_engine() { cuda_.drop_context(handle_); }

  const model_config& config() const { return config_; }
  const kv_geometry& kv() const { return kv_; }
  std::uint64_t memory_bytes() const { return weights_->bytes() + cuda_.context_bytes(handle_); }
  std::string weights_from() const {
    std::string way{name_of(weights_->way())};
    return weights_->refused().empty() ? way : fmt::format("{} ({})", way, weights_->refused());
  }

  step_result run(const step_plan& plan);
  result<void> read(std::uint32_t layer, std::span<const block_index> table, std::uint32_t begin, std::uint32_t count,
      std::span<std::byte> out) const;
  result<void> write(std::uint32_t layer, std::span<const block_index> table, std::uint32_t begin, std::uint32_t count,
      std::span<const std::byte> in) const;

private:
  result<void> launch(const step_plan& plan);
  result<void> wait(const step_plan& plan);
  result<void> collect(const step_plan& plan, step_result& out);
  std::vector<std::uint32_t> slots_of(
      std::span<const block_index> table, std::uint32_t begin, std::uint32_t count) const;

  const model_config config_;
  const kv_geometry kv_;
  const hflex_cuda_functions& cuda_;
  std::shared_ptr<placed_weights> weights_;
  hflex_cuda_context* handle_;
  const std::uint32_t max_batched_tokens_;
  signal_queue signals_;
};

bool wants_layers(const step_plan& plan) {
  return plan.on_layer &&
         std::any_of(plan.items.begin(), plan.items.end(), [](const step_item& i) { return i.wants_layers; });
}

result<void> cuda_engine::launch(const step_plan& plan) {
  std::vector<hflex_cuda_item> items;
  items.reserve(plan.items.size());
  for (const step_item& i : plan.items) {
    const auto count = static_cast<std::uint32_t>(i.tokens.size());
    items.push_back({i.tokens.data(), count, i.position, i.block_table.data(),
        (i.position + count + kv_.block_size - 1) / kv_.block_size, i.sample ? 1U : 0U, i.sampling.temperature,
        i.sampling.top_p, i.sampling.top_k, i.output_index, i.sampling.seed});
  }
  const hflex_cuda_step step{items.data(), static_cast<std::uint32_t>(items.size()), wants_layers(plan) ? 1U : 0U,
      &signal_queue::put, &signals_};
  signals_.clear();
  hflex_cuda_fault fault{};
  switch (cuda_.launch(handle_, &step, &fault)) {
  case hflex_cuda_ok:
    return {};
  case hflex_cuda_rejected:
    return fail(errc::reject, "step {}: {}", plan.id, fault.words);
  default:
    return fail(errc::fatal, "step {}: {}", plan.id, fault.words);
  }
}

result<void> cuda_engine::wait(const step_plan& plan) {
  for (;;) {
    const auto event = signals_.take();
    if (!event) {
      hflex_cuda_fault fault{};
      if (cuda_.poll(handle_, &fault) == hflex_cuda_failed)
        return fail(errc::fatal, "step {}: {}", plan.id, fault.words);
      continue;
    }
    if (*event == hflex_cuda_finished) return {};
    for (const step_item& i : plan.items)
      if (i.wants_layers) plan.on_layer(i.tag, *event);
  }
}

result<void> cuda_engine::collect(const step_plan& plan, step_result& out) {
  std::vector<std::int32_t> tokens(plan.items.size()); // at least as many as sample
  std::uint64_t elapsed_ns = 0;
  hflex_cuda_fault fault{};
  if (cuda_.collect(handle_, tokens.data(), &elapsed_ns, &fault) != hflex_cuda_ok)
    return fail(errc::fatal, "step {}: {}", plan.id, fault.words);
  out.elapsed = std::chrono::nanoseconds(elapsed_ns);
  out.sampled.assign(plan.items.size(), step_result::no_token);
  std::size_t next = 0;
  for (std::size_t i = 0; i < plan.items.size(); ++i) {
    if (!plan.items[i].sample) continue;
    out.sampled[i] = tokens[next++];
    if (out.sampled[i] < 0)
      return fail(errc::fatal, "step {}, item {} (tag {}): the logits are not finite{}", plan.id, i, plan.items[i].tag,
          kv_.element == compute_type::f16 ? "; f16 holds nothing beyond 65504, bf16 does" : "");
  }
  return {};
}

step_result cuda_engine::run(const step_plan& plan) {
  step_result out{plan.id, {}, {}, check_step(config_, kv_, max_batched_tokens_, plan), {}};
  if (out.status) out.status = launch(plan);
  if (out.status) out.status = wait(plan);
  if (out.status) out.status = collect(plan, out);
  return out;
}

std::vector<std::uint32_t> cuda_engine::slots_of(
    std::span<const block_index> table, std::uint32_t begin, std::uint32_t count) const {
  std::vector<std::uint32_t> slots(count);
  for (std::uint32_t i = 0; i < count; ++i)
    slots[i] = table[(begin + i) / kv_.block_size] * kv_.block_size + (begin + i) % kv_.block_size;
  return slots;
}

result<void> cuda_engine::read(std::uint32_t layer, std::span<const block_index> table, std::uint32_t begin,
    std::uint32_t count, std::span<std::byte> out) const {
  if (auto ok = check_kv_copy(kv_, layer, table, begin, count, out.size()); !ok) return ok;
  const auto slots = slots_of(table, begin, count);
  hflex_cuda_fault fault{};
  if (cuda_.read_kv(handle_, layer, slots.data(), count, out.data(), &fault) != hflex_cuda_ok)
    return fail(errc::fatal, "KV copy: {}", fault.words);
  return {};
}

result<void> cuda_engine::write(std::uint32_t layer, std::span<const block_index> table, std::uint32_t begin,
    std::uint32_t count, std::span<const std::byte> in) const {
  if (auto ok = check_kv_copy(kv_, layer, table, begin, count, in.size()); !ok) return ok;
  const auto slots = slots_of(table, begin, count);
  hflex_cuda_fault fault{};
  if (cuda_.write_kv(handle_, layer, slots.data(), count, in.data(), &fault) != hflex_cuda_ok)
    return fail(errc::fatal, "KV copy: {}", fault.words);
  return {};
}

class cuda_context final : public device_context {
public:
  cuda_context(device_info info, std::shared_ptr<cuda_engine> engine, std::uint32_t max_queued)
      : info_(std::move(info)), engine_(std::move(engine)),
        worker_(
            step_worker::start([engine = engine_](const step_plan& plan) { return engine->run(plan); }, max_queued)) {}
  ~cuda_context() override { worker_->stop(); }
  cuda_context(const cuda_context&) = delete;
  cuda_context& operator=(const cuda_context&) = delete;

  const device_info& info() const override { return info_; }
  const kv_geometry& kv() const override { return engine_->kv(); }
  std::uint32_t max_context() const override { return engine_->config().max_context; }
  std::uint32_t vocab_size() const override { return engine_->config().vocab; }
  std::span<const token_id> eos_tokens() const override { return engine_->config().eos; }
  std::uint64_t memory_used_bytes() const override { return engine_->memory_bytes(); }
  std::string weights_from() const override { return engine_->weights_from(); }
  void submit(step_plan plan, step_callback done) override { worker_->push(std::move(plan), std::move(done)); }
  result<void> read_kv(std::uint32_t layer, std::span<const block_index> block_table, std::uint32_t begin,
      std::uint32_t count, std::span<std::byte> out) const override {
    return engine_->read(layer, block_table, begin, count, out);
  }
  result<void> write_kv(std::uint32_t layer, std::span<const block_index> block_table, std::uint32_t begin,
      std::uint32_t count, std::span<const std::byte> in) override {
    return engine_->write(layer, block_table, begin, count, in);
  }

private:
  const device_info info_;
  std::shared_ptr<cuda_engine> engine_;
  std::shared_ptr<step_worker> worker_;
};

class plugin_backend final : public cuda_backend {
public:
  plugin_backend(const hflex_cuda_functions& cuda, cuda_report found)
      : cuda_(cuda), devices_(std::move(found.devices)), weights_(cuda, std::move(found.uuids)) {}
  const std::vector<device_info>& devices() const override { return devices_; }
  result<std::shared_ptr<const weight_region>> load_weights(std::uint32_t device, compute_type compute,
      const std::string& model_dir, const progress_callback& progress, load_options options) override;
  result<std::shared_ptr<device_context>> make_context(std::uint32_t device,
      std::shared_ptr<const weight_region> weights, const host_context_options& options,
      const device_sharing& sharing) override {
    auto made = place_and_make(device, weights, options, sharing);
    if (!made && weights) weights_.let_go(device, options.compute, weights->digest());
    return made;
  }

  result<std::vector<std::vector<std::byte>>> give(
      const std::string& digest, const std::string& kind, std::uint32_t receivers) override {
    return weights_.give(digest, kind, receivers);
  }

private:
  result<std::shared_ptr<device_context>> place_and_make(std::uint32_t device,
      const std::shared_ptr<const weight_region>& weights, const host_context_options& options,
      const device_sharing& sharing);

  const hflex_cuda_functions& cuda_;
  const std::vector<device_info> devices_;
  cuda_weights weights_;
};

result<std::shared_ptr<const weight_region>> plugin_backend::load_weights(std::uint32_t device, compute_type compute,
    const std::string& model_dir, const progress_callback& progress, load_options options) {
  if (device >= devices_.size()) return fail(errc::reject, "CUDA device {} of {}", device, devices_.size());
  std::shared_ptr<early_upload> early; // ends with this call when the weights are not read to their end
  options.coming = [&](std::shared_ptr<const weight_region> region) {
    early = weights_.begin(device, compute, std::move(region));
  };
  auto loaded = gpu::load_weights(model_dir, progress, options);
  if (!loaded || !early) return loaded;
  early->name((*loaded)->digest());
  (*loaded)->keep(std::move(early)); // weights that nobody makes a context of take it with them
  return loaded;
}

result<std::shared_ptr<device_context>> plugin_backend::place_and_make(std::uint32_t device,
    const std::shared_ptr<const weight_region>& weights, const host_context_options& options,
    const device_sharing& sharing) {
  if (!weights) return fail(errc::reject, "no weights");
  if (device >= devices_.size()) return fail(errc::reject, "CUDA device {} of {}", device, devices_.size());
  if (options.max_queued_steps == 0) return fail(errc::reject, "max_queued_steps: expected at least 1");
  if (!options.isa.empty()) return fail(errc::reject, "isa '{}': a CUDA device has no choice of one", options.isa);
  if (auto ok = check_step_size(options.max_batched_tokens); !ok) return pass(ok.error());
  const cuda_model_source source(*weights);
  if (source.config.head_dim > max_cuda_head_dim)
    return fail(errc::reject, "head_dim {}: CUDA devices take at most {}", source.config.head_dim, max_cuda_head_dim);
  auto kv = plan_kv_pool(source.config, options);
  if (!kv) return pass(kv.error());
  if (std::uint64_t{kv->blocks} * kv->block_size > UINT32_MAX - kv->block_size)
    return fail(errc::reject, "{} KV blocks of {} tokens: too many", kv->blocks, kv->block_size);
  auto placed = weights_.place(device, weights, source, options.compute, sharing);
  if (!placed) return pass(placed.error());
  const hflex_cuda_options o{kv->block_size, kv->blocks, options.max_batched_tokens};
  hflex_cuda_fault fault{};
  auto* handle = cuda_.make_context((*placed)->handle(), &o, &fault);
  if (handle == nullptr) return fail(errc::fatal, "context on CUDA device {}: {}", device, fault.words);
  auto engine = std::make_shared<cuda_engine>(cuda_, *placed, handle, source.config, *kv, options.max_batched_tokens);
  return std::make_shared<cuda_context>(devices_[device], std::move(engine), options.max_queued_steps);
}

} // namespace

result<std::shared_ptr<cuda_backend>> cuda_backend::load(const std::string& path) {
  auto plugin = load_cuda_plugin(path);
  if (!plugin) return pass(plugin.error());
  auto report = find_cuda_devices(path);
  if (!report) return pass(report.error());
  return std::make_shared<plugin_backend>(**plugin, std::move(*report));
}

} // namespace hflex::gpu
