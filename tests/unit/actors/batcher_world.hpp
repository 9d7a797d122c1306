// Random lives under a router that does what the real one does: it retries what is handed back, with the tokens so far,
// and ignores what an earlier attempt still says. Every token that a client gets is checked against an undisturbed run.
#pragma once
#include "tests/unit/actors/batcher_support.hpp"
#include <array>
#include <deque>
#include <functional>
#include <map>
#include <memory>

namespace hflex::instance::testing {

using namespace std::chrono_literals;

struct faults {
  double step_fails{0};     ///< of the steps
  double transfer_fails{0}; ///< of the completed transfers
  double ack_lost{0};       ///< of the completed transfers: landed, but the source is told of a failure
  double link_breaks{0};    ///< of the moves of the world
  double cancels{0};        ///< of the moves of the world
  double migrations{0};     ///< of the moves of the world: not a fault, but a disturbance
  bool lease_ends{false};   ///< time may jump past a lease
  double hands_over{0.8};   ///< of the requests that could be decoded elsewhere
};

struct client {
  sequence_spec spec; ///< as of its newest attempt
  stream expected;
  std::vector<token_id> got;
  bool cancelled{false};
  std::optional<stop_cause> cause;
  bool over() const { return cancelled || cause; }
};

/// What the data plane knows of one transfer.
struct wire {
  std::array<std::optional<std::vector<std::uint32_t>>, 2> table; ///< source, sink; none: not open or closed
  std::array<bool, 2> told{};                                     ///< completion given, or closed
  std::vector<bool> pushed;
  std::vector<token_id> rows;
};

/// One instance: its core, its device, and the step in flight.
struct node {
  explicit node(const options& o) : batcher(o), device(o), limit(std::min(o.max_context, o.kv_blocks * o.block_size)) {}
  core batcher;
  fake_device device;
  std::uint32_t limit;
  std::optional<step_plan> plan;
  std::optional<std::vector<token_id>> sampled; ///< computed, its result not yet delivered
  std::optional<time_point> wake;
};

using event = std::variant<add, cancel, offer, kv_committed, transfer_aborted, offer_accepted, offer_refused, kv_landed,
    kv_delivered, kv_failed, peer_lost, migrate, kv_taken>;

/// A data plane's word to one side, on its way.
struct completion {
  std::size_t node;
  transfer_id transfer;
  std::size_t side; ///< 0 source, 1 sink
  bool ok;
};

class world {
public:
  world(std::uint64_t seed, std::vector<options> nodes, faults f) : random_(seed), faults_(f) {
    for (const auto& o : nodes) {
      nodes_.push_back(std::make_unique<node>(o));
      roles_.push_back(o.role);
    }
  }

  void run(int requests) {
    for (int left = requests; left > 0 || !settled();) {
      now_ += std::chrono::microseconds{below(2000)};
      if (left > 0 && chance(0.1)) {
        submit();
        --left;
      } else if (!move() && left == 0) {
        REQUIRE(wake()); // somebody must be waiting for something
      }
    }
    for (const auto& c : clients_) {
      if (c.cancelled) continue;
      CHECK(c.got == c.expected.tokens);
      CHECK(c.cause == c.expected.cause);
    }
    while (move() || (busy() && wake())) continue; // what stale attempts have left behind
    for (const auto& n : nodes_) {
      const auto r = n->batcher.report();
      CHECK(r.kv_blocks_free == r.kv_blocks_total);
      CHECK(r.running + r.waiting + r.offered + r.receiving + r.sending == 0);
      preemptions += r.preemptions;
      cached_tokens += r.cached_tokens;
    }
  }

  std::uint64_t preemptions{};
  std::uint64_t cached_tokens{};
  std::uint64_t handovers{};
  std::uint64_t migrations{};
  std::uint64_t stays{};
  std::uint64_t retries{};
  std::uint64_t stale_words{}; ///< terminal words of attempts that were over

private:
  std::uint32_t below(std::uint32_t n) { return std::uniform_int_distribution<std::uint32_t>{0, n - 1}(random_); }
  bool chance(double p) { return std::bernoulli_distribution{p}(random_); }

  // ---- the router ----

  void submit() {
    const auto id = clients_.size() + 1;
    auto s = make_spec(id, 1 + below(40), 1 + below(faults_.migrations > 0 ? 60 : 30));
    if (chance(0.6)) begin_like_others(s);
    s.ignore_eos = chance(0.5);
    s.arrival = now_;
    s.slo.ttft = std::chrono::milliseconds{1 + below(200)};
    s.slo.tpot = std::chrono::milliseconds{1 + below(20)};
    client c;
    c.expected = undisturbed(s, nodes_[0]->limit);
    c.spec = std::move(s);
    clients_.push_back(c);
    dispatch(clients_.back());
  }

