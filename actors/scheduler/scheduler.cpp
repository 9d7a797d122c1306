#include "actors/scheduler/scheduler.hpp"
#include "actors/common/check.hpp"
#include "actors/scheduler/decision_log.hpp"
#include "actors/scheduler/evacuate.hpp"
#include "actors/scheduler/ledger.hpp"
#include <algorithm>

namespace hflex::scheduler {

/// Carries decisions out on the ledger as they are made, and records them as effects and for people.
class core::recorder final : public decisions {
public:
  recorder(ledger& books, decision_log& log, time_point now, std::vector<effect>& out)
      : books_(books), log_(log), now_(now), out_(out) {}

  void dispatch(request_key key, placement to) override {
    books_.place(key, to, now_);
    if (log_.on()) log_.add(key, happening_kind::dispatched, now_, to.why, to.prefill, to.decode);
    out_.emplace_back(scheduler::dispatch{key, to.prefill, to.decode, to.reserved_blocks, std::move(to.why)});
  }
  void shed(request_key key, std::string reason) override {
    books_.drop_waiting(key);
    if (log_.on()) log_.add(key, happening_kind::shed, now_, reason);
    out_.emplace_back(scheduler::shed{key, std::move(reason)});
  }
  void migrate(request_key key, instance_id to, explanation why) override {
    const auto from = books_.begin_move(key, to);
    if (log_.on()) log_.add(key, happening_kind::moving, now_, why, {}, to);
    out_.emplace_back(scheduler::migrate{key, from, to, std::move(why)});
  }
  void wake(time_point when) override {
    if (!wake_ || when < *wake_) wake_ = when;
  }
  void demoted(request_key key, const explanation& why) override { log_.add(key, happening_kind::demoted, now_, why); }
  void used_for(instance_id instance, instance_role duty) override {
    out_.emplace_back(scheduler::used_for{instance, duty});
  }
  std::optional<time_point> wanted_wake() const { return wake_; }

private:
  ledger& books_;
  decision_log& log_;
  time_point now_;
  std::vector<effect>& out_;
  std::optional<time_point> wake_;
};

namespace {

std::string why_unserviceable(const fleet_abilities& fleet) {
  if (fleet.prefill > 0) return "no decode instance";
  return fleet.decode > 0 ? "no prefill instance" : "no instance";
}

// Whether something that `before` could hold may be too big for `now`.
bool may_hold_less(const fleet_abilities& before, const fleet_abilities& now) {
  return now.mixed_tokens < before.mixed_tokens || now.prefill_tokens < before.prefill_tokens ||
         now.decode_tokens < before.decode_tokens || now.serviceable() != before.serviceable();
}

result<void> check_options(const options& o) {
  const auto positive = [](duration d) { return d > duration{0}; };
  if (o.max_queued == 0) return fail(errc::reject, "max_queued: expected 1 or more");
  if (o.max_outstanding == 0) return fail(errc::reject, "max_outstanding: expected 1 or more");
  if (o.max_unstarted == 0) return fail(errc::reject, "max_unstarted: expected 1 or more");
  if (o.plan_depth == 0) return fail(errc::reject, "plan_depth: expected 1 or more");
  if (!positive(o.max_wait)) return fail(errc::reject, "max_wait: expected more than 0");
  if (!positive(o.report_timeout)) return fail(errc::reject, "report_timeout: expected more than 0");
  if (!positive(o.replan_every)) return fail(errc::reject, "replan_every: expected more than 0");
  if (!(o.length_quantile > 0 && o.length_quantile <= 1)) return fail(errc::reject, "length_quantile: expected (0, 1]");
  if (!(o.ageing_factor >= 0) || o.ageing_floor < duration{0}) return fail(errc::reject, "ageing: expected 0 or more");
  if (!(o.ageing_share > 0 && o.ageing_share <= 1)) return fail(errc::reject, "ageing_share: expected (0, 1]");
  if (!(o.lost_after >= 0)) return fail(errc::reject, "lost_after: expected 0 or more");
  return {};
}

} // namespace

struct core::kept {
  kept(const options& opts, std::unique_ptr<policy> p) : books(opts, std::move(p)), log(opts.max_explained) {}

