// How shells talk to CAF 0.17.6 (the version of Debian 12, 13 and Ubuntu 22.04, 24.04). A port to CAF 1.x changes this
// file, the inspect overload of msg.hpp and tools/cmake/FindCAF_any.cmake; shells use only what is here.
#pragma once
#include "actors/common/time.hpp"
#include "actors/wire/msg.hpp"
#include <caf/all.hpp>
#include <caf/io/all.hpp>
#include <functional>
#include <kj/exception.h>
#include <map>
#include <string>

namespace hflex::wire {

// ---- signatures of typed actors ----
template <class Reply, class... Ts>
struct signature {
  using type = typename caf::replies_to<Ts...>::template with<Reply>;
};
template <class... Ts>
struct signature<void, Ts...> {
  using type = caf::reacts_to<Ts...>;
};
/// A message that is answered.
template <class Reply, class... Ts>
using asks = typename signature<Reply, Ts...>::type;
/// A message that is not.
template <class... Ts>
using tells = typename signature<void, Ts...>::type;

// ---- sending ----
template <class Self, class Dest, class... Ts>
void tell(Self* self, const Dest& to, Ts&&... xs) {
  if (to) self->send(to, std::forward<Ts>(xs)...);
}
/// Overtakes what waits in the receiver's mailbox (cancel, drain).
template <class Self, class Dest, class... Ts>
void tell_urgent(Self* self, const Dest& to, Ts&&... xs) {
  if (to) self->template send<caf::message_priority::high>(to, std::forward<Ts>(xs)...);
}
template <class Self, class Dest, class... Ts>
void tell_after(Self* self, duration delay, const Dest& to, Ts&&... xs) {
  self->delayed_send(to, delay, std::forward<Ts>(xs)...);
}
/// From threads that are no actors (device and transport callbacks).
template <class Dest, class... Ts>
void tell_from_outside(const Dest& to, Ts&&... xs) {
  caf::anon_send(to, std::forward<Ts>(xs)...);
}
/// Every question has a time-out: a reply may never come.
template <class Self, class Dest, class... Ts>
auto ask(Self* self, duration timeout, const Dest& to, Ts&&... xs) {
  return self->request(to, timeout, std::forward<Ts>(xs)...);
}

/// The system's clock as cluster time; virtual in the deterministic tests.
template <class Self>
time_point now(Self* self) {
  return time_point{std::chrono::duration_cast<duration>(self->home_system().clock().now().time_since_epoch())};
}

// ---- handlers ----
/// A handle that comes over the network is null when its actor has ended, or its node cannot be reached: to watch it
/// would end the process. Which one it was does not matter, it is as if the message had come too late.
template <class... Handles>
bool all_there(const Handles&... handles) {
  return (true && ... && static_cast<bool>(handles));
}

/// on<Schema>(f) makes a handler `void(const msg<Schema>&, Extra...)` from f(Schema::Reader, Extra...).
/// CAF ends an actor whose handler throws, and malformed Cap'n Proto throws: here it becomes an error to the sender
/// instead. So does a handle of nobody.
template <class Reply, class Schema, class... Extra, class F>
auto on_ask(F f) {
  return [f = std::move(f)](const msg<Schema>& m, const Extra&... xs) -> caf::result<Reply> {
    if (!all_there(xs...)) return caf::make_error(caf::sec::invalid_argument, std::string{"a handle of nobody"});
    try {
      auto v = m.read();
      return f(*v, xs...);
    } catch (const kj::Exception& e) {
      return caf::make_error(caf::sec::invalid_argument, std::string{e.getDescription().cStr()}.substr(0, 200));
    }
  };
}
template <class Schema, class... Extra, class F>
auto on(F f) {
  return [f = std::move(f)](const msg<Schema>& m, const Extra&... xs) -> caf::result<void> {
    if (!all_there(xs...)) return caf::make_error(caf::sec::invalid_argument, std::string{"a handle of nobody"});
    try {
      auto v = m.read();
      f(*v, xs...);
      return caf::unit;
    } catch (const kj::Exception& e) {
      return caf::make_error(caf::sec::invalid_argument, std::string{e.getDescription().cStr()}.substr(0, 200));
    }
  };
}

/// One callback per watched actor, called once when it ends or its node is lost. A member of the watching actor's
/// state.
class watcher {
public:
  using callback = std::function<void(const std::string& reason)>;

  template <class Self, class Handle>
  void watch(Self* self, const Handle& handle, callback f) {
    if (!installed_) {
      installed_ = true;
      self->set_down_handler([this, self](caf::down_msg& down) {
        auto reason = self->home_system().render(down.reason);
        auto [first, last] = callbacks_.equal_range(down.source);
        std::vector<callback> due;
        for (auto i = first; i != last; ++i) due.push_back(std::move(i->second));
        callbacks_.erase(first, last);
        for (auto& g : due) g(reason);
      });
    }
    callbacks_.emplace(handle.address(), std::move(f));
    self->monitor(handle);
  }

  /// No callback follows.
  template <class Self, class Handle>
  void forget(Self* self, const Handle& handle) {
    if (callbacks_.erase(handle.address()) > 0) self->demonitor(handle.address());
  }

private:
  bool installed_{false};
  std::multimap<caf::actor_addr, callback> callbacks_;
};

} // namespace hflex::wire