  /// Three texts that many prompts start with, for a while.
  void begin_like_others(sequence_spec& s) {
    const auto common = below(3), length = std::min(s.prompt_tokens, below(40));
    for (std::uint32_t i = 0; i < length; ++i) s.tokens[i] = static_cast<token_id>((common * 17 + i * i) % vocab);
  }

  void dispatch(const client& c) {
    std::size_t first = below(static_cast<std::uint32_t>(nodes_.size()));
    while (!can_prefill(roles_[first])) first = (first + 1) % nodes_.size();
    instance_id decode_at{};
    if (nodes_.size() > 1 && can_decode(roles_[1 - first]) && chance(faults_.hands_over)) decode_at = id_of(1 - first);
    inbox(first).push_back(add{c.spec, decode_at});
  }

  client& client_of(request_key key) { return clients_.at(key.id.value - 1); }
  void count_stale(request_key key) { stale_words += !client_of(key).cancelled; }
  bool stale(request_key key) { return client_of(key).over() || client_of(key).spec.key != key; }

  void perform(std::size_t, const token& e) {
    if (stale(e.key)) return;
    auto& c = client_of(e.key);
    // A link that breaks without a death leaves two instances with one sequence; the router takes what is new.
    if (faults_.link_breaks > 0 && e.index < c.got.size()) {
      REQUIRE(e.id == c.got[e.index]);
      return;
    }
    REQUIRE(e.index == c.got.size());
    REQUIRE(e.index < c.expected.tokens.size());
    REQUIRE(e.id == c.expected.tokens[e.index]);
    c.got.push_back(e.id);
  }
  void perform(std::size_t, const ended& e) {
    if (stale(e.key)) return count_stale(e.key);
    client_of(e.key).cause = e.cause;
  }
  void perform(std::size_t, const handed_back& e) {
    if (stale(e.key)) return count_stale(e.key);
    REQUIRE(e.why.code != errc::reject);
    auto& c = client_of(e.key);
    ++retries;
    ++c.spec.key.attempt;
    c.spec.tokens.resize(c.spec.prompt_tokens);
    c.spec.tokens.insert(c.spec.tokens.end(), c.got.begin(), c.got.end());
    dispatch(c);
  }
  void perform(std::size_t from, const migrated& e) {
    answer(e.key, from, e.to);
    ++migrations;
  }
  void perform(std::size_t from, const migration_failed& e) {
    answer(e.key, from, e.to);
    ++stays;
  }
  void answer(request_key key, std::size_t from, instance_id to) {
    REQUIRE(to == id_of(1 - from));
    REQUIRE(asked_.at({key, from}) > 0); // never two answers
    --asked_.at({key, from});
  }
  void migrate_one() {
    std::vector<const client*> live;
    for (const auto& c : clients_)
      if (!c.over() && !c.got.empty()) live.push_back(&c);
    if (live.empty()) return;
    const auto& c = *live[below(static_cast<std::uint32_t>(live.size()))];
    const std::size_t from = below(2);
    ++asked_[{c.spec.key, from}];
    inbox(from).push_back(migrate{c.spec.key, id_of(1 - from)});
  }

  // ---- messages between instances: ordered, delayed ----

  void perform(std::size_t from, const offer_kv& e) {
    tell(from, e.to, offer{e.transfer, e.spec, id_of(from), e.lease, e.ahead});
  }
  void perform(std::size_t from, const commit_kv& e) {
    tell(from, e.to, kv_committed{e.transfer, e.index, e.token, e.earlier});
  }
  void perform(std::size_t from, const take_over& e) { tell(from, e.to, kv_taken{e.transfer}); }
  void perform(std::size_t from, const abort_transfer& e) { tell(from, e.to, transfer_aborted{e.transfer}); }
  void perform(std::size_t from, const refuse_offer& e) {
    tell(from, e.from, offer_refused{e.transfer, e.why, e.leaving});
  }

  // ---- the data plane: rows are read when they are delivered, so that a block used again too early shows ----