  ledger books;
  decision_log log;
  evacuation leavers;
  std::optional<time_point> armed;               ///< the wake_at that is under way
  std::optional<time_point> unserviceable_since; ///< since when no instance can serve anything
};

result<core> core::make(const options& opts) {
  if (auto ok = check_options(opts); !ok) return pass(ok.error());
  return make_policy(opts).map([&](std::unique_ptr<policy>&& p) { return core(opts, std::move(p)); });
}

core::core(const options& opts, std::unique_ptr<policy> p) : kept_(std::make_unique<kept>(opts, std::move(p))) {}
core::core(core&&) noexcept = default;
core& core::operator=(core&&) noexcept = default;
core::~core() = default;

const view& core::state() const { return kept_->books.state(); }
std::uint64_t core::looks() const { return kept_->books.chooser().looks(); }
bool core::mixed_apart() const { return kept_->books.chooser().mixed_apart(); }

bool core::turn_away_if_too_big(const request_arrived& r, std::vector<effect>& out) const {
  const auto& fleet = state().fleet;
  if (fleet.can_hold(r)) return false;
  out.emplace_back(shed{r.key,
      fmt::format("too long: {} prompt + {} output tokens need more KV blocks than any instance has (largest pool: {} "
                  "tokens)",
          r.prompt_tokens, r.max_output_tokens, fleet.largest_tokens())});
  return true;
}

// The last effect turned a request away.
void core::note_shed(time_point now, const std::vector<effect>& out) {
  const auto& e = std::get<shed>(out.back());
  kept_->log.add(e.key, happening_kind::shed, now, e.reason);
}

// The fleet changed: what waits and cannot be held by any instance any more is turned away.
void core::recheck_waiting(const fleet_abilities& before, time_point now, std::vector<effect>& out) {
  if (!may_hold_less(before, state().fleet)) return;
  std::vector<request_key> too_big;
  for (const auto& [key, w] : state().waiting)
    if (turn_away_if_too_big(w.request, out)) {
      too_big.push_back(key);
      note_shed(now, out);
    }
  for (auto key : too_big) kept_->books.drop_waiting(key);
}

void core::give_up_waiting(time_point now, decisions& d) {
  const auto& v = state();
  if (v.fleet.serviceable()) {
    kept_->unserviceable_since.reset();
    return;
  }
  if (!kept_->unserviceable_since) kept_->unserviceable_since = now;
  while (!v.first_come.empty()) {
    const auto key = v.first_come.begin()->second;
    const auto until =
        std::max(v.waiting.at(key).queued_at, *kept_->unserviceable_since) + kept_->books.opts().max_wait;
    if (now < until) return d.wake(until);
    d.shed(key, why_unserviceable(v.fleet));
  }
}

void core::plan(time_point now, std::vector<effect>& out) {
  recorder d(kept_->books, kept_->log, now, out);
  give_up_waiting(now, d);
  if (!state().waiting.empty() && !kept_->unserviceable_since) {
    kept_->books.chooser().plan(state(), now, d);
    // Whatever happens or does not happen outside, there is a next look.
    if (!state().waiting.empty()) d.wake(now + kept_->books.opts().replan_every);
  }
  settle(now, d, out);
}

// What follows every plan.
void core::settle(time_point now, recorder& d, std::vector<effect>& out) {
  kept_->books.chooser().balance(state(), now, d);
  kept_->leavers.move_out(state(), now, d);
  const auto wake = d.wanted_wake();
  if (!wake || (kept_->armed && *kept_->armed <= *wake)) return;
  kept_->armed = wake;
  out.emplace_back(wake_at{*wake});
}

// Most requests of a fleet that has room: placed without ever having waited.
bool core::admit_newcomer(time_point now, std::vector<effect>& out) {
  if (!state().waiting.empty() || !state().fleet.serviceable()) return false;
  kept_->unserviceable_since.reset();
  recorder d(kept_->books, kept_->log, now, out);
  kept_->books.chooser().place_newcomer(state(), kept_->books.newcomer(), now, d);
  if (kept_->books.has_newcomer()) return false;
  settle(now, d, out);
  return true;
}

void core::on(const request_arrived& e, time_point now, std::vector<effect>& out) {
  if (const auto known = kept_->books.known_attempt(e.key.id)) {
    if (e.key <= *known) return;
    kept_->books.end(*known, std::nullopt);
  }
  const auto note_arrival = [&](std::uint32_t expected) {
    kept_->log.arrive(e.key, e.arrival, e.slo, now,
        {"{:.0f} prompt tokens, {:.0f} output tokens of earlier attempts; {:.0f} more are expected, {:.0f} in all at "
         "most",
            e.prompt_tokens, e.produced, expected, e.max_output_tokens});
  };
  if (e.tokens == 0) out.emplace_back(shed{e.key, "nothing to prefill"});
  if (e.tokens == 0 || turn_away_if_too_big(e, out)) {
    note_arrival(0);
    note_shed(now, out);
    return;
  }
  kept_->books.take_in(e, now);
  if (kept_->log.on()) note_arrival(kept_->books.newcomer().output_to_come);
  if (admit_newcomer(now, out)) return;
  kept_->books.queue_newcomer();
  plan(now, out);
  if (!state().waiting.contains(e.key)) return;
  // Only now: a request that finds its place at once never fills the queue.
  if (state().waiting.size() <= kept_->books.opts().max_queued) {
    kept_->log.add(e.key, happening_kind::queued, now,
        {"no instance took it at once: {:.0f} others wait, there are {:.0f} instances", state().waiting.size() - 1,
            state().instances.size()});
    return;
  }
  kept_->books.drop_waiting(e.key);
  out.emplace_back(shed{e.key, "queue full"});
  note_shed(now, out);
}

void core::on(const request_ended& e, time_point now, std::vector<effect>& out) {
  if (!kept_->books.end(e.key, e.output_tokens)) return;
  if (kept_->log.on())
    kept_->log.add(e.key, happening_kind::ended, now,
        e.output_tokens ? explanation{"finished with {:.0f} output tokens", *e.output_tokens}
                        : explanation{"this attempt is over and did not finish"});
  plan(now, out);
}

void core::on(const prefill_finished& e, time_point now, std::vector<effect>& out) {
  kept_->books.finish_prefill(e.key, e.cached_tokens, now);
  kept_->log.add(e.key, happening_kind::first_token, now);
  plan(now, out);
}

void core::on(const instance_ready& e, time_point now, std::vector<effect>& out) {
  HFLEX_CHECK(e.kv_blocks > 0 && e.block_size > 0 && e.max_batched_tokens > 0 && e.max_sequences > 0);
  const auto before = state().fleet;
  kept_->books.add_instance(e, now);
  recheck_waiting(before, now, out);
  plan(now, out);
}

void core::on(const weights_expected& e, time_point now, std::vector<effect>& out) {
  kept_->books.expect_weights(e.instance, e.due, now);
  plan(now, out);
}

void core::on(const instance_gone& e, time_point now, std::vector<effect>& out) {
  const auto before = state().fleet;
  if (kept_->log.on())
    for (const auto& [key, p] : state().placed)
      if (p.decode == e.instance || (p.prefill == e.instance && !p.decodes))
        kept_->log.add(key, happening_kind::lost, now, {"i{:.0f} is gone", e.instance.value});
  kept_->books.remove_instance(e.instance);
  recheck_waiting(before, now, out);
  plan(now, out);
}

void core::on(const instance_draining& e, time_point now, std::vector<effect>& out) {
  kept_->books.set_draining(e.instance);
  plan(now, out);
}

void core::on(const instance_role_changed& e, time_point now, std::vector<effect>& out) {
  const auto before = state().fleet;
  kept_->books.set_role(e.instance, e.role);
  recheck_waiting(before, now, out);
  plan(now, out);
}

void core::on(const step_reported& e, time_point now, std::vector<effect>& out) {
  kept_->books.report(e, now);
  plan(now, out);
}

result<request_key> core::movable(request_id id, instance_id to) const {
  const auto& v = state();
  const auto name = to_string(id);
  if (v.waiting.attempt_of(id)) return fail(errc::retry, "{} waits for an instance: nothing to move yet", name);
  const auto key = v.placed.attempt_of(id);
  if (!key) return fail(errc::reject, "{} is not running: it has ended, or never was", name);
  const auto& p = v.placed.at(*key);
  if (!p.decodes) return fail(errc::retry, "{} is still in its prefill on {}", name, to_string(p.prefill));
  if (p.moving_to) return fail(errc::retry, "{} is on its way to {} already", name, to_string(p.moving_to));
  if (p.decode == to) return fail(errc::reject, "{} decodes on {} already", name, to_string(to));
  const auto there = v.instances.find(to);
  if (there == v.instances.end()) return fail(errc::reject, "no such instance: {}", to_string(to));
  if (there->second.draining) return fail(errc::reject, "{} is draining", to_string(to));
  if (there->second.weights_at) return fail(errc::retry, "{} still waits for its weights", to_string(to));
  if (!there->second.may_decode()) return fail(errc::reject, "{} does not decode: its role is prefill", to_string(to));
  if (!has_room(v, there->second)) return fail(errc::retry, "{} has its hands full", to_string(to));
  return *key;
}

void core::on(const move_wanted& e, time_point now, std::vector<effect>& out) {
  const auto key = movable(e.key.id, e.to);
  if (!key || *key != e.key) return;
  recorder(kept_->books, kept_->log, now, out).migrate(e.key, e.to, "on request");
  plan(now, out);
}

void core::on(const moved& e, time_point now, std::vector<effect>& out) {
  if (const auto* p = state().placed.get(e.key); p && p->moving_to)
    kept_->log.add(e.key, e.at == p->moving_to ? happening_kind::moved : happening_kind::stayed, now, {}, {}, e.at);
  kept_->books.end_move(e.key, e.at);
  plan(now, out);
}

const request_story* core::story(request_id id) const { return kept_->log.find(id); }

std::optional<standing> core::explain(request_id id, time_point now) {
  const auto& v = state();
  const auto key = v.waiting.attempt_of(id);
  if (!key) return std::nullopt;
  return kept_->books.chooser().explain(v, *key, now);
}

void core::on(const tick&, time_point now, std::vector<effect>& out) {
  kept_->armed.reset();
  plan(now, out);
}

} // namespace hflex::scheduler
