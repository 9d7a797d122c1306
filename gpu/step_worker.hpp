// A short queue of steps and the thread that works it off: what every device context has. The device says how a step is
// run; this decides when, refuses what is too much, and completes what is left when the context closes.
#pragma once
#include "gpu/device.hpp"
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace hflex::gpu {

/// Runs one step to its end on the worker's thread and says what came of it. Owns the device: it is destroyed when the
/// worker is.
using step_runner = std::function<step_result(const step_plan&)>;

/// Shared between the context and its own thread, which may outlive the context by the length of one callback.
class step_worker {
public:
  static std::shared_ptr<step_worker> start(step_runner run, std::uint32_t max_queued);

  /// As device_context::submit; what finds the queue full completes with errc::retry.
  void push(step_plan plan, step_callback done);
  /// Completes what is queued and ends the thread. A running step is finished first. Callable from a step's callback.
  void stop();

private:
  struct queued_step {
    step_plan plan;
    step_callback done;
    bool refused{};
  };

  step_worker(step_runner run, std::uint32_t max_queued) : run_(std::move(run)), max_queued_(max_queued) {}
  void work();
  void fail_queued();

  const step_runner run_;
  const std::uint32_t max_queued_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<queued_step> queue_;
  bool stopping_{false};
  std::thread thread_;
};

} // namespace hflex::gpu
