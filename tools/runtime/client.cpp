#include "tools/runtime/client.hpp"
#include "actors/wire/convert.hpp"
#include "actors/wire/shell.hpp"
#include "actors/wire/system.hpp"
#include "tools/runtime/net.hpp"
#include <set>

namespace hflex::runtime {
namespace {

namespace s = wire::schema;
using wire::msg;

wire::system_config& client_config() {
  // Outlives every actor system made from it. A head that ends breaks the connection; one that is silent for a while is
  // held up, as this process may have been.
  static wire::system_config config{{.peer_timeout = std::chrono::seconds{15}}};
  return config;
}

wire::client_actor::behavior_type client_shell(
    wire::client_actor::pointer self, std::shared_ptr<inbox> to, wire::router_actor router) {
  self->set_down_handler([self, to](caf::down_msg& down) {
    const auto stopped = down.reason == caf::exit_reason::user_shutdown;
    to->put(head_lost{stopped ? "it was stopped" : self->home_system().render(down.reason)});
  });
  wire::outlive_errors(self);
  self->monitor(router);
  return {
      [to](const msg<s::TokenChunk>& m) { to->put(m); },
      [to](const msg<s::JobRecord>& m) { to->put(m); },
      [to](const msg<s::Event>& m) { to->put(m); },
  };
}

} // namespace

void inbox::put(client_event e) {
  {
    std::lock_guard lock{mutex_};
    events_.push_back(std::move(e));
  }
  filled_.notify_one();
}

std::optional<client_event> inbox::take(duration timeout) {
  std::unique_lock lock{mutex_};
  if (!filled_.wait_for(lock, timeout, [this] { return !events_.empty(); })) return std::nullopt;
  auto e = std::move(events_.front());
  events_.pop_front();
  return e;
}

head_client::head_client()
    : system_(std::make_unique<system_parts>(client_config())), inbox_(std::make_shared<inbox>()) {}

head_client::~head_client() {
  if (self_) caf::anon_send_exit(self_, caf::exit_reason::user_shutdown);
  self_ = wire::client_actor{};
}

error head_client::explain(const caf::error& e) {
  if (e == caf::sec::request_timeout) return {errc::retry, "the head did not answer in time"};
  return {errc::reroute, "the head is gone: " + system_->system.render(e)};
}

result<std::unique_ptr<head_client>> head_client::connect(const cli::endpoint& at, duration timeout) {
  // CAF's own connect blocks without a deadline and tells little: see first whether somebody listens.
  if (auto there = probe(at, timeout); !there) return pass(there.error());
  std::unique_ptr<head_client> client{new head_client};
  auto& system = client->system_->system;
  auto& self = client->system_->self;
  result<void> connected;
  auto deadline = std::chrono::steady_clock::now() + timeout;
  for (bool again = true; again;) {
    again = false;
    self->request(system.middleman().actor_handle(), timeout, caf::connect_atom::value, at.host, at.port)
        .receive(
            [&](const caf::node_id&, caf::strong_actor_ptr& found, const std::set<std::string>& offered) {
              if (found == nullptr || !system.assignable(offered, system.message_types<wire::cluster_actor>()))
                connected = fail(errc::reject, "{} is not an hflex head of this version", cli::to_string(at));
              else
                client->cluster_ = caf::actor_cast<wire::cluster_actor>(found);
            },
            [&](const caf::error& e) {
              // CAF's heartbeat takes a connection whose first byte has not come yet for one that was silent for ever.
              again = e == caf::sec::connection_timeout && std::chrono::steady_clock::now() < deadline;
              connected = fail(
                  errc::retry, "{} does not answer as an hflex head does ({})", cli::to_string(at), system.render(e));
            });
    if (client->cluster_) connected = {};
  }
  if (!connected) return pass(connected.error());
  auto hello = msg<s::Hello>::make([](s::Hello::Builder out) { out.setProtocol(wire::protocol_version); });
  self->request(client->cluster_, timeout, hello)
      .receive(
          [&](const msg<s::Directory>& directory, const wire::router_actor& router,
              const wire::scheduler_actor& scheduler, const wire::scaler_actor& scaler, const wire::weights_actor&) {
            client->router_ = router;
            client->scheduler_ = scheduler;
            client->scaler_ = scaler;
            auto in = directory.read();
            client->model_ = wire::read(in->getModel());
            if (in->getProtocol() != wire::protocol_version)
              connected = fail(errc::reject, "the head speaks protocol {}, this hflex {}", in->getProtocol(),
                  wire::protocol_version);
          },
          [&](const caf::error& e) { connected = tl::unexpected<error>(client->explain(e)); });
  if (!connected) return pass(connected.error());
  client->self_ = system.spawn(client_shell, client->inbox_, client->router_);
  return client;
}

} // namespace hflex::runtime
