// One I/O thread: descriptors (epoll), tasks from other threads (eventfd) and timers. Runs `end_of_turn` after every
// handler, when no code of ours is on the stack: the place for callbacks that may call back in. Knows nothing of
// transfers.
#pragma once
#include "actors/common/result.hpp"
#include "gpu/transport/unique_fd.hpp"
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace hflex::gpu {

class event_loop {
public:
  using task = std::function<void()>;
  using ready_handler = std::function<void(std::uint32_t epoll_events)>;
  using clock = std::chrono::steady_clock;
  using token = std::uint64_t; ///< names a watch or a timer; 0 = none

  /// errc::fatal when the process has no descriptors or threads left. The thread waits for `launch`.
  static result<std::unique_ptr<event_loop>> create();
  event_loop(const event_loop&) = delete;
  event_loop& operator=(const event_loop&) = delete;
  ~event_loop(); ///< stop() first

  result<void> launch(task end_of_turn);
  /// Ends the thread after `last` has run on it. Not from the loop's thread. Tasks posted later are dropped.
  void stop(task last);

  // ---- any thread ----
  void post(task t);
  /// Returns when `t` has run on the loop's thread; runs it at once when called there.
  void run_sync(const task& t);
  bool on_thread() const { return std::this_thread::get_id() == thread_id_; }

  // ---- the loop's thread only (or before launch) ----
  result<token> watch(int fd, std::uint32_t epoll_events, ready_handler handler);
  void change(token watch, int fd, std::uint32_t epoll_events);
  void unwatch(token watch, int fd);
  token after(std::chrono::nanoseconds delay, task t); ///< a delay below 0 counts as 0, one above a year as a year
  void cancel(token timer);
  /// Runs `t` later in this turn or in the next: for work that yields to others, and for what must not run under the
  /// caller.
  void defer(task t) { deferred_.push_back(std::move(t)); }

private:
  event_loop(unique_fd epoll, unique_fd wake) : epoll_{std::move(epoll)}, wake_{std::move(wake)} {}
  void run();
  void run_ready();
  void run_posted();
  void run_due();
  void run_deferred();
  int wait_ms() const;

  unique_fd epoll_;
  unique_fd wake_;
  task end_of_turn_;
  std::thread thread_;
  std::thread::id thread_id_;
  bool running_{true};
  token next_token_{1};
  std::map<token, std::shared_ptr<ready_handler>> watches_;
  std::map<std::pair<clock::time_point, token>, task> timers_;
  std::map<token, clock::time_point> timer_times_;
  std::vector<task> deferred_;
  std::mutex mutex_; // guards posted_ and accepting_
  std::vector<task> posted_;
  bool accepting_{true};
};

} // namespace hflex::gpu
