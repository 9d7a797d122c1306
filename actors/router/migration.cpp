// The router's part in moving a decoding request: it passes the order on, learns where the request decodes, from a word
// or from its tokens, whichever comes first, and tells the scheduler once.
#include "actors/common/ids.hpp"
#include "actors/router/router.hpp"
#include <utility>

namespace hflex::router {

void core::on(const move& e, time_point, std::vector<effect>& out) {
  auto* r = running(e.key);
  if (!r) return; // told, or about to be, that the attempt has ended
  auto stays = [&](std::string why) {
    out.emplace_back(to_scheduler_moved{e.key, r->record.decode_instance, std::move(why)});
  };
  if (r->moving_to || r->record.decode_instance != e.from) return stays("it is not where it was thought to be");
  if (!e.to || e.to == e.from || gone_.count(e.to)) return stays(to_string(e.to) + " is no place to move it to");
  // Tokens of an earlier place may still be on their way; if `to` is that place, they must not be taken for its first.
  if (!r->saw_token || !r->held.empty()) return stays("its tokens have not all come yet");
  r->moving_to = e.to;
  note_place(*r, e.to); // whatever ends the attempt reaches both
  out.emplace_back(migrate_at{e.from, e.key, e.to});
}

void core::on(const migrated& e, time_point now, std::vector<effect>& out) {
  auto* r = running(e.key);
  if (!r || e.to == r->record.decode_instance) return;
  take_over(*r, e.to, out);
  r->last_sign = now;
  if (gone_.count(e.to))
    fail_attempt(*r, e.to, errc::reroute, to_string(e.to) + " died after it had taken the request over", now, out);
  announce(out);
}

void core::on(const migration_failed& e, time_point now, std::vector<effect>& out) {
  auto* r = running(e.key);
  if (!r || e.to != r->moving_to) return;
  r->moving_to = {};
  r->last_sign = now;
  out.emplace_back(to_scheduler_moved{e.key, r->record.decode_instance, e.reason});
}

void core::note_place(request& r, instance_id at) {
  if (!r.at(at)) r.places.push_back(at);
}

/// It decodes there from now on.
void core::take_over(request& r, instance_id by, std::vector<effect>& out) {
  note_place(r, by);
  r.record.decode_instance = by;
  r.decoding = true;
  ++r.record.migrations;
  if (std::exchange(r.moving_to, {})) out.emplace_back(to_scheduler_moved{r.key(), by, {}});
}

} // namespace hflex::router
