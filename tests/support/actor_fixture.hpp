// One actor system without threads, on a virtual clock: what happens depends on nothing but the test. Messages are
// delivered by run(), time passes by advance() alone.
#pragma once
#include "actors/wire/interfaces.hpp"
#include "actors/wire/system.hpp"
#include "tests/support/catch.hpp"
#include <caf/scheduler/test_coordinator.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace hflex::test {

/// What came back of a question, or is still to come.
template <class Reply>
struct answer {
  std::optional<Reply> value;
  std::string error; ///< as CAF renders it
  bool pending() const { return !value && error.empty(); }
};

class actor_fixture {
public:
  actor_fixture() = default;
  actor_fixture(const actor_fixture&) = delete;
  actor_fixture& operator=(const actor_fixture&) = delete;
  ~actor_fixture() {
    scheduler.run();
    scheduler.inline_all_enqueues(); // what the system itself still has to do at its end
  }

  /// Delivers messages until no actor has any.
  void run() { scheduler.run(); }
  time_point now() {
    return time_point{std::chrono::duration_cast<duration>(scheduler.clock().now().time_since_epoch())};
  }

  /// Asks in the name of an actor of its own; the answer may come with a later run() or advance().
  template <class Reply, class Handle, class... Ts>
  std::shared_ptr<answer<Reply>> ask_later(const Handle& to, const Ts&... xs) {
    auto reply = std::make_shared<answer<Reply>>();
    system.spawn(
        [to, xs...](caf::event_based_actor* self, const std::shared_ptr<answer<Reply>>& slot) {
          self->request(to, std::chrono::seconds{3600}, xs...)
              .then([slot](const Reply& r) { slot->value = r; },
                  [slot, self](const caf::error& e) { slot->error = self->home_system().render(e); });
        },
        reply);
    scheduler.run();
    return reply;
  }

  /// The same for what is answered at once.
  template <class Reply, class Handle, class... Ts>
  Reply ask(const Handle& to, const Ts&... xs) {
    auto slot = ask_later<Reply>(to, xs...);
    INFO(slot->error);
    REQUIRE(slot->value);
    return *slot->value;
  }

  /// The error with which a message is refused that has no answer otherwise; empty when it is taken.
  template <class Handle, class... Ts>
  std::string error_of(const Handle& to, const Ts&... xs) {
    auto refusal = std::make_shared<std::string>();
    system.spawn(
        [to, xs...](caf::event_based_actor* self, const std::shared_ptr<std::string>& error) {
          self->request(to, std::chrono::seconds{3600}, xs...)
              .then([] {}, [error, self](const caf::error& e) { *error = self->home_system().render(e); });
        },
        refusal);
    scheduler.run();
    return *refusal;
  }

  template <class Handle>
  void kill(const Handle& handle) {
    caf::anon_send_exit(handle, caf::exit_reason::kill);
    scheduler.run();
  }

  wire::system_config config{wire::system_options{.network = false, .testing = true}};
  caf::actor_system system{config};
  caf::scheduler::test_coordinator& scheduler{dynamic_cast<caf::scheduler::test_coordinator&>(system.scheduler())};
};

} // namespace hflex::test
