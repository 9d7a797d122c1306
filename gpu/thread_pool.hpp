// The compute threads of one device context. One owner calls parallel_for; everybody works; it returns when all is
// done. Between calls threads spin for some microseconds (the next call of a step is near), then park on a futex: an
// idle context costs nothing, and a preempted thread delays only the piece it holds.
//
// Pieces are claimed one by one from a counter. With a fixed share per thread, one thread that a neighbour pushed off
// its core would hold up all others; results cannot tell the difference, because no kernel's result depends on who runs
// it.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace hflex::gpu {

class thread_pool {
public:
  /// `threads` >= 1 counts the caller of parallel_for.
  explicit thread_pool(std::uint32_t threads);
  ~thread_pool();
  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;

  std::uint32_t threads() const { return static_cast<std::uint32_t>(workers_.size()) + 1; }

  /// Calls body(index, thread) for every index in [0, count), in any order, on any thread in [0, threads()); the caller
  /// is thread 0. Returns when all have returned. One call at a time; the body must neither throw nor call
  /// parallel_for. count < 2^31. One piece runs on the caller at once, without waking anybody.
  template <class Body>
  void parallel_for(std::uint32_t count, const Body& body) {
    if (count <= 1 || workers_.empty()) {
      for (std::uint32_t i = 0; i < count; ++i) body(i, std::uint32_t{0});
      return;
    }
    run(count, &call<Body>, &body);
  }

private:
  using function = void (*)(const void* body, std::uint32_t index, std::uint32_t thread);
  template <class Body>
  static void call(const void* body, std::uint32_t index, std::uint32_t thread) {
    (*static_cast<const Body*>(body))(index, thread);
  }
  void run(std::uint32_t count, function f, const void* body);
  void work(std::uint32_t thread);
  /// Runs pieces of the current job until none is left to claim.
  void drain(std::uint32_t thread);
  bool has_work() const;
  void park();

  function function_{};
  const void* body_{};
  /// count << 32 | next. A successful claim proves that the job it names is still open, so function_ and body_ are its
  /// own.
  alignas(64) std::atomic<std::uint64_t> ticket_{0};
  alignas(64) std::atomic<std::uint32_t> finished_{0}; ///< pieces of the current job that have returned
  std::atomic<bool> owner_waits_{false};
  alignas(64) std::atomic<std::uint32_t> parked_{0};
  std::atomic<std::uint32_t> wake_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

/// Cores that this process may use (its affinity mask); at least 1.
std::uint32_t usable_cores();

} // namespace hflex::gpu
