#include "tools/runtime/process.hpp"
#include <climits>
#include <csignal>
#include <pthread.h>
#include <sys/random.h>
#include <unistd.h>

namespace hflex::runtime {
namespace {

sigset_t held_set() {
  sigset_t set;
  sigemptyset(&set);
  for (int s : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&set, s);
  return set;
}

} // namespace

void hold_signals() {
  auto set = held_set();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

void release_signals() {
  auto set = held_set();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_DFL);
}

std::optional<int> next_signal(duration timeout) {
  auto set = held_set();
  timespec wait{};
  wait.tv_sec = static_cast<time_t>(timeout.count() / 1'000'000'000);
  wait.tv_nsec = static_cast<long>(timeout.count() % 1'000'000'000);
  auto signal = sigtimedwait(&set, nullptr, &wait);
  return signal > 0 ? std::optional{signal} : std::nullopt;
}

std::uint64_t random_bits() {
  std::uint64_t bits = 0;
  while (getrandom(&bits, sizeof(bits), 0) != static_cast<ssize_t>(sizeof(bits))) {
  }
  return bits;
}

std::uint64_t unix_ms() {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
}

std::string host_name() {
  char name[HOST_NAME_MAX + 1] = {};
  return gethostname(name, sizeof(name) - 1) == 0 && name[0] != '\0' ? name : "localhost";
}

std::string self_path() {
  char path[PATH_MAX] = {};
  auto size = readlink("/proc/self/exe", path, sizeof(path) - 1);
  return size > 0 ? std::string{path, static_cast<std::size_t>(size)} : "hflex";
}

worker::worker() : thread_([this] { run(); }) {}

worker::~worker() {
  {
    std::lock_guard lock{mutex_};
    ending_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void worker::post(std::function<void()> job) {
  {
    std::lock_guard lock{mutex_};
    jobs_.push_back(std::move(job));
  }
  wake_.notify_one();
}

void worker::run() {
  std::unique_lock lock{mutex_};
  while (true) {
    wake_.wait(lock, [this] { return ending_ || !jobs_.empty(); });
    if (ending_) return;
    auto job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
    job = nullptr; // what it holds is freed here, not under the lock
    lock.lock();
  }
}

} // namespace hflex::runtime
