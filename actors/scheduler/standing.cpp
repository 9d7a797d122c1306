#include "actors/scheduler/standing.hpp"
#include <fmt/format.h>

namespace hflex::scheduler {

std::optional<std::string> closed(const view& v, const instance_load& at) {
  if (at.draining) return "is draining";
  if (at.shut) return "still waits for its weights";
  if (!can_prefill(at.is.role)) return "does not prefill: its role is decode";
  if (!has_room(v, at)) return fmt::format("has its hands full with {} requests", at.outstanding);
  return std::nullopt;
}

standing standing_by_arrival(const view& v, request_key key) {
  const auto& w = v.waiting.at(key);
  standing s;
  s.band = "first come, first served";
  s.of = static_cast<std::uint32_t>(v.first_come.size());
  for (const auto& [order, other] : v.first_come) s.position += order <= w.order ? 1 : 0;
  s.due = token_deadline(w.request.arrival, w.request.slo, w.request.produced);
  s.ask_each(v, [&](const instance_load& at) {
    return closed(v, at).value_or(fmt::format(
        "has {} requests and {} prefill tokens in hand: the policy waits", at.outstanding, at.pending_prefill));
  });
  return s;
}

} // namespace hflex::scheduler