  void perform(std::size_t from, const accept_offer& e) {
    auto& w = wires_[e.transfer];
    w.table[1] = e.block_table;
    w.rows.resize(e.tokens);
    w.pushed.resize(e.tokens);
    tell(from, e.from, offer_accepted{e.transfer});
  }
  void perform(std::size_t from, const open_push& e) {
    auto& w = wires_[e.transfer];
    w.table[0] = e.block_table;
    if (!w.table[1]) complete(e.transfer, from, 0, false);
  }
  void perform(std::size_t, const push_rows& e) { push(e.transfer, e.begin, e.count); }
  void push(transfer_id id, std::uint32_t begin, std::uint32_t count) {
    auto& w = wires_[id];
    if (!w.table[0] || w.told[0]) return;
    for (auto i = begin; i < begin + count; ++i) {
      REQUIRE_FALSE(w.pushed.at(i));
      w.pushed[i] = true;
    }
  }
  void perform(std::size_t node, const close_transfer& e) {
    auto& w = wires_[e.transfer];
    const std::size_t side = source_of(e.transfer) == node ? 0 : 1;
    REQUIRE(w.table[side]);
    w.table[side].reset();
    w.told[side] = true;
    std::erase_if(completions_, [&](const auto& c) { return c.node == node && c.transfer == e.transfer; });
    const auto other = 1 - side;
    if (w.table[other]) complete(e.transfer, 1 - node, other, false);
  }
  std::size_t source_of(transfer_id id) const { return (id.value >> 32U) - 1; }

  void complete(transfer_id id, std::size_t node, std::size_t side, bool ok) {
    if (!std::exchange(wires_[id].told[side], true)) completions_.push_back({node, id, side, ok});
  }

  void report(const completion& c) {
    if (!c.ok)
      send(c.node, kv_failed{c.transfer, {errc::reroute, "torn"}});
    else if (c.side == 0)
      send(c.node, kv_delivered{c.transfer});
    else
      send(c.node, kv_landed{c.transfer});
  }

  void deliver(transfer_id id) {
    auto& w = wires_[id];
    const auto source = source_of(id), sink = 1 - source;
    if (chance(faults_.transfer_fails)) {
      complete(id, source, 0, false);
      complete(id, sink, 1, false);
      return;
    }
    for (std::uint32_t i = 0; i < w.rows.size(); ++i)
      nodes_[sink]->device.row(*w.table[1], i) = nodes_[source]->device.row(*w.table[0], i);
    complete(id, sink, 1, true);
    ++handovers;
    complete(id, source, 0, !chance(faults_.ack_lost));
  }

  void break_link() {
    for (auto& box : inboxes_) std::erase_if(box, [](const event& e) { return !is_router(e); });
    completions_.clear();
    for (auto& [_, w] : wires_) w.told = {true, true};
    for (std::size_t n = 0; n < 2; ++n) send(n, peer_lost{id_of(1 - n)});
  }
  static bool is_router(const event& e) {
    return std::holds_alternative<add>(e) || std::holds_alternative<cancel>(e) || std::holds_alternative<migrate>(e);
  }

  // ---- devices and timers ----

  void perform(std::size_t n, const run_step& e) {
    REQUIRE_FALSE(nodes_[n]->plan);
    nodes_[n]->plan = e.plan;
    if (faults_.link_breaks == 0) REQUIRE_FALSE(computed_elsewhere(n));
  }
  /// One attempt has one owner at a time.
  bool computed_elsewhere(std::size_t n) const {
    for (const auto& other : nodes_)
      if (other != nodes_[n] && other->plan)
        for (const auto& mine : nodes_[n]->plan->entries)
          for (const auto& theirs : other->plan->entries)
            if (mine.key == theirs.key) return true;
    return false;
  }
  void perform(std::size_t n, const wake_at& e) {
    auto& wake = nodes_[n]->wake;
    wake = std::min(wake.value_or(time_point::max()), e.at);
  }
  void perform(std::size_t, const retired&) { FAIL("nobody retires here"); }

  void compute(std::size_t n) {
    auto& d = *nodes_[n];
    d.sampled = d.device.compute(*d.plan);
    for (const auto& e : d.plan->entries)
      if (e.push_kv) push(e.transfer, e.position, static_cast<std::uint32_t>(e.tokens.size()));
  }
  void finish(std::size_t n) {
    auto& d = *nodes_[n];
    step_finished e{d.plan->id, *d.sampled, 1ms, {}};
    if (chance(faults_.step_fails)) e.status = fail(errc::fatal, "device error");
    d.plan.reset();
    d.sampled.reset();
    send(n, e);
  }

  // ---- time ----

  template <class Event>
  void send(std::size_t n, const Event& e) {
    std::vector<effect> out;
    nodes_[n]->batcher.on(e, now_, out);
    nodes_[n]->batcher.check_invariants();
    for (const auto& f : out) std::visit([&](const auto& x) { perform(n, x); }, f);
  }

