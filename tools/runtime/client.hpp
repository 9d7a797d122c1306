// A client of a running cluster: what the commands use to talk to a head. Blocking calls with deadlines; one thread.
#pragma once
#include "actors/common/result.hpp"
#include "actors/wire/interfaces.hpp"
#include "tools/cli/endpoint.hpp"
#include <condition_variable>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <variant>

namespace hflex::runtime {

/// What a client actor hears, handed to the command's thread.
struct head_lost {
  std::string reason;
};
using client_event = std::variant<wire::msg<wire::schema::TokenChunk>, wire::msg<wire::schema::JobRecord>,
    wire::msg<wire::schema::Event>, head_lost>;

/// Passes events from the actors' threads to the command's.
class inbox {
public:
  void put(client_event e);
  /// Nothing when none came in time.
  std::optional<client_event> take(duration timeout);

private:
  std::mutex mutex_;
  std::condition_variable filled_;
  std::deque<client_event> events_;
};

class head_client {
public:
  /// Connects and says hello. errc::retry: nobody listens there; errc::reject: it is no hflex head of this version.
  static result<std::unique_ptr<head_client>> connect(const cli::endpoint& at, duration timeout);
  ~head_client();

  /// Asks `to` and waits for the answer. errc::retry when none came in time; errc::reroute when the head is gone.
  template <class Answer, class To, class... Ts>
  result<Answer> ask(const To& to, duration timeout, Ts&&... xs);

  const wire::cluster_actor& cluster() const { return cluster_; }
  const wire::router_actor& router() const { return router_; }
  const wire::scheduler_actor& scheduler() const { return scheduler_; }
  const wire::scaler_actor& scaler() const { return scaler_; }
  const std::string& model() const { return model_; }
  /// The actor that submits and watches on this client's behalf; what it hears comes to events().
  const wire::client_actor& self() const { return self_; }
  inbox& events() { return *inbox_; }
  /// For actors of a command's own; they end with the client.
  caf::actor_system& system();

private:
  head_client();
  error explain(const caf::error& e);

  struct system_parts;
  std::unique_ptr<system_parts> system_;
  std::shared_ptr<inbox> inbox_;
  wire::client_actor self_;
  wire::cluster_actor cluster_;
  wire::router_actor router_;
  wire::scheduler_actor scheduler_;
  wire::scaler_actor scaler_;
  std::string model_;
};

struct head_client::system_parts {
  explicit system_parts(caf::actor_system_config& config) : system(config), self(system) {}
  caf::actor_system system;
  caf::scoped_actor self;
};

inline caf::actor_system& head_client::system() { return system_->system; }

// An actor of its own asks: CAF fails no question whose connection breaks after it was sent, so the asker monitors whom
// it asks. What was answered before the connection broke comes first.
template <class Answer, class To, class... Ts>
result<Answer> head_client::ask(const To& to, duration timeout, Ts&&... xs) {
  auto outcome = std::make_shared<std::promise<tl::expected<Answer, caf::error>>>();
  auto answer = outcome->get_future();
  system().spawn([=](caf::event_based_actor* asker) {
    auto settle = [=](tl::expected<Answer, caf::error> o) {
      outcome->set_value(std::move(o));
      asker->quit();
    };
    asker->set_down_handler([=](const caf::down_msg& down) { settle(tl::unexpected<caf::error>(down.reason)); });
    asker->monitor(to);
    asker->request(to, timeout, xs...)
        .then([=](const Answer& a) { settle(a); }, [=](const caf::error& e) { settle(tl::unexpected<caf::error>(e)); });
  });
  if (auto got = answer.get())
    return *got;
  else
    return tl::unexpected<error>(explain(got.error()));
}

} // namespace hflex::runtime
