#include "tools/sim/world.hpp"
#include "actors/common/check.hpp"
#include "actors/scheduler/decision_log.hpp"
#include "actors/scheduler/policy.hpp"
#include "actors/scheduler/view.hpp"
#include "tools/sim/world_state.hpp"
#include <algorithm>
#include <bit>
#include <chrono>

namespace hflex::sim {

namespace {

constexpr std::uint32_t samples_of_fleet = 400;
constexpr std::uint64_t events_between_progress = 20'000;
constexpr client_id everybody{1};
constexpr std::uint32_t vocabulary = 1U << 16U;

bool shares_prefixes(const workload& load) {
  return std::any_of(
      load.requests.begin(), load.requests.end(), [](const auto& r) { return !r.prefix_blocks.empty(); });
}

router::options router_options(const workload& load, const cluster& hardware, bool prefix_cache) {
  router::options o;
  if (prefix_cache && shares_prefixes(load)) o.prefix_key = hash_key{1, 2};
  o.classes = load.classes;
  o.default_class = load.classes.front().name;
  o.max_context = hardware.device.max_context;
  o.eos_tokens = {end_of_text};
  o.max_in_flight = no_limit;
  o.max_history = 1;
  // Nothing fails here for taking long: the metrics say how long it took.
  o.request_timeout = std::chrono::hours{24 * 30};
  o.stage_timeout = std::chrono::hours{24 * 30};
  return o;
}

std::vector<std::uint32_t> answer_limits(const workload& load, std::uint32_t factor) {
  std::vector<std::uint32_t> limits(load.classes.size(), 1);
  for (const auto& r : load.requests) limits[r.slo_class] = std::max(limits[r.slo_class], r.output_tokens);
  for (auto& limit : limits) limit = std::bit_ceil(limit) * std::max(factor, 1U);
  return limits;
}

token_id token_from(std::uint64_t bits) { return static_cast<token_id>(1 + bits % (vocabulary - 1)); }

} // namespace

world::world(const cluster& hardware, const workload& load, const run_options& options, scheduler::core scheduler,
    scaler::core scaler, std::vector<fleet_group> fleet)
    : hardware_(hardware), load_(load), options_(options), scheduler_(std::move(scheduler)), scaler_(std::move(scaler)),
      router_(router_options(load, hardware, options.prefix_cache)), demand_(time_point{}),
      network_(events_, hardware.same_node, hardware.network),
      steps_(scheduler::find_policy(options.scheduler.policy)->steps),
      reveal_lengths_(options.scheduler.policy == "oracle"), limits_(answer_limits(load, options.max_tokens_factor)),
      clients_(load.requests.size()), records_(load.requests.size()) {
  shares_prefixes_ = shares_prefixes(load);
  for (const auto& group : fleet) result_.peak_instances += group.count;
}

// --- the fleet ------------------------------------------------------------------------------------------------------

void world::start_fleet() {
  const auto most = std::max(hardware_.max_instances, result_.peak_instances);
  const auto per_node = std::max(hardware_.instances_per_node, 1U);
  for (std::uint32_t first = 0, node = 1; first < most; first += per_node, ++node) {
    scaler::node_up e;
    e.node = {node};
    for (std::uint32_t i = 0; i < std::min(per_node, most - first); ++i) e.devices.push_back({i, 1});
    tell_scaler(e);
  }
}

void world::perform(const scaler::start_instance& e) {
  const auto id = e.instance;
  auto [at, fresh] =
      instances_.try_emplace(id, id, e.device.node.value, hardware_.device, options_.seed * 1'000'003 + id.value);
  HFLEX_CHECK(fresh);
  at->second.role = e.role;
  at->second.born = events_.now();
  // The fleet that stands when clients come was there before.
  const auto takes = open_ ? start_time(e.device.node.value) : duration{0};
  events_.after(takes, [this, id] { ready(id); });
}

void world::perform(const scaler::stop_instance& e) {
  if (auto* i = find(e.instance)) {
    ++result_.scale_ins;
    tell_scheduler(scheduler::instance_draining{e.instance});
    i->becomes.reset();
    if (i->core)
      tell(*i, instance::retire{e.drain ? duration{std::chrono::hours{1}} : duration{0}});
    else
      retired(*i);
  }
}

void world::perform(const scaler::change_role& e) {
  auto* i = find(e.instance);
  if (!i || !i->core) return;
  ++result_.role_flips;
  tell_scheduler(scheduler::instance_draining{e.instance});
  i->becomes = e.to;
  tell(*i, instance::retire{std::chrono::hours{1}});
}

void world::perform(const scaler::note& e) {
  if (!options_.keep_decisions || !open_) return; // the fleet that stands when clients come was there before
  std::string numbers;
  for (const auto& n : e.numbers) numbers += fmt::format("{}{} {:.4g}", numbers.empty() ? "" : ", ", n.name, n.value);
  if (!numbers.empty()) numbers = " (" + numbers + ")";
  result_.decisions.push_back(
      {events_.now() - start_, std::nullopt, 0, e.advice ? "advice" : "scaling", "", e.why + numbers});
}

void world::perform(const scaler::wake_at& e) {
  events_.at(e.when, [this] { tell_scaler(scaler::tick{}); });
}

// --- clients and router ---------------------------------------------------------------------------------------------

token_id world::token_of(request_id id, std::uint32_t index) const {
  return token_from(mix_bits(id.value * 0x10001ULL + index));
}

// Equal ids of blocks are equal text. Only where somebody could tell is the text worth making.
std::vector<token_id> world::prompt_of(std::size_t index) const {
  const auto& r = load_.requests[index];
  std::vector<token_id> tokens(r.prompt_tokens, 1);
  if (!shares_prefixes_ || !options_.prefix_cache) return tokens;
  const auto width = load_.prefix_block_tokens;
  for (std::uint32_t i = 0; i < r.prompt_tokens; ++i) {
    const auto block = i / width;
    const auto text = block < r.prefix_blocks.size() ? r.prefix_blocks[block] * 2 : index * 2 + 1;
    // Neighbouring tokens differ; a cheap function will do, as blocks are compared as a whole.
    tokens[i] = token_from(text * 0x9e3779b97f4a7c15ULL + i % width * 0x85ebca6bULL);
  }
  return tokens;
}

void world::arrive() {
  const auto index = next_arrival_++;
  if (next_arrival_ < load_.requests.size())
    events_.at(start_ + load_.requests[next_arrival_].arrival, [this] { arrive(); });
  const auto& r = load_.requests[index];
  router::submit e;
  e.client = everybody;
  e.client_ref = index;
  e.prompt = prompt_of(index);
  const auto room = hardware_.device.max_context - std::min(hardware_.device.max_context, r.prompt_tokens);
  const auto limit = options_.exact_answers ? r.output_tokens : limit_of(r.slo_class);
  e.max_output_tokens = std::max(std::min(limit, room), 1U);
  e.slo_class = load_.classes[r.slo_class].name;
  e.detach = true;
  auto& record = records_[index];
  record.slo_class = e.slo_class;
  record.slo = load_.classes[r.slo_class].targets;
  record.timing.arrival = events_.now();
  record.prompt_tokens = r.prompt_tokens;
  tell_router(e);
}

void world::perform(const router::accepted& e) {
  indices_.push_back(static_cast<std::size_t>(e.client_ref));
  HFLEX_CHECK(e.id.value == indices_.size()); // the router counts those that it accepts
}

// Longer than the model's context, say.
void world::perform(const router::refused& e) {
  records_[static_cast<std::size_t>(e.client_ref)].result = outcome::failed;
  ++result_.refused;
  ++ended_;
}

void world::perform(const router::to_scheduler_arrived& e) {
  auto& c = client_of(e.key);
  c.attempt = e.key.attempt;
  c.produced = c.told = e.produced;
  c.first_told = false;
  scheduler::request_arrived r;
  r.key = e.key;
  r.arrival = e.arrival;
  r.tokens = e.context_tokens;
  r.prompt_tokens = e.prompt_tokens;
  r.max_output_tokens = e.max_output_tokens;
  r.produced = e.produced;
  r.slo = e.targets;
  r.slo_class = e.slo_class;
  r.prefix = e.prefix;
  if (reveal_lengths_) r.known_output = load_.requests[index_of(e.key.id)].output_tokens;
  demand_.arrived(r);
  post_scheduler(std::move(r));
}

void world::perform(const router::to_scheduler_prefill_finished& e) {
  post_scheduler(scheduler::prefill_finished{e.key, e.cached_prompt_tokens});
}

void world::perform(const router::to_scheduler_ended& e) {
  scheduler::request_ended ended{e.key, std::nullopt};
  if (e.outcome == outcome::finished) ended.output_tokens = load_.requests[index_of(e.key.id)].output_tokens;
  demand_.ended(scheduler_.state(), ended);
  post_scheduler(ended);
}

void world::perform(const router::start& e) {
  instance::add add{e.spec, e.decode};
  post(e.prefill, std::move(add));
}

void world::perform(const router::cancel_at& e) { post(e.instance, instance::cancel{e.key}); }

void world::perform(const router::client_done& e) {
  auto& c = clients_[index_of(e.id)];
  HFLEX_CHECK(!c.result); // one terminal outcome
  c.result = e.record.outcome;
  auto& record = records_[index_of(e.id)];
  record.result = c.result;
  result_.cached_prompt_tokens += e.record.cached_prompt_tokens;
  result_.migrations += e.record.migrations;
  ++ended_;
}

void world::perform(const router::wake_at&) {}

/// What was produced and not yet told: the router hears of first tokens at once and of the rest when it matters.
void world::flush_tokens(client_request& r, request_key key) {
  if (r.told >= r.produced) return;
  router::tokens e;
  e.key = key;
  e.instance = r.speaker;
  e.first_index = r.told;
  for (auto i = r.told; i < r.produced; ++i) e.ids.push_back(token_of(key.id, i));
  r.told = r.produced;
  tell_router(e);
}

// --- scheduler ------------------------------------------------------------------------------------------------------

void world::perform(const scheduler::dispatch& e) {
  if (options_.on_dispatch) options_.on_dispatch(e, events_.now() - start_);
  tell_router(router::placed{e.key, e.prefill, e.decode});
}

void world::perform(const scheduler::shed& e) { tell_router(router::shed{e.key, e.reason}); }

void world::perform(const scheduler::wake_at& e) {
  events_.at(e.when, [this] { tell_scheduler(scheduler::tick{}); });
}

// --- the run --------------------------------------------------------------------------------------------------------

void world::sample_fleet() {
  fleet_sample s;
  s.at = events_.now() - start_;
  for (const auto& [id, i] : instances_)
    if (i.core) ++s.instances[i.role];
  s.waiting = static_cast<std::uint32_t>(scheduler_.state().waiting.size());
  s.running = static_cast<std::uint32_t>(scheduler_.state().placed.size());
  result_.peak_instances = std::max(result_.peak_instances, static_cast<std::uint32_t>(instances_.size()));
  result_.fleet.push_back(std::move(s));
  if (ended_ < records_.size() && load_.length() > duration{0})
    events_.after(load_.length() / samples_of_fleet + duration{1}, [this] { sample_fleet(); });
}

// As the scheduler's shell does, but whether there is something to tell or not: virtual time is cheap.
void world::report_demand() {
  auto report = demand_.take(scheduler_.state(), events_.now());
  report.mixed_apart = scheduler_.mixed_apart();
  events_.after(hardware_.control_latency, [this, e = scaler::demand_reported{std::move(report)}] { tell_scaler(e); });
  events_.after(scheduler::demand_meter::every, [this] { report_demand(); });
}

hflex::result<run_result> world::run() {
  const auto began = std::chrono::steady_clock::now();
  start_fleet();
  // The fleet comes up in no time; its first wake-ups lie in the future.
  start_ = events_.now() + std::chrono::seconds{1};
  while (!events_.empty() && events_.next() < start_) events_.step();
  events_.at(start_, [this] {
    open_ = true;
    sample_fleet();
    if (options_.scaling != "fixed") report_demand();
    if (!load_.requests.empty()) events_.at(start_ + load_.requests.front().arrival, [this] { arrive(); });
  });
  std::uint64_t until_progress = events_between_progress;
  while (ended_ < records_.size() && !events_.empty()) {
    events_.step();
    if (--until_progress > 0) continue;
    until_progress = events_between_progress;
    if (options_.on_progress && !options_.on_progress({ended_, records_.size(), events_.now() - start_}))
      return fail(errc::fatal, "stopped");
  }
  auto r = gather();
  if (options_.keep_decisions) {
    const auto end = events_.now();
    while (!events_.empty() && events_.next() <= end) events_.step(); // the scheduler hears of the last end, too
    add_stories(r.decisions);
  }
  r.wall = std::chrono::duration_cast<duration>(std::chrono::steady_clock::now() - began);
  return r;
}

void world::add_stories(std::vector<decision>& to) const {
  for (std::uint64_t id = 1; id <= indices_.size(); ++id) {
    const auto* story = scheduler_.story({id});
    if (story == nullptr) continue; // it ended before the scheduler heard of it
    for (const auto& h : story->happenings)
      to.push_back({h.at - start_, index_of({id}), h.attempt, std::string(to_string(h.what)),
          scheduler::place_in_words(h.prefill, h.decode), h.why.text()});
    if (story->omitted > 0)
      to.push_back({story->happenings.back().at - start_, index_of({id}), story->happenings.back().attempt, "omitted",
          "", fmt::format("{} happenings in the middle are left out", story->omitted)});
  }
  std::stable_sort(to.begin(), to.end(), [](const decision& a, const decision& b) { return a.at < b.at; });
}

run_result world::gather() const {
  run_result r = result_;
  r.policy = options_.scheduler.policy;
  r.mode = options_.disaggregated ? "disaggregated" : "collocated";
  r.scaling = options_.scaling;
  r.records = records_;
  // Goodput counts over the time in which clients came, which is the same for all policies.
  r.report = summarize(r.records, std::max(load_.length(), duration{1}));
  r.simulated = events_.now() - start_;
  r.kv_bytes_moved = static_cast<std::uint64_t>(network_.bytes_moved());
  for (const auto& [id, i] : instances_) {
    r.cost_instance_s += to_s(events_.now() - std::max(i.born, start_));
    if (!i.core) continue;
    const auto s = i.core->report();
    r.steps += s.steps;
    r.preemptions += s.preemptions;
  }
  r.cost_device_s = r.cost_instance_s * hardware_.device.devices;
  return r;
}

hflex::result<run_result> run(const cluster& hardware, const workload& load, const run_options& options) {
  if (load.classes.empty()) return fail(errc::reject, "workload {}: no SLO class", load.name);
  auto run_with = options;
  auto& s = run_with.scheduler;
  s.max_queued = s.max_outstanding = s.max_unstarted = no_limit; // as its instances' own queues
  // A request that is not remembered costs nothing; for the file of decisions, all are.
  s.max_explained = options.keep_decisions ? static_cast<std::uint32_t>(load.requests.size()) : 0;
  auto scheduler = scheduler::core::make(s);
  if (!scheduler) return pass(scheduler.error());
  auto fleet = options.fleet;
  if (fleet.empty()) fleet = options.disaggregated ? hardware.disaggregated : hardware.collocated;
  bool prefills = false, decodes = false;
  std::uint32_t count = 0;
  scaler::options sc;
  sc.policy = options.scaling;
  sc.knobs = options.scaling_knobs;
  sc.min_instances = hardware.min_instances;
  for (const auto& group : fleet) {
    sc.fleet.push_back({group.role, group.count});
    prefills = prefills || (group.count > 0 && can_prefill(group.role));
    decodes = decodes || (group.count > 0 && can_decode(group.role));
    count += group.count;
  }
  if (!prefills || !decodes)
    return fail(errc::reject, "cluster {}: expected instances that prefill and instances that decode", hardware.name);
  sc.max_instances = std::max(hardware.max_instances, count);
  const auto per_node = std::max(hardware.instances_per_node, 1U);
  sc.expect_nodes = (std::max(hardware.max_instances, count) + per_node - 1) / per_node;
  auto scaler = scaler::core::make(sc);
  if (!scaler) return pass(scaler.error());
  return world(hardware, load, run_with, std::move(*scheduler), std::move(*scaler), std::move(fleet)).run();
}

} // namespace hflex::sim
