// Time that passes where there is no event to wait for (a thread has no way to say that it parked or entered a wait).
// The test must hold however long it takes; spinning only makes the case that it is about likely.
#pragma once
#include <chrono>
#include <thread>

namespace hflex::test {

inline void spin_for(std::chrono::milliseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) std::this_thread::yield();
}

} // namespace hflex::test
