#include "tools/bench/scheduler_fleet.hpp"
#include <algorithm>
#include <array>
#include <cmath>

namespace hflex::bench {

namespace {

using clock = std::chrono::steady_clock;

/// One H100 with Llama-3.1-8B: config/profiles/h100-llama-3.1-8b.yaml, which says where the numbers come from.
constexpr step_time_model h100_8b{
    .c0_ms = 8.61576, .c1_ms = 0.0196364, .m0 = 224, .c2_ms = 1.11349e-06, .c3_ms = 0.00502211, .c4_ms = 4.25322e-05};
constexpr double step_noise = 0.03;
constexpr std::uint32_t block_size = 16;
constexpr std::uint32_t kv_blocks = 450896 / block_size;
constexpr std::uint32_t max_batched_tokens = 2048;
constexpr std::uint32_t max_sequences = 256;
constexpr std::uint32_t longest_answer = 1024;
constexpr duration transfer_time = std::chrono::milliseconds{2}; // of one prompt's KV over a fast link

struct traffic {
  const char* name;
  double share;
  duration ttft;
  duration tpot;
  double weight;
  std::uint32_t prompt; ///< median tokens
  std::uint32_t output;
};
/// Targets as in config/sim/slo_paper.yaml; the batch class may wait for an hour, so that a long queue has hope.
constexpr std::array classes{
    traffic{"code", 0.25, std::chrono::milliseconds{300}, std::chrono::milliseconds{30}, 1.0, 1500, 40},
    traffic{"chat", 0.35, std::chrono::milliseconds{450}, std::chrono::milliseconds{40}, 1.0, 700, 150},
    traffic{"summary", 0.2, std::chrono::seconds{15}, std::chrono::milliseconds{150}, 1.0, 2500, 200},
    traffic{"batch", 0.2, std::chrono::hours{1}, std::chrono::milliseconds{300}, 0.2, 800, 250},
};

} // namespace

scheduler_fleet::scheduler_fleet(scheduler::core core, std::uint32_t instances, bool disaggregated, std::uint64_t seed)
    : core_(std::move(core)), random_(seed) {
  constexpr std::uint32_t per_node = 8;
  instances_.resize(instances);
  for (std::uint32_t i = 0; i < instances; ++i) {
    auto role = instance_role::mixed;
    if (disaggregated) role = i % 2 == 0 ? instance_role::prefill : instance_role::decode;
    instances_[i].is = {instance_id{i + 1}, node_id{1 + i / per_node}, role, kv_blocks, block_size, max_batched_tokens,
        max_sequences, h100_8b};
    tell(told::kind::other, instances_[i].is);
  }
}

template <class Event>
void scheduler_fleet::tell(told::kind what, const Event& e) {
  effects_.clear();
  told t;
  t.what = what;
  t.waited = core_.state().waiting.size();
  const auto begin = clock::now();
  core_.on(e, events_.now(), effects_);
  t.took = clock::now() - begin;
  for (const auto& x : effects_) {
    t.dispatched += std::holds_alternative<scheduler::dispatch>(x) ? 1 : 0;
    t.shed += std::holds_alternative<scheduler::shed>(x) ? 1 : 0;
  }
  if (on_told) on_told(t);
  // None of these tells the core anything at once: the list stays as it is.
  for (const auto& x : effects_) std::visit([this](const auto& y) { this->perform(y); }, x);
}

// --- clients --------------------------------------------------------------------------------------------------------

std::uint32_t scheduler_fleet::length(std::uint32_t median, double spread) {
  return static_cast<std::uint32_t>(std::clamp(median * std::exp(spread * random_.normal()), 1.0, 8192.0));
}

void scheduler_fleet::arrive() {
  auto draw = random_.uniform();
  const traffic* c = classes.data();
  for (; draw > c->share && c != &classes.back(); ++c) draw -= c->share;
  scheduler::request_arrived r;
  r.key = {request_id{sequences_.size() + 1}, 1};
  r.arrival = events_.now();
  r.tokens = r.prompt_tokens = length(c->prompt, 0.6);
  r.max_output_tokens = longest_answer;
  r.slo.ttft = c->ttft;
  r.slo.tpot = c->tpot;
  r.slo.weight = c->weight;
  r.slo_class = c->name;
  sequences_.push_back({{}, r.tokens, r.tokens, std::min(length(c->output, 0.7), longest_answer)});
  tell(told::kind::arrival, r);
}

void scheduler_fleet::set_rate(double per_s) {
  rate_ = per_s;
  next_arrival(++stream_);
}

void scheduler_fleet::next_arrival(std::uint64_t stream) {
  if (rate_ <= 0) return;
  events_.after(from_s(random_.exponential() / rate_), [this, stream] {
    if (stream != stream_) return;
    next_arrival(stream);
    arrive();
  });
}

void scheduler_fleet::keep_queued(std::uint32_t requests) {
  kept_queued_ = requests;
  if (core_.state().waiting.size() >= requests) return;
  for (const auto& i : instances_) tell(told::kind::other, scheduler::instance_draining{i.is.instance});
  while (core_.state().waiting.size() < requests) arrive();
  for (const auto& i : instances_) tell(told::kind::other, scheduler::instance_role_changed{i.is.instance, i.is.role});
}

void scheduler_fleet::top_up() {
  if (core_.state().waiting.size() < kept_queued_) arrive();
}

// --- effects --------------------------------------------------------------------------------------------------------

void scheduler_fleet::perform(const scheduler::dispatch& e) {
  of(e.key.id.value).decode = e.decode;
  auto& p = at(e.prefill);
  p.prefilling.push_back(e.key.id.value);
  if (p.busy) return;
  // With the next event, so that all that is dispatched now is in the step.
  p.busy = true;
  events_.after(duration{0}, [this, &p] { start_step(p); });
}

void scheduler_fleet::perform(const scheduler::migrate& e) {
  events_.after(duration{0}, [this, e] { tell(told::kind::other, scheduler::moved{e.key, e.from}); });
}

void scheduler_fleet::perform(const scheduler::wake_at& e) {
  events_.at(e.when, [this] { tell(told::kind::tick, scheduler::tick{}); });
}

// --- instances ------------------------------------------------------------------------------------------------------

void scheduler_fleet::start_step(instance& i) {
  step_shape shape;
  shape.decode_seqs = static_cast<std::uint32_t>(i.decoding.size());
  shape.decode_context = static_cast<double>(i.context);
  auto budget = max_batched_tokens - std::min(max_batched_tokens, shape.decode_seqs);
  for (auto id : i.prefilling) {
    const auto& s = of(id);
    const auto n = std::min(budget, s.prefill_left);
    if (n == 0) break;
    shape.add_prefill(n, s.tokens - s.prefill_left);
    budget -= n;
  }
  i.busy = !(shape == step_shape{});
  if (!i.busy) return;
  i.shape = shape;
  const auto took = from_ms(to_ms(h100_8b.predict(shape)) * std::exp(step_noise * random_.normal()));
  events_.after(took, [this, index = static_cast<std::size_t>(&i - instances_.data()), took] {
    finish_step(index, took);
    start_step(instances_[index]);
    top_up();
  });
}

void scheduler_fleet::finish_step(std::size_t index, duration took) {
  auto& i = instances_[index];
  ++i.steps;
  i.context += i.decoding.size();
  std::vector<std::uint64_t> prefilled, ended;
  for (auto left = i.shape.prefill_tokens; left > 0;) {
    auto& s = of(i.prefilling.front());
    const auto n = std::min(left, s.prefill_left);
    s.prefill_left -= n;
    left -= n;
    if (s.prefill_left > 0) break;
    prefilled.push_back(i.prefilling.front());
    i.prefilling.pop_front();
  }
  for (; !i.decoding.empty() && i.decoding.top().step <= i.steps; i.decoding.pop())
    ended.push_back(i.decoding.top().id);
  for (auto id : ended) i.context -= of(id).tokens + of(id).output;
  const auto held = static_cast<std::uint32_t>(i.context / block_size + i.decoding.size());
  tell(told::kind::step_report,
      scheduler::step_reported{i.is.instance, i.shape, took, static_cast<std::uint32_t>(i.decoding.size()),
          static_cast<std::uint32_t>(i.prefilling.size()), kv_blocks - std::min(kv_blocks, held), 1,
          i.shape.prefill_tokens});
  for (auto id : prefilled) {
    auto& s = of(id);
    const auto key = request_key{request_id{id}, 1};
    tell(told::kind::first_token, scheduler::prefill_finished{key});
    if (s.output == 1)
      tell(told::kind::end, scheduler::request_ended{key, 1});
    else if (s.decode == i.is.instance)
      join_decodes(i, id);
    else
      events_.after(transfer_time, [this, id, to = s.decode] {
        join_decodes(at(to), id);
        if (!at(to).busy) start_step(at(to));
      });
  }
  for (auto id : ended) tell(told::kind::end, scheduler::request_ended{{request_id{id}, 1}, of(id).output});
}

// Its first token is there; each step brings one more.
void scheduler_fleet::join_decodes(instance& i, std::uint64_t id) {
  const auto& s = of(id);
  i.context += s.tokens + 1;
  i.decoding.push({i.steps + s.output - 1, id});
}

} // namespace hflex::bench
