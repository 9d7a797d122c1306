// A few threads, one for each task that blocks for long, bounded in number and joined by their owner.
#pragma once
#include <atomic>
#include <functional>
#include <list>
#include <mutex>
#include <system_error>
#include <thread>

namespace hflex::gpu {

class task_crew {
public:
  explicit task_crew(std::size_t most) : most_(most) {}
  task_crew(const task_crew&) = delete;
  task_crew& operator=(const task_crew&) = delete;
  /// Asks the tasks to stop and waits for them.
  ~task_crew() {
    stopping_ = true;
    for (auto& m : members_) m.thread.join();
  }

  /// Runs `task` on a thread of its own; it looks at its argument now and then and ends soon when that is true. False:
  /// too many run, or there is no thread to be had. Any thread.
  bool run(std::function<void(const std::atomic<bool>& stopping)> task) {
    const std::lock_guard lock(mutex_);
    members_.remove_if([](member& m) {
      if (m.done) m.thread.join();
      return m.done.load();
    });
    if (members_.size() >= most_) return false;
    auto& m = members_.emplace_back();
    try {
      m.thread = std::thread([this, &m, t = std::move(task)] {
        t(stopping_);
        m.done = true;
      });
    } catch (const std::system_error&) {
      members_.pop_back();
      return false;
    }
    return true;
  }

private:
  struct member {
    std::thread thread;
    std::atomic<bool> done{false};
  };
  const std::size_t most_;
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::list<member> members_;
};

} // namespace hflex::gpu
