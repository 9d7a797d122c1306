// What an instance says of the way to a counterpart that it was told to open. From the transport's thread straight to
// the cluster: it touches nothing of the instance.
#pragma once
#include "actors/common/ids.hpp"
#include "actors/wire/interfaces.hpp"
#include "gpu/transport/transport.hpp"

namespace hflex::instance {

inline gpu::link_callback link_answer(
    const wire::cluster_actor& cluster, instance_id from, instance_id to, std::uint64_t round) {
  return [cluster, from, to, round](const result<std::string>& path) {
    wire::tell_from_outside(
        cluster, wire::msg<wire::schema::LinkAnswer>::make([&](wire::schema::LinkAnswer::Builder out) {
          out.setFrom(from.value);
          out.setTo(to.value);
          out.setRound(round);
          out.setOpen(path.has_value());
          if (path)
            out.setTransport(*path);
          else
            out.setReason(path.error().message);
        }));
  };
}

} // namespace hflex::instance
