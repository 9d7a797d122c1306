// The CPU as a device: the worker thread runs steps on the model's thread pool.
#include "gpu/host_device.hpp"
#include "gpu/model/llama.hpp"
#include "gpu/step_worker.hpp"
#include <array>
#include <chrono>
#include <cstring>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace hflex::gpu {
namespace {

/// The processor's brand string, "" when it has none.
std::string cpu_name() {
  std::array<char, 49> text{};
#if defined(__x86_64__)
  for (unsigned leaf = 0; leaf < 3; ++leaf) {
    std::array<unsigned, 4> words{};
    if (__get_cpuid(0x80000002U + leaf, &words[0], &words[1], &words[2], &words[3]) == 0) return {};
    std::memcpy(text.data() + leaf * sizeof words, words.data(), sizeof words);
  }
#endif
  std::string name(text.data());
  name.erase(name.find_last_not_of(' ') + 1);
  return name;
}

step_result run_step(llama& model, const step_plan& plan) {
  step_result out{plan.id, {}, {}, {}, {}};
  const auto begin = std::chrono::steady_clock::now();
  if (out.status = model.check(plan); out.status) out.status = model.run(plan, out.sampled);
  out.elapsed = std::chrono::steady_clock::now() - begin;
  out.waited = model.waited();
  return out;
}

class host_context final : public device_context {
public:
  host_context(std::shared_ptr<llama> model, std::uint32_t max_queued)
      : info_(host_device_info(model->threads())), model_(std::move(model)),
        worker_(step_worker::start(
            [model = model_](const step_plan& plan) { return run_step(*model, plan); }, max_queued)) {
    info_.isa = std::string(model_->kernels().isa);
  }
  ~host_context() override {
    model_->stop_waiting();
    worker_->stop();
  }
  host_context(const host_context&) = delete;
  host_context& operator=(const host_context&) = delete;

  const device_info& info() const override { return info_; }
  const kv_geometry& kv() const override { return model_->kv().geometry(); }
  std::uint32_t max_context() const override { return model_->config().max_context; }
  std::span<const token_id> eos_tokens() const override { return model_->config().eos; }
  std::uint32_t vocab_size() const override { return model_->config().vocab; }
  std::uint64_t memory_used_bytes() const override { return model_->memory_bytes(); }

  void submit(step_plan plan, step_callback done) override { worker_->push(std::move(plan), std::move(done)); }

  result<void> read_kv(std::uint32_t layer, std::span<const block_index> block_table, std::uint32_t begin,
      std::uint32_t count, std::span<std::byte> out) const override {
    return model_->kv().read(layer, block_table, begin, count, out);
  }
  result<void> write_kv(std::uint32_t layer, std::span<const block_index> block_table, std::uint32_t begin,
      std::uint32_t count, std::span<const std::byte> in) override {
    return model_->kv().write(layer, block_table, begin, count, in);
  }

private:
  device_info info_;
  std::shared_ptr<llama> model_;
  std::shared_ptr<step_worker> worker_;
};

} // namespace

result<std::shared_ptr<device_context>> make_host_context(
    std::shared_ptr<const weight_region> weights, const host_context_options& options) {
  if (options.max_queued_steps == 0) return fail(errc::reject, "max_queued_steps: expected at least 1");
  auto model = llama::make(std::move(weights), options);
  if (!model) return pass(model.error());
  return std::make_shared<host_context>(std::move(*model), options.max_queued_steps);
}

device_info host_device_info(std::uint32_t threads) {
  const auto pages = ::sysconf(_SC_PHYS_PAGES);
  const auto page_bytes = ::sysconf(_SC_PAGESIZE);
  std::string name = cpu_name();
  if (name.empty()) name = "cpu";
  return {"cpu", std::move(name), std::string(available_isas().front()),
      pages > 0 && page_bytes > 0 ? static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page_bytes) : 0,
      threads != 0 ? threads : usable_cores()};
}

} // namespace hflex::gpu
