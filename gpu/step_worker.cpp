#include "gpu/step_worker.hpp"

namespace hflex::gpu {

std::shared_ptr<step_worker> step_worker::start(step_runner run, std::uint32_t max_queued) {
  std::shared_ptr<step_worker> self(new step_worker(std::move(run), max_queued));
  self->thread_ = std::thread([self] { self->work(); });
  return self;
}

void step_worker::push(step_plan plan, step_callback done) {
  const std::lock_guard lock(mutex_);
  const bool full = queue_.size() >= max_queued_;
  // What is too much is dropped here and answered by the worker: callbacks never run on the caller's thread.
  queue_.push_back({full ? step_plan{plan.id, {}, {}} : std::move(plan), std::move(done), full});
  wake_.notify_one();
}

void step_worker::stop() {
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

void step_worker::work() {
  for (;;) {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
    if (stopping_) break;
    queued_step step = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    step_result outcome =
        step.refused ? step_result{step.plan.id, {}, {},
                           fail(errc::retry, "step {}: {} steps are queued already", step.plan.id, max_queued_), {}}
                     : run_(step.plan);
    step.plan = {}; // the callback may submit the next one: give memory back first
    step.done(std::move(outcome));
  }
  fail_queued();
}

void step_worker::fail_queued() {
  std::deque<queued_step> left;
  {
    const std::lock_guard lock(mutex_);
    left.swap(queue_);
  }
  for (auto& step : left)
    step.done({step.plan.id, {}, {}, fail(errc::fatal, "step {}: the device context is closed", step.plan.id), {}});
}

} // namespace hflex::gpu
