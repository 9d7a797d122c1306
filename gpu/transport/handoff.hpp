// Values on their way to the I/O thread. It may take them at any moment it needs to know them, not only when the task
// that was posted for them runs: an invitation must hold from the moment `expect` returned.
#pragma once
#include <mutex>
#include <utility>
#include <vector>

namespace hflex::gpu {

template <class T>
class handoff {
public:
  void put(T value) {
    const std::lock_guard lock{mutex_};
    values_.push_back(std::move(value));
  }
  std::vector<T> take_all() {
    const std::lock_guard lock{mutex_};
    return std::exchange(values_, {});
  }

private:
  std::mutex mutex_;
  std::vector<T> values_;
};

} // namespace hflex::gpu
