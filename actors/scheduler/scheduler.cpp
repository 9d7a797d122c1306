#include "actors/scheduler/scheduler.hpp"
#include "actors/common/check.hpp"
#include "actors/scheduler/decision_log.hpp"
#include "actors/scheduler/ledger.hpp"
#include <algorithm>

namespace hflex::scheduler {

namespace {

/// Carries decisions out on the ledger as they are made, and records them as effects and for people.
class recorder final : public decisions {
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
  void demoted(request_key key, explanation why) override {
    log_.add(key, happening_kind::demoted, now_, std::move(why));
  }
  std::optional<time_point> wanted_wake() const { return wake_; }

private:
  ledger& books_;
  decision_log& log_;
  time_point now_;
  std::vector<effect>& out_;
  std::optional<time_point> wake_;
};

template <class Predicate>
bool any_pair(const view& v, Predicate serves) {
  for (const auto& [pid, p] : v.instances)
    for (const auto& [did, d] : v.instances)
      if (serves(p, d)) return true;
  return false;
}

// Whether the instances, as their roles stand, can serve anything at all.
bool serviceable(const view& v) {
  bool prefill = false, decode = false;
  for (const auto& [id, at] : v.instances) {
    if (at.draining) continue;
    if (at.is.role == instance_role::mixed) return true;
    (at.is.role == instance_role::prefill ? prefill : decode) = true;
  }
  return prefill && decode;
}

std::string why_unserviceable(const view& v) {
  bool prefill = false, decode = false;
  for (const auto& [id, at] : v.instances) {
    prefill = prefill || at.may_prefill();
    decode = decode || at.may_decode();
  }
  if (prefill) return "no decode instance";
  return decode ? "no prefill instance" : "no instance";
}

result<void> check_options(const options& o) {
  const auto positive = [](duration d) { return d > duration{0}; };
  if (o.max_queued == 0) return fail(errc::reject, "max_queued: expected 1 or more");
  if (o.max_outstanding == 0) return fail(errc::reject, "max_outstanding: expected 1 or more");
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

bool core::turn_away_if_too_big(const request_arrived& r, std::vector<effect>& out) const {
  const auto& v = state();
  if (v.instances.empty()) return false;
  if (any_pair(v, [&](const auto& p, const auto& d) { return can_serve(p, d, r, false); })) return false;
  // While a side is missing nothing can be said of its pools: only a request that no pool here could hold is too big.
  if (!serviceable(v) && std::any_of(v.instances.begin(), v.instances.end(),
                             [&](const auto& i) { return blocks_at_most(i.second, r) <= i.second.is.kv_blocks; }))
    return false;
  std::uint64_t largest = 0;
  for (const auto& [id, at] : v.instances)
    largest = std::max(largest, std::uint64_t{at.is.kv_blocks} * at.is.block_size);
  out.emplace_back(shed{r.key,
      fmt::format("too long: {} prompt + {} output tokens need more KV blocks than any instance has (largest pool: {} "
                  "tokens)",
          r.prompt_tokens, r.max_output_tokens, largest)});
  return true;
}

// The last effect turned a request away.
void core::note_shed(time_point now, const std::vector<effect>& out) {
  const auto& e = std::get<shed>(out.back());
  kept_->log.add(e.key, happening_kind::shed, now, e.reason);
}

// The fleet changed: what waits and cannot be held by any instance any more is turned away.
void core::recheck_waiting(time_point now, std::vector<effect>& out) {
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
  if (serviceable(v)) {
    kept_->unserviceable_since.reset();
    return;
  }
  if (!kept_->unserviceable_since) kept_->unserviceable_since = now;
  while (!v.first_come.empty()) {
    const auto key = v.first_come.begin()->second;
    const auto until =
        std::max(v.waiting.at(key).queued_at, *kept_->unserviceable_since) + kept_->books.opts().max_wait;
    if (now < until) return d.wake(until);
    d.shed(key, why_unserviceable(v));
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
  kept_->books.chooser().balance(state(), now, d);
  const auto wake = d.wanted_wake();
  if (!wake || (kept_->armed && *kept_->armed <= *wake)) return;
  kept_->armed = wake;
  out.emplace_back(wake_at{*wake});
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
  kept_->books.enqueue(e, now);
  if (kept_->log.on()) note_arrival(state().waiting.at(e.key).output_to_come);
  plan(now, out);
  if (state().waiting.count(e.key) == 0) return;
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
  kept_->books.finish_prefill(e.key, now);
  kept_->log.add(e.key, happening_kind::first_token, now);
  plan(now, out);
}

void core::on(const instance_ready& e, time_point now, std::vector<effect>& out) {
  HFLEX_CHECK(e.kv_blocks > 0 && e.block_size > 0 && e.max_batched_tokens > 0 && e.max_sequences > 0);
  kept_->books.add_instance(e, now);
  recheck_waiting(now, out);
  plan(now, out);
}

void core::on(const instance_gone& e, time_point now, std::vector<effect>& out) {
  for (const auto& [key, p] : state().placed)
    if (p.decode == e.instance || (p.prefill == e.instance && !p.decodes))
      kept_->log.add(key, happening_kind::lost, now, {"i{:.0f} is gone", e.instance.value});
  kept_->books.remove_instance(e.instance);
  recheck_waiting(now, out);
  plan(now, out);
}

void core::on(const instance_draining& e, time_point now, std::vector<effect>& out) {
  kept_->books.set_draining(e.instance);
  plan(now, out);
}

void core::on(const instance_role_changed& e, time_point now, std::vector<effect>& out) {
  kept_->books.set_role(e.instance, e.role);
  recheck_waiting(now, out);
  plan(now, out);
}

void core::on(const step_reported& e, time_point now, std::vector<effect>& out) {
  kept_->books.report(e, now);
  plan(now, out);
}

result<request_key> core::movable(request_id id, instance_id to) const {
  const auto& v = state();
  const auto name = to_string(id);
  const auto of = [&](const auto& requests) {
    auto it = requests.lower_bound({id, 0});
    return it != requests.end() && it->first.id == id ? it : requests.end();
  };
  if (of(v.waiting) != v.waiting.end()) return fail(errc::retry, "{} waits for an instance: nothing to move yet", name);
  const auto found = of(v.placed);
  if (found == v.placed.end()) return fail(errc::reject, "{} is not running: it has ended, or never was", name);
  const auto& [key, p] = *found;
  if (!p.decodes) return fail(errc::retry, "{} is still in its prefill on {}", name, to_string(p.prefill));
  if (p.moving_to) return fail(errc::retry, "{} is on its way to {} already", name, to_string(p.moving_to));
  if (p.decode == to) return fail(errc::reject, "{} decodes on {} already", name, to_string(to));
  const auto there = v.instances.find(to);
  if (there == v.instances.end()) return fail(errc::reject, "no such instance: {}", to_string(to));
  if (there->second.draining) return fail(errc::reject, "{} is draining", to_string(to));
  if (!there->second.may_decode()) return fail(errc::reject, "{} does not decode: its role is prefill", to_string(to));
  if (!has_room(v, there->second)) return fail(errc::retry, "{} has its hands full", to_string(to));
  return key;
}

void core::on(const move_wanted& e, time_point now, std::vector<effect>& out) {
  const auto key = movable(e.key.id, e.to);
  if (!key || *key != e.key) return;
  recorder(kept_->books, kept_->log, now, out).migrate(e.key, e.to, "on request");
  plan(now, out);
}

void core::on(const moved& e, time_point now, std::vector<effect>& out) {
  if (const auto p = state().placed.find(e.key); p != state().placed.end() && p->second.moving_to)
    kept_->log.add(
        e.key, e.at == p->second.moving_to ? happening_kind::moved : happening_kind::stayed, now, {}, {}, e.at);
  kept_->books.end_move(e.key, e.at);
  plan(now, out);
}

const request_story* core::story(request_id id) const { return kept_->log.find(id); }

std::optional<standing> core::explain(request_id id, time_point now) {
  const auto& v = state();
  const auto found = v.waiting.lower_bound({id, 0});
  if (found == v.waiting.end() || found->first.id != id) return std::nullopt;
  return kept_->books.chooser().explain(v, found->first, now);
}

void core::on(const tick&, time_point now, std::vector<effect>& out) {
  kept_->armed.reset();
  plan(now, out);
}

} // namespace hflex::scheduler
