#include "actors/common/check.hpp"
#include "actors/scheduler/policy.hpp"
#include "tools/sim/world_state.hpp"
#include <algorithm>
#include <cmath>

namespace hflex::sim {

namespace {

/// A time around `expected` with that relative standard deviation: log-normal, of mean 1.
duration noisy(duration expected, double deviation, random_source& random) {
  const double variance = std::log1p(deviation * deviation);
  const double factor = std::exp(std::sqrt(variance) * random.normal() - variance / 2);
  return duration{static_cast<std::int64_t>(static_cast<double>(expected.count()) * factor)};
}

} // namespace

// --- life -----------------------------------------------------------------------------------------------------------

world::sim_instance* world::find(instance_id id) {
  auto found = instances_.find(id);
  return found == instances_.end() ? nullptr : &found->second;
}

instance::options world::options_of(const sim_instance& i) const {
  const auto& d = hardware_.device;
  instance::options o;
  o.self = i.self;
  o.role = i.role;
  o.block_size = hardware_.block_size;
  o.kv_blocks = static_cast<std::uint32_t>(d.kv_tokens / hardware_.block_size);
  o.max_context = d.max_context;
  o.vocab_size = 1U << 16U;
  o.eos_tokens = {end_of_text};
  o.max_batched_tokens = std::max(d.max_batched_tokens, d.max_sequences + 1);
  o.max_sequences = d.max_sequences;
  o.max_waiting = o.max_offers = no_limit;
  o.policy = steps_;
  o.transfer_lease = std::chrono::hours{24};
  o.first_transfer = i.transfers;
  o.prefix_cache = options_.prefix_cache && shares_prefixes_;
  o.describe_steps = false;
  o.kv_row_time = from_s(static_cast<double>(d.kv_bytes_per_token) / std::max(hardware_.network.bytes_per_s, 1.0));
  o.prefill_weight = scheduler::prefill_weight_of(options_.scheduler);
  if (options_.tune_instance) options_.tune_instance(o);
  return o;
}

scheduler::instance_ready world::description_of(const sim_instance& i) const {
  const auto o = options_of(i);
  return {i.self, node_id{i.node}, i.role, o.kv_blocks, o.block_size, o.max_batched_tokens, o.max_sequences,
      i.steps.model()};
}

/// From the decision to the first step, the weights by the fastest way there is: a live instance on the node, one
/// elsewhere, the node's memory, the disk. Newcomers at the same time do not slow each other: each hands on to the next
/// what it has.
duration world::start_time(std::uint32_t node) {
  const auto& c = hardware_.start;
  double speed = c.disk_bytes_per_s;
  auto* from = &result_.starts_from_disk;
  const auto offer = [&](double bytes_per_s, std::uint64_t& source) {
    if (bytes_per_s <= speed) return;
    speed = bytes_per_s;
    from = &source;
  };
  if (cached_nodes_.count(node) > 0) offer(c.host_cache_bytes_per_s, result_.starts_from_cache);
  for (const auto& [id, i] : instances_)
    if (i.core)
      offer((i.node == node ? hardware_.same_node : hardware_.network).bytes_per_s, result_.starts_from_neighbour);
  const auto bytes = static_cast<double>(hardware_.device.weight_bytes);
  const auto takes = c.spawn + (speed > 0 ? from_s(bytes / speed) : duration{0}) + c.warm_up + c.link_up;
  ++*from;
  ++result_.scale_outs;
  result_.starts_s += to_s(takes);
  return takes;
}

void world::make_core(sim_instance& i, instance_role role) {
  i.role = role;
  auto o = options_of(i);
  auto* at = &i; // instances_ is a map: addresses stay
  o.predict = [at](const step_shape& shape) { return at->steps.model().plan_ahead(shape); };
  i.core = std::make_unique<instance::core>(std::move(o));
  i.core_serial = ++serial_;
}

void world::ready(instance_id id) {
  auto* i = find(id);
  if (!i || i->core) return;
  make_core(*i, i->role);
  cached_nodes_.insert(i->node);
  tell_scaler(scaler::instance_state{id, scaler::instance_phase::started, {}});
  tell_scaler(scaler::instance_state{id, scaler::instance_phase::ready, {}});
  tell_scheduler(description_of(*i));
}

void world::retired(sim_instance& i) {
  const auto id = i.self;
  if (i.core) {
    const auto s = i.core->report();
    result_.steps += s.steps;
    result_.preemptions += s.preemptions;
  }
  // The core is in the middle of telling this: it ends with the next event.
  events_.after(duration{0}, [this, id] {
    auto* gone = find(id);
    if (!gone) return;
    gone->core.reset();
    gone->core_serial = ++serial_;
    if (!gone->becomes) {
      result_.cost_instance_s += to_s(events_.now() - std::max(gone->born, start_));
      instances_.erase(id);
      tell_scheduler(scheduler::instance_gone{id});
      tell_router(router::instance_gone{id});
      tell_scaler(scaler::instance_state{id, scaler::instance_phase::gone, "stopped"});
      return;
    }
    events_.after(hardware_.start.role_flip, [this, id] {
      auto* back = find(id);
      if (!back || !back->becomes) return;
      const auto role = *std::exchange(back->becomes, std::nullopt);
      back->transfers += 1U << 20U;
      make_core(*back, role);
      tell_scaler(scaler::role_changed{id, role});
      tell_scheduler(scheduler::instance_role_changed{id, role});
    });
  });
}

// --- messages -------------------------------------------------------------------------------------------------------

template <class Event>
void world::tell(sim_instance& i, const Event& e) {
  messages out;
  if (!spare_messages_.empty()) {
    out = std::move(spare_messages_.back());
    spare_messages_.pop_back();
  }
  const auto self = i.self;
  i.core->on(e, events_.now(), out);
  for (auto& x : out) {
    // What one effect brings about may end the instance that the next one is about.
    auto* still = find(self);
    if (!still || !still->core) break;
    std::visit([&](auto& y) { this->perform(*still, y); }, x);
  }
  out.clear();
  spare_messages_.push_back(std::move(out));
}

template <class Event>
void world::post(instance_id to, Event e) {
  events_.after(hardware_.control_latency, [this, to, e = std::move(e)] {
    if (auto* i = find(to); i && i->core) {
      tell(*i, e);
      return;
    }
    // Nobody there: the router's starts are confirmed, so it finds out.
    if constexpr (std::is_same_v<Event, instance::add>)
      tell_router(router::handed_back{e.spec.key, to, errc::reroute, "no such instance"});
  });
}

// The world's other half posts these.
template void world::post(instance_id, instance::add);
template void world::post(instance_id, instance::cancel);
template void world::tell(sim_instance&, const instance::retire&);

// --- steps ----------------------------------------------------------------------------------------------------------

void world::perform(sim_instance& i, instance::run_step& e) {
  i.flying = std::move(e.plan);
  auto takes = hardware_.device.steps.predict(i.flying.shape);
  if (options_.noisy && hardware_.device.step_noise > 0) takes = noisy(takes, hardware_.device.step_noise, i.noise);
  const auto end = events_.now() + takes;
  // Rows leave as their layers complete: the last ones when the step ends.
  for (const auto& entry : i.flying.entries)
    if (entry.push_kv) push(entry.transfer, entry.count, end);
  events_.at(end, [this, id = i.self, serial = i.core_serial, takes] { step_done(id, serial, takes); });
}

void world::step_done(instance_id id, std::uint64_t core_serial, duration took) {
  auto* i = find(id);
  if (!i || i->core_serial != core_serial) return;
  instance::step_finished done{i->flying.id, {}, took, {}};
  done.sampled.reserve(i->flying.entries.size());
  for (const auto& entry : i->flying.entries) {
    const auto& length = load_.requests[index_of(entry.key.id)].output_tokens;
    done.sampled.push_back(entry.output_index + 1 >= length ? end_of_text : token_of(entry.key.id, entry.output_index));
  }
  i->steps.observe(i->flying.shape, took);
  const auto shape = i->flying.shape;
  tell(*i, done);
  i = find(id);
  if (!i || i->core_serial != core_serial) return;
  const auto s = i->core->report();
  scheduler::step_reported r;
  r.instance = id;
  r.shape = shape;
  r.elapsed = took;
  r.running = s.running;
  r.waiting = s.waiting;
  r.kv_blocks_free = s.kv_blocks_free;
  r.prefill_tokens = shape.prefill_tokens;
  r.handover_wait = s.handover_wait;
  events_.after(hardware_.control_latency, [this, r] { tell_scheduler(r); });
}

void world::perform(sim_instance& i, const instance::token& e) {
  auto& c = client_of(e.key);
  if (c.result || c.attempt != e.key.attempt) return;
  const auto index = index_of(e.key.id);
  const auto seen = events_.now() + hardware_.control_latency;
  auto& record = records_[index];
  if (record.token_times.empty()) {
    record.timing.first_token = seen;
    record.token_times.reserve(load_.requests[index].output_tokens);
  }
  record.token_times.push_back(seen);
  c.speaker = i.self;
  c.produced = e.index + 1;
  // The first of an attempt goes to the router at once, which tells the scheduler.
  if (c.first_told) return;
  c.first_told = true;
  events_.after(hardware_.control_latency, [this, key = e.key] {
    auto& r = client_of(key);
    if (!r.result && r.attempt == key.attempt) flush_tokens(r, key);
  });
}

void world::perform(sim_instance& i, const instance::ended& e) {
  auto& c = client_of(e.key);
  if (c.result || c.attempt != e.key.attempt) return;
  const auto seen = events_.now() + hardware_.control_latency;
  auto& record = records_[index_of(e.key.id)];
  // The end of text is a token that was computed, and waited for, like any other.
  if (e.cause == stop_cause::eos) record.token_times.push_back(seen);
  if (!record.timing.first_token) record.timing.first_token = seen;
  record.timing.last_token = seen;
  record.timing.output_tokens = static_cast<std::uint32_t>(record.token_times.size());
  events_.after(hardware_.control_latency, [this, e, at = i.self] {
    auto& r = client_of(e.key);
    if (r.result || r.attempt != e.key.attempt) return;
    flush_tokens(r, e.key);
    tell_router(router::ended{e.key, at, e.cause, e.cached_prompt_tokens, e.output_tokens});
  });
}

void world::perform(sim_instance& i, const instance::handed_back& e) {
  events_.after(hardware_.control_latency, [this, e, at = i.self] {
    auto& r = client_of(e.key);
    if (r.result || r.attempt != e.key.attempt) return;
    flush_tokens(r, e.key);
    tell_router(router::handed_back{e.key, at, e.why.code, e.why.message, e.leaving});
  });
}

void world::perform(sim_instance& i, const instance::wake_at& e) {
  events_.at(e.at, [this, id = i.self, serial = i.core_serial] {
    if (auto* at = find(id); at && at->core_serial == serial) tell(*at, instance::tick{});
  });
}

// --- hand-overs -----------------------------------------------------------------------------------------------------

void world::perform(sim_instance& i, const instance::offer_kv& e) {
  transfers_[e.transfer] = {i.self, e.to, 0, 0, {}};
  post(e.to, instance::offer{e.transfer, e.spec, i.self, e.lease, e.ahead});
}

void world::perform(sim_instance&, const instance::accept_offer& e) {
  post(e.from, instance::offer_accepted{e.transfer});
}

void world::perform(sim_instance&, const instance::refuse_offer& e) {
  post(e.from, instance::offer_refused{e.transfer, e.why, e.leaving});
}

void world::perform(sim_instance&, const instance::open_push& e) {
  if (auto t = transfers_.find(e.transfer); t != transfers_.end()) t->second.rows = e.tokens;
}

void world::perform(sim_instance&, const instance::push_rows& e) { push(e.transfer, e.count, events_.now()); }

void world::push(transfer_id id, std::uint32_t rows, time_point not_before) {
  auto found = transfers_.find(id);
  if (found == transfers_.end()) return;
  auto& t = found->second;
  const auto* from = find(t.from);
  const auto* to = find(t.to);
  if (!from || !to) return;
  const double bytes = static_cast<double>(rows) * static_cast<double>(hardware_.device.kv_bytes_per_token);
  t.flows.push_back(network_.start(
      {t.from, from->node}, {t.to, to->node}, bytes, not_before, [this, id, rows] { landed(id, rows); }));
}

void world::landed(transfer_id id, std::uint32_t rows) {
  auto found = transfers_.find(id);
  if (found == transfers_.end()) return;
  auto& t = found->second;
  t.landed += rows;
  if (t.landed < t.rows) return;
  const auto from = t.from;
  if (auto* to = find(t.to); to && to->core) tell(*to, instance::kv_landed{id});
  post(from, instance::kv_delivered{id});
}

void world::perform(sim_instance&, const instance::commit_kv& e) {
  post(e.to, instance::kv_committed{e.transfer, e.index, e.token, e.earlier});
}

void world::perform(sim_instance&, const instance::abort_transfer& e) {
  post(e.to, instance::transfer_aborted{e.transfer});
}

// Either side is done with it; the source is last when all goes well.
void world::perform(sim_instance& i, const instance::close_transfer& e) {
  auto found = transfers_.find(e.transfer);
  if (found == transfers_.end() || found->second.from != i.self) return;
  for (auto flow : found->second.flows) network_.cancel(flow);
  transfers_.erase(found);
}

// --- moves ----------------------------------------------------------------------------------------------------------

void world::perform(const scheduler::migrate& e) { tell_router(router::move{e.key, e.from, e.to}); }

void world::perform(const router::migrate_at& e) { post(e.instance, instance::migrate{e.key, e.to}); }

void world::perform(const router::to_scheduler_moved& e) { post_scheduler(scheduler::moved{e.key, e.at}); }

void world::perform(sim_instance&, const instance::take_over& e) { post(e.to, instance::kv_taken{e.transfer}); }

void world::perform(sim_instance& i, const instance::migrated& e) {
  // What it has said before goes first.
  events_.after(hardware_.control_latency, [this, e, from = i.self] {
    auto& r = client_of(e.key);
    if (r.result || r.attempt != e.key.attempt) return;
    const auto speaker = std::exchange(r.speaker, from);
    flush_tokens(r, e.key);
    r.speaker = speaker;
    tell_router(router::migrated{e.key, e.to});
  });
}

void world::perform(sim_instance&, const instance::migration_failed& e) {
  events_.after(hardware_.control_latency, [this, e] {
    tell_router(router::migration_failed{e.key, e.to, e.why.message});
  });
}

} // namespace hflex::sim
