// Connects to an actor that another process has published, without blocking the caller.
#pragma once
#include "actors/wire/compat.hpp"
#include <functional>
#include <set>
#include <string>

namespace hflex::wire {

/// Calls exactly one of `connected` and `failed`, in the context of `self`, within `timeout`.
template <class Handle, class Self>
void dial(Self* self, const std::string& host, std::uint16_t port, duration timeout,
    std::function<void(Handle)> connected, std::function<void(std::string)> failed) {
  auto& system = self->home_system();
  if (!system.has_middleman()) {
    failed("this process has no network");
    return;
  }
  self->request(system.middleman().actor_handle(), timeout, caf::connect_atom::value, host, port)
      .then(
          [&system, connected, failed, host, port](
              const caf::node_id&, caf::strong_actor_ptr& found, const std::set<std::string>& offered) {
            if (found == nullptr || !system.assignable(offered, system.template message_types<Handle>()))
              failed(fmt::format("{}:{} is not an hflex head of this version", host, port));
            else
              connected(caf::actor_cast<Handle>(found));
          },
          [&system, failed, host, port](
              const caf::error& e) { failed(fmt::format("{}:{}: {}", host, port, system.render(e))); });
}

} // namespace hflex::wire
