#include "gpu/thread_pool.hpp"
#include "actors/common/check.hpp"
#include <sched.h>

namespace hflex::gpu {
namespace {

/// Some tens of microseconds: longer than the serial parts between two calls of a step, shorter than a scheduler tick.
constexpr int spins = 2000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

} // namespace

thread_pool::thread_pool(std::uint32_t threads) {
  HFLEX_CHECK(threads >= 1);
  workers_.reserve(threads - 1);
  for (std::uint32_t t = 1; t < threads; ++t) workers_.emplace_back([this, t] { work(t); });
}

thread_pool::~thread_pool() {
  stop_.store(true);
  wake_.fetch_add(1);
  wake_.notify_all();
  for (auto& w : workers_) w.join();
}

bool thread_pool::has_work() const {
  const std::uint64_t ticket = ticket_.load();
  return static_cast<std::uint32_t>(ticket) < ticket >> 32U;
}

void thread_pool::drain(std::uint32_t thread) {
  std::uint64_t ticket = ticket_.load();
  for (;;) {
    const auto index = static_cast<std::uint32_t>(ticket);
    const auto count = static_cast<std::uint32_t>(ticket >> 32U);
    if (index >= count) return;
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1)) continue;
    function_(body_, index, thread);
    // The last piece wakes the owner. After this the job may be gone: touch nothing of it.
    if (finished_.fetch_add(1) + 1 == count && owner_waits_.load()) finished_.notify_one();
    ticket = ticket_.load();
  }
}

void thread_pool::run(std::uint32_t count, function f, const void* body) {
  function_ = f;
  body_ = body;
  finished_.store(0);
  ticket_.store(std::uint64_t{count} << 32U);
  // Either a parking worker sees the new ticket, or we see that it parks (both sides store, then load).
  if (parked_.load() > 0) {
    wake_.fetch_add(1);
    wake_.notify_all();
  }
  drain(0);
  for (int i = 0; i < spins; ++i) {
    if (finished_.load() == count) return;
    pause();
  }
  owner_waits_.store(true);
  for (std::uint32_t seen = finished_.load(); seen != count; seen = finished_.load()) finished_.wait(seen);
  owner_waits_.store(false);
}

void thread_pool::park() {
  const std::uint32_t before = wake_.load();
  parked_.fetch_add(1);
  if (!has_work() && !stop_.load()) wake_.wait(before);
  parked_.fetch_sub(1);
}

void thread_pool::work(std::uint32_t thread) {
  while (!stop_.load()) {
    drain(thread);
    int idle = 0;
    while (idle < spins && !has_work() && !stop_.load(std::memory_order_relaxed)) {
      pause();
      ++idle;
    }
    if (idle == spins) park();
  }
}

std::uint32_t usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
    return static_cast<std::uint32_t>(CPU_COUNT(&set));
  const unsigned cores = std::thread::hardware_concurrency();
  return cores > 0 ? cores : 1;
}

} // namespace hflex::gpu
