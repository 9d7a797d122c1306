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

/// Waits for what another thread does without telling; false when it did not within `limit`, which fails the test.
template <class Predicate>
bool spin_until(Predicate holds, std::chrono::milliseconds limit = std::chrono::seconds{20}) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!holds() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  return holds();
}

} // namespace hflex::test
