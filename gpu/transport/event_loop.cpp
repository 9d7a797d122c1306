#include "gpu/transport/event_loop.hpp"
#include "actors/common/check.hpp"
#include <algorithm>
#include <array>
#include <csignal>
#include <future>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <system_error>

namespace hflex::gpu {
namespace {

constexpr event_loop::token wake_token = 0;
constexpr std::size_t events_per_turn = 64;

/// Signals are for the process's own threads, not for this one.
class blocked_signals {
public:
  blocked_signals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~blocked_signals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  blocked_signals(const blocked_signals&) = delete;
  blocked_signals& operator=(const blocked_signals&) = delete;

private:
  sigset_t before_{};
};

bool epoll_control(int epoll, int operation, int fd, std::uint32_t events, event_loop::token t) {
  epoll_event e{};
  e.events = events;
  e.data.u64 = t;
  return ::epoll_ctl(epoll, operation, fd, &e) == 0;
}

} // namespace

result<std::unique_ptr<event_loop>> event_loop::create() {
  unique_fd epoll{::epoll_create1(EPOLL_CLOEXEC)};
  unique_fd wake{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  if (!epoll || !wake || !epoll_control(epoll.get(), EPOLL_CTL_ADD, wake.get(), EPOLLIN, wake_token))
    return fail(errc::fatal, "no descriptors left for an I/O thread");
  return std::unique_ptr<event_loop>{new event_loop{std::move(epoll), std::move(wake)}};
}

event_loop::~event_loop() { HFLEX_CHECK(!thread_.joinable()); }

result<void> event_loop::launch(task end_of_turn) {
  end_of_turn_ = std::move(end_of_turn);
  const blocked_signals quiet;
  try {
    std::promise<void> may_run;
    thread_ = std::thread{[this, go = may_run.get_future().share()] {
      go.wait();
      run();
    }};
    thread_id_ = thread_.get_id();
    pthread_setname_np(thread_.native_handle(), "hflex-transport");
    may_run.set_value();
  } catch (const std::system_error& e) {
    return fail(errc::fatal, "cannot start an I/O thread: {}", e.what());
  }
  return {};
}

void event_loop::stop(task last) {
  HFLEX_CHECK(!on_thread());
  if (!thread_.joinable()) return;
  run_sync([&] {
    last();
    running_ = false;
  });
  thread_.join();
  const std::lock_guard lock{mutex_};
  accepting_ = false;
  posted_.clear();
}

void event_loop::post(task t) {
  bool first = false;
  {
    const std::lock_guard lock{mutex_};
    if (!accepting_) return;
    first = posted_.empty();
    posted_.push_back(std::move(t));
  }
  if (!first) return;
  const std::uint64_t one = 1;
  HFLEX_CHECK(::write(wake_.get(), &one, sizeof one) == sizeof one);
}

void event_loop::run_sync(const task& t) {
  if (on_thread()) {
    t();
    return;
  }
  auto done = std::make_shared<std::promise<void>>();
  const auto ran = done->get_future();
  post([&t, end = std::move(done)] { // only the task holds the promise: a dropped task wakes us, too
    t();
    end->set_value();
  });
  ran.wait();
}

result<event_loop::token> event_loop::watch(int fd, std::uint32_t epoll_events, ready_handler handler) {
  const token t = next_token_++;
  if (!epoll_control(epoll_.get(), EPOLL_CTL_ADD, fd, epoll_events, t))
    return fail(errc::fatal, "cannot watch a descriptor");
  watches_.emplace(t, std::make_shared<ready_handler>(std::move(handler)));
  return t;
}

void event_loop::change(token watch, int fd, std::uint32_t epoll_events) {
  HFLEX_CHECK(epoll_control(epoll_.get(), EPOLL_CTL_MOD, fd, epoll_events, watch));
}

void event_loop::unwatch(token watch, int fd) {
  if (watches_.erase(watch) > 0) HFLEX_CHECK(epoll_control(epoll_.get(), EPOLL_CTL_DEL, fd, 0, watch));
}

event_loop::token event_loop::after(std::chrono::nanoseconds delay, task t) {
  constexpr std::chrono::nanoseconds none{0};
  constexpr std::chrono::nanoseconds year = std::chrono::hours{24 * 365};
  const token name = next_token_++;
  const auto when = clock::now() + std::clamp(delay, none, year);
  timers_.emplace(std::pair{when, name}, std::move(t));
  timer_times_.emplace(name, when);
  return name;
}

void event_loop::cancel(token timer) {
  const auto it = timer_times_.find(timer);
  if (it == timer_times_.end()) return;
  timers_.erase({it->second, timer});
  timer_times_.erase(it);
}

int event_loop::wait_ms() const {
  if (!deferred_.empty()) return 0;
  if (timers_.empty()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(timers_.begin()->first.first - clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000));
}

void event_loop::run() {
  while (running_) {
    run_ready();
    run_posted();
    run_due();
    run_deferred();
  }
  watches_.clear();
  timers_.clear();
  timer_times_.clear();
  deferred_.clear();
}

void event_loop::run_ready() {
  std::array<epoll_event, events_per_turn> events{};
  const int n = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), wait_ms());
  for (int i = 0; i < n && running_; ++i) {
    const epoll_event& e = events[static_cast<std::size_t>(i)];
    const std::uint64_t whose = e.data.u64; // by value: the struct is packed, and nothing may refer into it
    if (whose == wake_token) {
      std::uint64_t count = 0;
      HFLEX_CHECK(::read(wake_.get(), &count, sizeof count) == sizeof count);
      continue;
    }
    const auto it = watches_.find(whose);
    if (it == watches_.end()) continue; // unwatched by an earlier handler of this turn
    const auto handler = it->second;
    (*handler)(e.events);
    end_of_turn_();
  }
}

void event_loop::run_posted() {
  std::vector<task> tasks;
  {
    const std::lock_guard lock{mutex_};
    tasks.swap(posted_);
  }
  for (auto& t : tasks) {
    if (!running_) return;
    t();
    t = nullptr; // what it holds must not outlive its run
    end_of_turn_();
  }
}

void event_loop::run_due() {
  const auto now = clock::now();
  while (running_ && !timers_.empty() && timers_.begin()->first.first <= now) {
    auto node = timers_.extract(timers_.begin());
    timer_times_.erase(node.key().second);
    node.mapped()();
    end_of_turn_();
  }
}

void event_loop::run_deferred() {
  std::vector<task> tasks;
  tasks.swap(deferred_);
  for (auto& t : tasks) {
    if (!running_) return;
    t();
    end_of_turn_();
  }
}

} // namespace hflex::gpu