  /// One thing that is due somewhere, picked at random. False: nothing is.
  bool move() {
    std::vector<std::function<void()>> moves;
    for (std::size_t n = 0; n < nodes_.size(); ++n) {
      auto& d = *nodes_[n];
      if (d.plan && !d.sampled) moves.emplace_back([this, n] { compute(n); });
      if (d.sampled) moves.emplace_back([this, n] { finish(n); });
      if (d.wake && *d.wake <= now_) moves.emplace_back([this, n] { fire(n); });
    }
    for (std::size_t i = 0; i < inboxes_.size(); ++i)
      if (!inboxes_[i].empty()) moves.emplace_back([this, i] { receive(i); });
    for (std::size_t i = 0; i < completions_.size(); ++i)
      moves.emplace_back([this, i] {
        auto c = completions_[i];
        completions_.erase(completions_.begin() + static_cast<std::ptrdiff_t>(i));
        report(c);
      });
    for (auto& [id, w] : wires_)
      if (w.table[0] && w.table[1] && !w.told[0] && !w.told[1] &&
          std::count(w.pushed.begin(), w.pushed.end(), false) == 0)
        moves.emplace_back([this, t = id] { deliver(t); });
    if (moves.empty()) return false;
    moves[below(static_cast<std::uint32_t>(moves.size()))]();
    if (chance(faults_.cancels)) cancel_one();
    if (chance(faults_.link_breaks)) break_link();
    if (chance(faults_.migrations)) migrate_one();
    if (faults_.lease_ends && chance(0.002)) now_ += 300ms;
    return true;
  }

  void cancel_one() {
    auto& c = clients_[below(static_cast<std::uint32_t>(clients_.size()))];
    if (c.over()) return;
    c.cancelled = true;
    for (std::size_t n = 0; n < nodes_.size(); ++n) inbox(n).push_back(cancel{c.spec.key});
  }

  void fire(std::size_t n) {
    nodes_[n]->wake.reset();
    send(n, tick{});
  }

  /// Goes to the next timer. False: there is none.
  bool wake() {
    auto at = time_point::max();
    for (const auto& n : nodes_) at = std::min(at, n->wake.value_or(time_point::max()));
    now_ = std::max(now_, at == time_point::max() ? now_ : at);
    return at != time_point::max();
  }
  bool settled() const {
    return std::all_of(clients_.begin(), clients_.end(), [](const client& c) { return c.over(); });
  }
  bool busy() const {
    return std::any_of(nodes_.begin(), nodes_.end(),
        [](const auto& n) { return n->batcher.report().kv_blocks_free != n->batcher.report().kv_blocks_total; });
  }

  // Inboxes: one from the router and one from the other instance, per instance; each keeps its order.
  instance_id id_of(std::size_t n) const { return instance_id{static_cast<std::uint32_t>(n + 1)}; }
  std::deque<event>& inbox(std::size_t n) { return inboxes_[n]; }
  void tell(std::size_t from, instance_id to, event e) {
    REQUIRE(to == id_of(1 - from));
    inboxes_[2 + (1 - from)].push_back(std::move(e));
  }
  void receive(std::size_t i) {
    auto e = std::move(inboxes_[i].front());
    inboxes_[i].pop_front();
    std::visit([&](const auto& x) { send(i % 2, x); }, e);
  }

  std::mt19937_64 random_;
  faults faults_;
  time_point now_{1h};
  std::vector<std::unique_ptr<node>> nodes_;
  std::vector<instance_role> roles_;
  std::deque<client> clients_;
  std::array<std::deque<event>, 4> inboxes_;
  std::vector<completion> completions_;
  std::map<transfer_id, wire> wires_;
  std::map<std::pair<request_key, std::size_t>, int> asked_; ///< migrations of a sequence from a node, unanswered
};

inline options node_options(std::uint64_t seed, std::uint32_t id, instance_role role) {
  auto o = small_options();
  o.self = instance_id{id};
  o.role = role;
  o.kv_blocks = 20 + static_cast<std::uint32_t>(seed % 3) * 12;
  o.max_context = seed % 4 == 0 ? 48 : 128;
  o.max_sequences = 6;
  o.max_batched_tokens = 7 + static_cast<std::uint32_t>(seed % 5) * 8;
  o.watermark_blocks = seed % 2;
  o.transfer_lease = o.migration_lease = 200ms;
  o.min_ahead = 1 + static_cast<std::uint32_t>(seed % 4);
  o.max_ahead = o.min_ahead + static_cast<std::uint32_t>(seed % 7);
  o.kv_row_time = std::chrono::microseconds{50 * (seed % 5)};
  o.prefix_cache = seed % 5 != 0;
  if (seed % 3 != 0) {
    o.policy = step_policy::slack_budget;
    o.min_chunk = 3;
    if (seed % 3 == 1)
      o.predict = [](const step_shape& s) { return 500us + 200us * (s.prefill_tokens + s.decode_seqs); };
  }
  return o;
}

} // namespace hflex::instance::testing
