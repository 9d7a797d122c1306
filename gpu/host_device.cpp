// The CPU as a device: one worker thread takes steps from a short queue and runs them on the model's thread pool.
#include "gpu/host_device.hpp"
#include "gpu/model/llama.hpp"
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
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

/// A queue of steps and the thread that works it off. Shared between the context and its own thread, which may outlive
/// the context by the length of one callback.
class step_worker {
public:
  step_worker(std::unique_ptr<llama> model, std::uint32_t max_queued)
      : model_(std::move(model)), max_queued_(max_queued) {}

  llama& model() { return *model_; }
  static void start(const std::shared_ptr<step_worker>& self) {
    self->thread_ = std::thread([self] { self->work(); });
  }

  void push(step_plan plan, step_callback done) {
    const std::lock_guard lock(mutex_);
    const bool full = queue_.size() >= max_queued_;
    // What is too much is dropped here and answered by the worker: callbacks never run on the caller's thread.
    queue_.push_back({full ? step_plan{plan.id, {}, {}} : std::move(plan), std::move(done), full});
    wake_.notify_one();
  }

  /// Completes what is queued and ends the thread. A running step is finished first.
  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      wake_.notify_one();
    }
    if (thread_.get_id() == std::this_thread::get_id()) { // a callback dropped the last reference
      fail_queued();
      thread_.detach();
    } else {
      thread_.join();
    }
  }

private:
  struct queued_step {
    step_plan plan;
    step_callback done;
    bool refused{};
  };

  void work() {
    for (;;) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (stopping_) break;
      queued_step step = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      step_result outcome = run(step);
      step.plan = {}; // the callback may submit the next one: give memory back first
      step.done(std::move(outcome));
    }
    fail_queued();
  }

  step_result run(const queued_step& step) {
    step_result out{step.plan.id, {}, {}, {}};
    const auto begin = std::chrono::steady_clock::now();
    if (step.refused)
      out.status = fail(errc::retry, "step {}: {} steps are queued already", step.plan.id, max_queued_);
    else if (out.status = model_->check(step.plan); out.status)
      out.status = model_->run(step.plan, out.sampled);
    out.elapsed = std::chrono::steady_clock::now() - begin;
    return out;
  }

  void fail_queued() {
    std::deque<queued_step> left;
    {
      const std::lock_guard lock(mutex_);
      left.swap(queue_);
    }
    for (auto& step : left)
      step.done({step.plan.id, {}, {}, fail(errc::fatal, "step {}: the device context is closed", step.plan.id)});
  }

  std::unique_ptr<llama> model_;
  const std::uint32_t max_queued_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<queued_step> queue_;
  bool stopping_{false};
  std::thread thread_;
};

class host_context final : public device_context {
public:
  host_context(std::unique_ptr<llama> model, std::uint32_t max_queued)
      : info_(host_device_info(model->threads())), memory_bytes_(model->memory_bytes()),
        worker_(std::make_shared<step_worker>(std::move(model), max_queued)) {
    info_.isa = std::string(worker_->model().kernels().isa);
    step_worker::start(worker_);
  }
  ~host_context() override { worker_->stop(); }
  host_context(const host_context&) = delete;
  host_context& operator=(const host_context&) = delete;

  const device_info& info() const override { return info_; }
  const kv_geometry& kv() const override { return worker_->model().kv().geometry(); }
  std::uint32_t max_context() const override { return worker_->model().config().max_context; }
  std::span<const token_id> eos_tokens() const override { return worker_->model().config().eos; }
  std::uint32_t vocab_size() const override { return worker_->model().config().vocab; }
  std::uint64_t memory_used_bytes() const override { return memory_bytes_; }

  void submit(step_plan plan, step_callback done) override { worker_->push(std::move(plan), std::move(done)); }

  result<void> read_kv(std::uint32_t layer, std::span<const block_index> block_table, std::uint32_t begin,
      std::uint32_t count, std::span<std::byte> out) const override {
    return worker_->model().kv().read(layer, block_table, begin, count, out);
  }
  result<void> write_kv(std::uint32_t layer, std::span<const block_index> block_table, std::uint32_t begin,
      std::uint32_t count, std::span<const std::byte> in) override {
    return worker_->model().kv().write(layer, block_table, begin, count, in);
  }

private:
  device_info info_;
  std::uint64_t memory_bytes_;
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
