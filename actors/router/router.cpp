#include "actors/router/router.hpp"
#include "actors/common/check.hpp"
#include "actors/router/admission.hpp"
#include <algorithm>

namespace hflex::router {

namespace {

/// Deaths remembered against placements that cross them; ids only grow, so the lowest are the oldest.
constexpr std::size_t max_deaths_remembered = 1024;
/// Of one request: a fleet that does nothing but change is no reason to try for ever.
constexpr std::uint32_t max_excused = 64;

std::string running_out(std::uint32_t attempt, std::uint32_t limit) {
  return limit > 1 ? fmt::format(" (attempt {} of {})", attempt, limit) : std::string{};
}

} // namespace

std::string_view to_string(job_state s) {
  switch (s) {
  case job_state::waiting:
    return "waiting";
  case job_state::running:
    return "running";
  case job_state::ended:
    return "ended";
  }
  return "ended";
}

// ---- one request ----

bool core::request::at(instance_id instance) const {
  return std::find(places.begin(), places.end(), instance) != places.end();
}

/// Whether the attempt is lost with that instance. Once the decode side has spoken, the KV is there.
bool core::request::depends_on(instance_id instance) const {
  if (record.state != job_state::running) return false;
  return instance == record.decode_instance || (instance == record.prefill_instance && !decoding);
}

void core::request::forget_attempt() {
  places.clear();
  saw_token = decoding = false;
  held.clear();
  held_end.reset();
  gap_since.reset();
  moving_to = {};
}

// ---- clients ----

core::core(options opts) : opts_(std::move(opts)) {
  HFLEX_CHECK(std::any_of(
      opts_.classes.begin(), opts_.classes.end(), [&](const slo_class& c) { return c.name == opts_.default_class; }));
  HFLEX_CHECK(opts_.max_context >= 2 && opts_.default_max_output_tokens >= 1 && opts_.max_attempts >= 1);
}

void core::on(const submit& e, time_point now, std::vector<effect>& out) {
  auto checked = check(e, opts_);
  if (!checked) {
    out.emplace_back(refused{e.client, e.client_ref, checked.error().message});
    return;
  }
  if (jobs_.size() >= opts_.max_in_flight) {
    out.emplace_back(refused{e.client, e.client_ref,
        fmt::format("queue full: {} in flight, limit {}; retry later", jobs_.size(), opts_.max_in_flight)});
    return;
  }
  request_id id{++last_id_};
  auto& r = jobs_[id];
  r.record.id = id;
  r.record.client = e.client;
  r.record.slo_class = checked->slo_class;
  r.record.targets = checked->targets;
  r.record.prompt_tokens = static_cast<std::uint32_t>(e.prompt.size());
  r.record.max_output_tokens = checked->max_output_tokens;
  r.record.timing.arrival = now;
  r.prompt = e.prompt;
  r.sampling = e.sampling;
  r.ignore_eos = e.ignore_eos;
  r.detach = e.detach;
  out.emplace_back(accepted{e.client, e.client_ref, id});
  arrive(r, out);
  announce(out);
}

void core::on(const cancel& e, time_point now, std::vector<effect>& out) {
  auto it = jobs_.find(e.id);
  if (it == jobs_.end()) {
    auto past = history_.find(e.id);
    out.emplace_back(cancel_result{e.by, e.id, false,
        past == history_.end()
            ? fmt::format("{} is not known", to_string(e.id))
            : fmt::format("{} has ended already: {}", to_string(e.id), to_string(*past->second.outcome))});
    return;
  }
  auto& r = it->second;
  auto reason = e.by && e.by == r.record.client ? "cancelled by its client" : "cancelled on request";
  out.emplace_back(cancel_result{e.by, e.id, true, to_string(e.id) + " is cancelled"});
  give_up(r, {}, out);
  finish(r, outcome::cancelled, reason, now, out);
  announce(out);
}

void core::on(const client_gone& e, time_point now, std::vector<effect>& out) {
  std::vector<request_id> orphans;
  for (auto& [id, r] : jobs_) {
    r.waiters.erase(std::remove(r.waiters.begin(), r.waiters.end(), e.client), r.waiters.end());
    if (r.record.client != e.client) continue;
    r.record.client = {};
    if (!r.detach) orphans.push_back(id);
  }
  for (auto id : orphans) {
    auto& r = jobs_.at(id);
    give_up(r, {}, out);
    finish(r, outcome::cancelled, "its client is gone", now, out);
  }
  announce(out);
}

void core::on(const wait& e, time_point, std::vector<effect>& out) {
  auto it = jobs_.find(e.id);
  if (it == jobs_.end()) {
    auto past = history_.find(e.id);
    if (past != history_.end())
      out.emplace_back(wait_done{e.client, e.id, past->second, {}});
    else
      out.emplace_back(wait_done{e.client, e.id, std::nullopt, to_string(e.id) + " is not known"});
    return;
  }
  auto& waiters = it->second.waiters;
  if (std::find(waiters.begin(), waiters.end(), e.client) != waiters.end()) return;
  if (waiters.size() >= opts_.max_waiters) {
    out.emplace_back(wait_done{e.client, e.id, std::nullopt,
        fmt::format("{} clients wait for {} already, limit {}", waiters.size(), to_string(e.id), opts_.max_waiters)});
    return;
  }
  waiters.push_back(e.client);
}

// ---- scheduler ----

void core::on(const placed& e, time_point now, std::vector<effect>& out) {
  auto* r = current(e.key);
  if (!r || r->record.state != job_state::waiting) return;
  for (auto instance : {e.prefill, e.decode})
    if (gone_.count(instance)) {
      fail_attempt(*r, {}, errc::reroute, to_string(instance) + " died before it could start", now, out);
      announce(out);
      return;
    }
  r->record.state = job_state::running;
  r->record.prefill_instance = e.prefill;
  r->record.decode_instance = e.decode;
  r->record.cached_prompt_tokens = 0;
  r->places = {e.prefill};
  if (e.decode != e.prefill) r->places.push_back(e.decode);
  r->last_sign = now;
  sequence_spec spec{r->key(), r->prompt, r->record.prompt_tokens, r->record.max_output_tokens, r->sampling,
      r->ignore_eos, r->record.timing.arrival, r->record.targets};
  spec.tokens.insert(spec.tokens.end(), r->record.token_ids.begin(), r->record.token_ids.end());
  out.emplace_back(start{std::move(spec), e.prefill, e.decode});
  arm(*r);
  announce(out);
}

void core::on(const shed& e, time_point now, std::vector<effect>& out) {
  auto* r = current(e.key);
  if (!r) return;
  give_up(*r, {}, out);
  finish(*r, outcome::shed, e.reason, now, out);
  announce(out);
}

// ---- instances ----

void core::on(const tokens& e, time_point now, std::vector<effect>& out) {
  auto* r = running(e.key);
  if (!r || e.ids.empty()) return;
  if (!r->at(e.instance) && gone_.count(e.instance)) return;
  if (!r->at(e.instance) || e.instance == r->moving_to) take_over(*r, e.instance, out);
  r->last_sign = now;
  note_cached(*r, e.instance, e.cached_prompt_tokens);
  if (e.instance == r->record.decode_instance) r->decoding = true;
  auto have = r->record.output_tokens();
  if (std::uint64_t{e.first_index} + e.ids.size() > r->record.max_output_tokens) {
    fail_attempt(*r, {}, errc::reroute,
        fmt::format("{} sent token {}, limit {}", to_string(e.instance), e.first_index + e.ids.size(),
            r->record.max_output_tokens),
        now, out);
  } else if (e.first_index > have) {
    hold(*r, e, now, out);
  } else if (e.first_index + e.ids.size() > have) {
    auto skip = have - e.first_index;
    append(*r, e.ids.data() + skip, e.ids.size() - skip, now, out);
  }
  announce(out);
}

void core::on(const progress& e, time_point now, std::vector<effect>&) {
  auto* r = running(e.key);
  if (r && r->at(e.instance)) r->last_sign = now;
}

void core::on(const ended& e, time_point now, std::vector<effect>& out) {
  auto* r = running(e.key);
  if (!r || !r->at(e.instance)) return;
  if (e.instance == r->moving_to) take_over(*r, e.instance, out);
  r->last_sign = now;
  note_cached(*r, e.instance, e.cached_prompt_tokens);
  // The decode side ends only what the prefill side began: without a token of this attempt, that one is still on its
  // way.
  bool overtook = !r->held.empty() || (!r->saw_token && e.instance != r->record.prefill_instance) ||
                  r->record.output_tokens() < e.output_tokens;
  if (overtook) {
    r->held_end = e;
    if (!r->gap_since) r->gap_since = now;
    arm(*r);
  } else {
    conclude(*r, e.cause, now, out);
  }
  announce(out);
}

void core::on(const handed_back& e, time_point now, std::vector<effect>& out) {
  auto* r = running(e.key);
  if (r && e.instance == r->moving_to) take_over(*r, e.instance, out); // it gives back only what it has
  if (!r || !r->depends_on(e.instance)) return;
  if (e.leaving && r->excused < max_excused) ++r->excused;
  fail_attempt(*r, e.instance, e.code, fmt::format("{}: {}", to_string(e.instance), e.reason), now, out);
  announce(out);
}

void core::on(const instance_gone& e, time_point now, std::vector<effect>& out) {
  gone_.insert(e.instance);
  if (gone_.size() > max_deaths_remembered) gone_.erase(gone_.begin());
  std::vector<request_id> hit;
  for (auto& [id, r] : jobs_)
    if (r.depends_on(e.instance)) hit.push_back(id);
  for (auto id : hit)
    fail_attempt(jobs_.at(id), e.instance, errc::reroute, to_string(e.instance) + " is gone", now, out);
  announce(out);
}

void core::on(const tick&, time_point now, std::vector<effect>& out) {
  if (announced_ && *announced_ <= now) announced_.reset();
  while (!timers_.empty() && timers_.begin()->first <= now) {
    auto& r = jobs_.at(timers_.begin()->second);
    timers_.erase(timers_.begin());
    r.timer.reset();
    if (deadline(r) <= now)
      expire(r, now, out);
    else
      arm(r);
  }
  announce(out);
}

// ---- attempts ----

core::request* core::current(request_key key) {
  auto it = jobs_.find(key.id);
  return it != jobs_.end() && it->second.attempt == key.attempt ? &it->second : nullptr;
}

core::request* core::running(request_key key) {
  auto* r = current(key);
  return r && r->record.state == job_state::running ? r : nullptr;
}

/// Nothing is left to produce: only the word of the instance that said so is missing.
bool core::complete(const request& r) const {
  auto& ids = r.record.token_ids;
  if (ids.size() >= r.record.max_output_tokens) return true;
  return !r.ignore_eos && !ids.empty() &&
         std::find(opts_.eos_tokens.begin(), opts_.eos_tokens.end(), ids.back()) != opts_.eos_tokens.end();
}

void core::arrive(request& r, std::vector<effect>& out) {
  r.record.state = job_state::waiting;
  auto produced = r.record.output_tokens();
  out.emplace_back(to_scheduler_arrived{r.key(), r.record.timing.arrival, r.record.prompt_tokens + produced,
      r.record.prompt_tokens, produced, r.record.max_output_tokens, r.record.slo_class, r.record.targets, marks_of(r)});
  arm(r);
}

std::vector<prefix_mark> core::marks_of(const request& r) const {
  if (!opts_.prefix_key) return {};
  if (r.record.token_ids.empty()) return prefix_marks(*opts_.prefix_key, r.prompt);
  auto text = r.prompt;
  text.insert(text.end(), r.record.token_ids.begin(), r.record.token_ids.end());
  return prefix_marks(*opts_.prefix_key, text);
}

/// What a decode instance finds when it computes a preempted sequence again is not what the client was spared.
void core::note_cached(request& r, instance_id by, std::uint32_t prompt_tokens) {
  if (by == r.record.prefill_instance && r.record.migrations == 0)
    r.record.cached_prompt_tokens = std::min(prompt_tokens, r.record.prompt_tokens);
}

/// Takes the next tokens, and those held that follow them.
void core::append(request& r, const token_id* ids, std::size_t count, time_point now, std::vector<effect>& out) {
  client_tokens fresh{r.record.client, r.record.id, r.record.output_tokens(), {ids, ids + count}};
  auto next = fresh.first_index + static_cast<std::uint32_t>(count);
  while (!r.held.empty() && r.held.begin()->first <= next) {
    if (r.held.begin()->first == next) {
      fresh.ids.push_back(r.held.begin()->second);
      ++next;
    }
    r.held.erase(r.held.begin());
  }
  for (auto i = fresh.first_index; i < next; ++i)
    r.on_time = r.on_time && now <= token_deadline(r.record.timing.arrival, r.record.targets, i);
  auto& timing = r.record.timing;
  if (!timing.first_token) timing.first_token = now;
  timing.last_token = now;
  timing.output_tokens = next;
  r.record.token_ids.insert(r.record.token_ids.end(), fresh.ids.begin(), fresh.ids.end());
  if (!std::exchange(r.saw_token, true))
    out.emplace_back(to_scheduler_prefill_finished{r.key(), r.record.cached_prompt_tokens});
  if (!r.detach) out.emplace_back(std::move(fresh));
  if (!r.held.empty()) return;
  if (r.held_end && r.record.output_tokens() < r.held_end->output_tokens) return;
  r.gap_since.reset();
  if (r.held_end) conclude(r, r.held_end->cause, now, out);
}

/// Tokens that are not next. They wait for those before them if another instance of the attempt may still bring these.
void core::hold(request& r, const tokens& e, time_point now, std::vector<effect>& out) {
  if (r.places.size() < 2 || r.held.size() + e.ids.size() > opts_.max_held_tokens) {
    fail_attempt(r, {}, errc::reroute,
        fmt::format("{} skipped from token {} to {}", to_string(e.instance), r.record.output_tokens(), e.first_index),
        now, out);
    return;
  }
  for (std::size_t i = 0; i < e.ids.size(); ++i)
    r.held.emplace(e.first_index + static_cast<std::uint32_t>(i), e.ids[i]);
  if (!r.gap_since) r.gap_since = now;
  arm(r);
}

void core::conclude(request& r, stop_cause cause, time_point now, std::vector<effect>& out) {
  if (cause == stop_cause::max_tokens && r.record.output_tokens() < r.record.max_output_tokens)
    fail_attempt(r, {}, errc::reroute,
        fmt::format("it ended at max_tokens, but only {} of {} tokens came", r.record.output_tokens(),
            r.record.max_output_tokens),
        now, out);
  else
    finish(r, outcome::finished, std::string(to_string(cause)), now, out);
}

/// Cancels the attempt wherever it may live; `except` knows already.
void core::give_up(const request& r, instance_id except, std::vector<effect>& out) {
  for (auto place : r.places)
    if (place != except && !gone_.count(place)) out.emplace_back(cancel_at{place, r.key()});
}

void core::fail_attempt(
    request& r, instance_id except, errc code, const std::string& cause, time_point now, std::vector<effect>& out) {
  give_up(r, except, out);
  if (complete(r)) {
    auto full = r.record.output_tokens() >= r.record.max_output_tokens;
    finish(r, outcome::finished, std::string(to_string(full ? stop_cause::max_tokens : stop_cause::eos)), now, out);
  } else if (code == errc::reject || code == errc::fatal) {
    finish(r, outcome::failed, cause, now, out);
  } else if (r.attempt - r.excused >= opts_.max_attempts) {
    finish(r, outcome::failed, cause + running_out(r.attempt - r.excused, opts_.max_attempts), now, out);
  } else {
    out.emplace_back(to_scheduler_ended{r.key(), std::nullopt, r.record.output_tokens()});
    r.forget_attempt();
    ++r.attempt;
    ++r.record.retries;
    arrive(r, out);
  }
}

/// The one place where a request ends.
void core::finish(request& r, hflex::outcome how, std::string reason, time_point now, std::vector<effect>& out) {
  auto key = r.key();
  auto& record = r.record;
  record.state = job_state::ended;
  record.outcome = how;
  record.reason = std::move(reason);
  record.ended_at = now;
  auto finished = how == outcome::finished;
  record.attained = finished && attained(record.timing, record.targets);
  record.strictly_attained = finished && r.on_time && record.output_tokens() > 0;
  for (auto waiter : r.waiters) out.emplace_back(wait_done{waiter, record.id, record, {}});
  out.emplace_back(client_done{record.client, record.id, record});
  if (how != outcome::shed) out.emplace_back(to_scheduler_ended{key, how, record.output_tokens()});
  if (r.timer) timers_.erase({*r.timer, record.id});
  remember(std::move(record));
  jobs_.erase(key.id);
}

void core::remember(job_record record) {
  auto id = record.id;
  history_.emplace(id, std::move(record));
  ends_.push_back(id);
  if (ends_.size() <= opts_.max_history) return;
  history_.erase(ends_.front());
  ends_.pop_front();
}

// ---- time ----

time_point core::deadline(const request& r) const {
  auto due = r.record.timing.arrival + opts_.request_timeout;
  if (r.record.state == job_state::running) due = std::min(due, r.last_sign + opts_.stage_timeout);
  if (r.gap_since) due = std::min(due, *r.gap_since + opts_.reorder_timeout);
  return due;
}

void core::expire(request& r, time_point now, std::vector<effect>& out) {
  if (r.record.timing.arrival + opts_.request_timeout <= now) {
    give_up(r, {}, out);
    auto doing = r.record.state == job_state::waiting ? "waiting for an instance" : "running";
    finish(r, outcome::failed,
        fmt::format("timed out after {:g} s, {}; {} of {} tokens came", to_s(now - r.record.timing.arrival), doing,
            r.record.output_tokens(), r.record.max_output_tokens),
        now, out);
    return;
  }
  auto cause = r.gap_since && *r.gap_since + opts_.reorder_timeout <= now
                   ? fmt::format("token {} never came, later ones did", r.record.output_tokens())
                   : fmt::format("no sign of life from {} for {:g} s", to_string(r.record.decode_instance),
                         to_s(opts_.stage_timeout));
  fail_attempt(r, {}, errc::reroute, cause, now, out);
}

/// Keeps the timer no later than the deadline. One that is too early stays: its tick re-arms it, which spares moving it
/// with every token.
void core::arm(request& r) {
  auto due = deadline(r);
  if (r.timer && *r.timer <= due) return;
  if (r.timer) timers_.erase({*r.timer, r.record.id});
  r.timer = due;
  timers_.emplace(due, r.record.id);
}

void core::announce(std::vector<effect>& out) {
  if (timers_.empty()) return;
  auto due = timers_.begin()->first;
  if (announced_ && *announced_ <= due) return;
  announced_ = due;
  out.emplace_back(wake_at{due});
}

// ---- accessors ----

std::vector<job_record> core::jobs() const {
  std::vector<job_record> all;
  all.reserve(history_.size() + jobs_.size());
  for (auto& [id, record] : history_) all.push_back(record);
  for (auto& [id, r] : jobs_) all.push_back(r.record);
  std::sort(all.begin(), all.end(), [](const job_record& a, const job_record& b) { return a.id < b.id; });
  return all;
}

const job_record* core::job(request_id id) const {
  if (auto it = jobs_.find(id); it != jobs_.end()) return &it->second.record;
  auto past = history_.find(id);
  return past == history_.end() ? nullptr : &past->second;
}

} // namespace hflex::router
