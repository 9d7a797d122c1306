// Callbacks that are due. They run when the I/O thread has nothing of ours on its stack, so that a callback may call
// anything; one that has not run yet can still be withdrawn by close. I/O thread only.
#pragma once
#include "gpu/transport/transport.hpp"
#include <deque>
#include <functional>

namespace hflex::gpu {

class completion_queue {
public:
  void add(transfer_side side, transfer_id id, transfer_callback callback, result<void> outcome) {
    due_.push_back({side, id, [id, f = std::move(callback), r = std::move(outcome)] {
                      if (f) f(id, r);
                    }});
  }
  /// For completions that nobody can withdraw.
  void add(std::function<void()> callback) { due_.push_back({transfer_side::sink, {}, std::move(callback)}); }
  void withdraw(transfer_side side, transfer_id id) {
    std::erase_if(due_, [&](const entry& e) { return e.side == side && e.id == id && e.id; });
  }
  void run() {
    while (!due_.empty()) {
      const entry e = std::move(due_.front());
      due_.pop_front();
      e.callback();
    }
  }

private:
  struct entry {
    transfer_side side;
    transfer_id id; // none = cannot be withdrawn
    std::function<void()> callback;
  };
  std::deque<entry> due_;
};

} // namespace hflex::gpu
