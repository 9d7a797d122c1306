// What the batcher's tests run on: a device that keeps a real (token-wide) KV pool, so that a block reused too early, a
// row not moved or a position off by one changes the next token; and a bench that drives one core by hand.
#pragma once
#include "actors/instance/batcher.hpp"
#include "tests/support/catch.hpp"
#include <algorithm>
#include <optional>
#include <random>
#include <utility>
#include <vector>

namespace hflex::instance::testing {

constexpr std::uint32_t vocab = 64;
constexpr token_id eos = 7;

inline options small_options() {
  options o;
  o.self = instance_id{1};
  o.block_size = 4;
  o.kv_blocks = 64;
  o.max_context = 128;
  o.vocab_size = vocab;
  o.eos_tokens = {eos};
  o.max_batched_tokens = 64;
  o.max_sequences = 16;
  o.max_waiting = 64;
  o.policy = step_policy::fixed_budget;
  return o;
}

/// The next token is a function of every token before it, of the seed and of the output index: of nothing else.
inline token_id next_token(const std::vector<token_id>& before, std::uint64_t seed, std::uint32_t index) {
  std::uint64_t h = 0xcbf29ce484222325ULL ^ seed ^ (std::uint64_t{index} << 40U);
  for (auto t : before) h = (h ^ static_cast<std::uint64_t>(t)) * 0x100000001b3ULL;
  return static_cast<token_id>((h >> 20U) % vocab);
}

struct stream {
  std::vector<token_id> tokens;
  stop_cause cause{};
};

/// What a request yields when nothing disturbs it.
inline stream undisturbed(const sequence_spec& spec, std::uint32_t context_limit) {
  stream out;
  auto all = spec.tokens;
  while (true) {
    const auto index = static_cast<std::uint32_t>(all.size()) - spec.prompt_tokens;
    const auto id = next_token(all, spec.sampling.seed, index);
    if (id == eos && !spec.ignore_eos) return out.cause = stop_cause::eos, out;
    all.push_back(id);
    out.tokens.push_back(id);
    if (index + 1 >= spec.max_output_tokens) return out.cause = stop_cause::max_tokens, out;
    if (all.size() >= context_limit) return out.cause = stop_cause::context_full, out;
  }
}

class fake_device {
public:
  explicit fake_device(const options& o) : block_size_(o.block_size), slots_(o.kv_blocks * o.block_size, -1) {}

  token_id& row(const std::vector<std::uint32_t>& table, std::uint32_t position) {
    REQUIRE(position / block_size_ < table.size());
    return slots_.at(table[position / block_size_] * block_size_ + position % block_size_);
  }

  /// Writes the plan's rows, then samples from what the block tables hold.
  std::vector<token_id> compute(const step_plan& plan) {
    for (const auto& e : plan.entries)
      for (std::uint32_t i = 0; i < e.tokens.size(); ++i) row(e.block_table, e.position + i) = e.tokens[i];
    std::vector<token_id> sampled;
    for (const auto& e : plan.entries) {
      std::vector<token_id> context;
      for (std::uint32_t i = 0; i < e.position + e.tokens.size(); ++i) context.push_back(row(e.block_table, i));
      sampled.push_back(e.sample ? next_token(context, e.sampling.seed, e.output_index) : -1);
    }
    return sampled;
  }

private:
  std::uint32_t block_size_;
  std::vector<token_id> slots_;
};

/// A prompt whose stream has no eos before its length, so that tests can count on every token.
inline sequence_spec make_spec(std::uint64_t id, std::uint32_t prompt, std::uint32_t max_output) {
  sequence_spec s;
  s.key = {request_id{id}, 1};
  for (std::uint32_t i = 0; i < prompt; ++i) s.tokens.push_back(static_cast<token_id>((id * 31 + i * 5) % vocab));
  s.prompt_tokens = prompt;
  s.max_output_tokens = max_output;
  s.sampling.seed = id;
  s.ignore_eos = true;
  s.slo.ttft = std::chrono::seconds{1};
  s.slo.tpot = std::chrono::milliseconds{100};
  return s;
}

/// One core, driven by hand.
class bench {
public:
  explicit bench(const options& o) : core_(o), device_(o) {}

  time_point now{std::chrono::hours{1}};

  /// Performs the event and returns its effects; a step plan is kept as well.
  template <class Event>
  std::vector<effect> send(const Event& e) {
    std::vector<effect> out;
    core_.on(e, now, out);
    core_.check_invariants();
    for (const auto& f : out)
      if (const auto* run = std::get_if<run_step>(&f)) {
        REQUIRE(!plan_);
        plan_ = run->plan;
      }
    return out;
  }

  bool busy() const { return plan_.has_value(); }
  const step_plan& plan() const {
    REQUIRE(plan_);
    return *plan_;
  }
  const step_entry* entry(request_key key) const {
    for (const auto& e : plan().entries)
      if (e.key == key) return &e;
    return nullptr;
  }

  std::vector<effect> finish(result<void> status = {}) {
    auto done = *std::exchange(plan_, std::nullopt);
    return send(step_finished{done.id, device_.compute(done), std::chrono::milliseconds{1}, std::move(status)});
  }
  /// The step ends with these tokens, whatever was computed.
  std::vector<effect> finish_with(std::vector<token_id> sampled) {
    auto done = *std::exchange(plan_, std::nullopt);
    return send(step_finished{done.id, std::move(sampled), std::chrono::milliseconds{1}, {}});
  }

  snapshot report() const { return core_.report(); }

private:
  core core_;
  fake_device device_;
  std::optional<step_plan> plan_;
};

template <class Effect>
std::vector<Effect> all(const std::vector<effect>& out) {
  std::vector<Effect> found;
  for (const auto& e : out)
    if (const auto* hit = std::get_if<Effect>(&e)) found.push_back(*hit);
  return found;
}

template <class Effect>
Effect only(const std::vector<effect>& out) {
  auto found = all<Effect>(out);
  REQUIRE(found.size() == 1);
  return found.front();
}

/// Position of the first effect of a kind.
template <class Effect>
std::size_t place(const std::vector<effect>& out) {
  return static_cast<std::size_t>(std::find_if(out.begin(), out.end(), [](const auto& e) {
    return std::holds_alternative<Effect>(e);
  }) - out.begin());
}

} // namespace hflex::instance::testing
