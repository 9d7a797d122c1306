// Every policy of the table through seeded random histories: arrivals, cancels, deaths, drains, role flips, silences,
// migrations that end well, come to nothing or are never heard of again.
#include "actors/scheduler/policy.hpp"
#include "tests/support/catch.hpp"
#include <map>
#include <random>
#include <set>

namespace hflex::scheduler_conformance_test {

using namespace hflex::scheduler;

namespace {

/// The outside world as the scheduler's contract describes it; checks every effect against that contract.
class world {
public:
  world(std::string policy, std::uint64_t seed, std::uint32_t walk_all_up_to = options{}.walk_all_up_to)
      : rng_(seed), core_(make(policy, walk_all_up_to)) {}

  void live(int events) {
    for (int i = 0; i < events; ++i) {
      now_ += std::chrono::microseconds{upto(20000)};
      random_event();
    }
  }

  /// The fleet recovers, nobody new comes, everybody who is served ends: the queue must drain.
  void settle() {
    for (auto& [id, i] : instances_) set_role(id, instance_role::mixed);
    start_instance(instance_role::mixed);
    for (const auto& r : std::exchange(lost_, {})) arrive(retry_of(r));
    for (int round = 0; round < 5000 && !waiting_.empty(); ++round) {
      REQUIRE(wake_);
      now_ = std::max(now_, *wake_);
      wake_.reset();
      send(tick{});
      while (!placed_.empty()) end_placed(placed_.begin()->first);
    }
    CHECK(waiting_.empty());
    while (!placed_.empty()) end_placed(placed_.begin()->first);
    const auto& v = core_.state();
    CHECK(v.waiting.empty());
    CHECK(v.first_come.empty());
    CHECK(v.placed.empty());
    for (const auto& [id, at] : v.instances) {
      CHECK(at.reserved_blocks == 0);
      CHECK(at.outstanding == 0);
      CHECK(at.outstanding_tokens == 0);
      CHECK(at.pending_prefill == 0);
      CHECK(at.sequences() == 0);
      CHECK(at.decode_context == 0);
      CHECK(at.tiers.empty());
      CHECK(at.prefilling.empty());
    }
    CHECK(answered_ > 100);
  }

  const std::string& trace() const { return trace_; }
  std::uint64_t moves() const { return moves_; }

private:
  struct instance {
    instance_role role;
    bool draining{false};
    std::uint32_t kv_blocks{};
  };
  struct place {
    request_arrived request;
    dispatch to;
    bool prefilled{false};
  };

  static core make(const std::string& policy, std::uint32_t walk_all_up_to) {
    options opts;
    opts.policy = policy;
    opts.walk_all_up_to = walk_all_up_to;
    opts.max_queued = 60;
    opts.max_outstanding = 40;
    opts.max_unstarted = 25;
    opts.max_wait = std::chrono::seconds{5};
    opts.ageing_floor = std::chrono::seconds{1};
    auto made = core::make(opts);
    REQUIRE(made);
    return std::move(*made);
  }

  std::uint32_t upto(std::uint32_t n) { return static_cast<std::uint32_t>(rng_() % (n + 1)); }
  template <class Map>
  auto& any_of(Map& m) {
    return *std::next(m.begin(), upto(static_cast<std::uint32_t>(m.size() - 1)));
  }

  void random_event() {
    const auto dice = upto(99);
    if (dice < 35)
      arrive(fresh_request());
    else if (dice < 40 && !lost_.empty())
      retry();
    else if (dice < 43 && !moving_.empty())
      answer_move();
    else if (dice < 55 && !placed_.empty())
      finish_prefill(any_of(placed_).first);
    else if (dice < 65 && !placed_.empty())
      end_placed(any_of(placed_).first);
    else if (dice < 67 && !waiting_.empty())
      cancel_waiting(any_of(waiting_).first);
    else if (dice < 85 && !instances_.empty())
      report(any_of(instances_).first);
    else if (dice < 88 && instances_.size() < 6)
      start_instance(instance_role(upto(2)));
    else if (dice < 89 && !instances_.empty())
      lose_instance(any_of(instances_).first);
    else if (dice < 91 && !instances_.empty())
      drain(any_of(instances_).first);
    else if (dice < 94 && !instances_.empty())
      set_role(any_of(instances_).first, instance_role(upto(2)));
    else if (wake_ && *wake_ <= now_)
      ring();
    else
      stray_event();
  }

  request_arrived fresh_request() {
    request_arrived r;
    r.key = {{next_request_++}, 1};
    r.arrival = now_ - from_ms(upto(5));
    r.tokens = r.prompt_tokens = 1 + upto(upto(3) == 0 ? 6000 : 400);
    r.max_output_tokens = 1 + upto(600);
    r.slo.ttft = from_ms(50 + upto(3000));
    r.slo.tpot = from_ms(5 + upto(200));
    r.slo.when_late = upto(1) == 0 ? late_action::shed : late_action::serve_late;
    r.slo_class = upto(1) == 0 ? "chat" : "batch";
    if (upto(9) == 0) r.slo.weight = 4;
    if (upto(1) == 0) r.known_output = 1 + upto(r.max_output_tokens - 1);
    return r;
  }

  static request_arrived retry_of(request_arrived r) {
    ++r.key.attempt;
    const auto more = std::min<std::uint32_t>(5, r.max_output_tokens - 1 - r.produced);
    r.produced += more;
    r.tokens += more;
    return r;
  }
  void retry() {
    auto r = retry_of(lost_.back());
    lost_.pop_back();
    arrive(r);
  }

  void arrive(const request_arrived& r) {
    waiting_.emplace(r.key, r);
    send(r);
  }
  void finish_prefill(request_key key) {
    placed_.at(key).prefilled = true;
    send(prefill_finished{key});
  }
  void end_placed(request_key key) {
    placed_.erase(key);
    send(request_ended{key, upto(2) == 0 ? std::nullopt : std::optional{1 + upto(300)}});
  }
  void cancel_waiting(request_key key) {
    waiting_.erase(key);
    send(request_ended{key, std::nullopt});
  }
  // It may have ended, either end may be gone: the word comes all the same.
  void answer_move() {
    const auto [key, to] = moving_.back();
    moving_.pop_back();
    const auto found = placed_.find(key);
    const auto there = instances_.find(to);
    const bool well =
        found != placed_.end() && there != instances_.end() && can_decode(there->second.role) && upto(2) > 0;
    if (well) {
      found->second.to.decode = to;
      found->second.to.reserved_blocks = 0; // the scheduler has reserved there what it thinks it needs
      ++moves_;
    }
    send(moved{key, well ? to : found == placed_.end() ? instance_id{9999} : found->second.to.decode});
  }
  void report(instance_id id) {
    step_shape shape;
    if (upto(2) > 0) shape.add_prefill(1 + upto(1000), 0);
    for (auto n = upto(4); n > 0; --n) shape.add_decode(upto(500));
    send(step_reported{
        id, shape, from_ms(1 + upto(60)), shape.decode_seqs, 0, upto(instances_.at(id).kv_blocks), 1 + upto(2), 0});
  }
  void start_instance(instance_role role) {
    const instance_id id{next_instance_++};
    const std::uint32_t blocks = 450 + upto(600);
    instances_.emplace(id, instance{role, false, blocks});
    instance_ready ready{id, {1 + upto(1)}, role, blocks, 16, 512 + upto(1500), 4 + upto(40), {}};
    if (upto(1) == 0) ready.model = step_time_model{.c0_ms = 4, .c1_ms = 0.03, .m0 = 32, .c2_ms = 0, .c3_ms = 0.05};
    send(ready);
  }
  void lose_instance(instance_id id) {
    for (auto it = placed_.begin(); it != placed_.end();) {
      const auto& p = it->second;
      if (p.to.decode == id || (p.to.prefill == id && !p.prefilled)) {
        lost_.push_back(p.request);
        it = placed_.erase(it);
      } else
        ++it;
    }
    instances_.erase(id);
    send(instance_gone{id});
  }
  void drain(instance_id id) {
    instances_.at(id).draining = true;
    send(instance_draining{id});
  }
  void set_role(instance_id id, instance_role role) {
    auto& i = instances_.at(id);
    i.role = role;
    i.draining = false;
    send(instance_role_changed{id, role});
  }
  void ring() {
    wake_.reset();
    send(tick{});
  }
  // What a distributed system says too late: about requests and instances that are forgotten.
  void stray_event() {
    send(request_ended{{{1 + upto(50)}, 9}, std::nullopt});
    send(prefill_finished{{{1 + upto(50)}, 9}});
    send(step_reported{{9999}, {}, from_ms(5), 0, 0, 0, 1, 0});
    send(moved{{{1 + upto(50)}, 9}, {9999}});
    send(instance_gone{{9999}});
    send(instance_draining{{9999}});
    send(instance_role_changed{{9999}, instance_role::mixed});
  }

  template <class Event>
  void send(const Event& e) {
    std::vector<effect> out;
    core_.on(e, now_, out);
    for (const auto& x : out) std::visit([&](const auto& y) { check(y); }, x);
    check_accounts();
  }

  void check(const migrate& m) {
    trace_ += fmt::format("{}~{};", to_string(m.key), m.to.value);
    REQUIRE(placed_.count(m.key) == 1);
    REQUIRE(instances_.count(m.to) == 1);
    CHECK_FALSE(instances_.at(m.to).draining);
    CHECK(can_decode(instances_.at(m.to).role));
    CHECK(m.from == placed_.at(m.key).to.decode);
    CHECK(m.from != m.to);
    CHECK(placed_.at(m.key).prefilled);
    for (const auto& [key, to] : moving_) CHECK(key != m.key); // one move at a time
    CHECK_FALSE(m.why.empty());
    moving_.emplace_back(m.key, m.to);
  }
  void check(const dispatch& d) {
    trace_ += fmt::format("{}>{}/{}:{};", to_string(d.key), d.prefill.value, d.decode.value, d.reserved_blocks);
    REQUIRE(waiting_.count(d.key) == 1); // waits: neither dispatched before nor ended
    REQUIRE(instances_.count(d.prefill) == 1);
    REQUIRE(instances_.count(d.decode) == 1);
    const auto& p = instances_.at(d.prefill);
    const auto& to = instances_.at(d.decode);
    CHECK_FALSE(p.draining);
    CHECK_FALSE(to.draining);
    CHECK(can_prefill(p.role));
    CHECK(can_decode(to.role));
    if (d.prefill == d.decode) CHECK(p.role == instance_role::mixed);
    CHECK_FALSE(d.why.empty());
    placed_.emplace(d.key, place{waiting_.at(d.key), d, false});
    waiting_.erase(d.key);
    ++answered_;
  }
  void check(const shed& s) {
    trace_ += fmt::format("{}x;", to_string(s.key));
    REQUIRE(waiting_.erase(s.key) == 1);
    CHECK_FALSE(s.reason.empty());
    ++answered_;
  }
  void check(const used_for& u) {
    trace_ += fmt::format("{}={};", u.instance.value, to_string(u.duty));
    REQUIRE(instances_.count(u.instance) == 1);
    CHECK(instances_.at(u.instance).role == instance_role::mixed);
  }
  void check(const wake_at& w) {
    if (!wake_ || w.when < *wake_) wake_ = w.when;
  }

  void check_accounts() {
    std::map<instance_id, std::uint64_t> reserved;
    for (const auto& [key, p] : placed_) reserved[p.to.decode] += p.to.reserved_blocks;
    for (const auto& [id, blocks] : reserved) REQUIRE(blocks <= instances_.at(id).kv_blocks);
    const auto& v = core_.state();
    REQUIRE(v.instances.size() == instances_.size());
    for (const auto& [id, at] : v.instances) {
      REQUIRE(at.reserved_blocks <= at.is.kv_blocks);
      REQUIRE(at.reserved_blocks >= reserved[id]);
      REQUIRE(at.outstanding <= 40);
    }
    REQUIRE(v.waiting.size() == waiting_.size());
    REQUIRE(v.waiting.size() <= 60);
    REQUIRE(v.placed.size() == placed_.size());
    REQUIRE((v.waiting.empty() || wake_)); // somebody waits: the core has asked to be called again
  }

  std::mt19937_64 rng_;
  core core_;
  time_point now_{std::chrono::seconds{1000}};
  std::optional<time_point> wake_;
  std::map<instance_id, instance> instances_;
  std::map<request_key, request_arrived> waiting_;
  std::map<request_key, place> placed_;
  std::vector<std::pair<request_key, instance_id>> moving_; ///< moves under way, or of requests that have ended
  std::vector<request_arrived> lost_;
  std::uint64_t next_request_{1};
  std::uint32_t next_instance_{1};
  std::uint64_t answered_{};
  std::uint64_t moves_{};
  std::string trace_;
};

} // namespace

TEST_CASE("every scheduling policy keeps the contract through random histories") {
  for (const auto& entry : policies()) {
    std::uint64_t moves = 0;
    for (std::uint64_t seed = 1; seed <= 25; ++seed) {
      INFO("policy " << entry.name << ", seed " << seed);
      world w(std::string(entry.name), seed);
      w.live(1500);
      w.settle();
      moves += w.moves();
    }
    if (entry.name == "llumnix") CHECK(moves > 25);
  }
}

TEST_CASE("hyperflexis keeps the contract when it looks at a few instances only") {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    INFO("seed " << seed);
    world w("hyperflexis", seed, 0);
    w.live(1500);
    w.settle();
  }
}

TEST_CASE("hyperflexis decides the same for the same history when it looks at a few instances only") {
  world a("hyperflexis", 7, 0), b("hyperflexis", 7, 0);
  for (auto* w : {&a, &b}) w->live(1000);
  CHECK(a.trace() == b.trace());
}

TEST_CASE("every scheduling policy decides the same for the same history") {
  for (const auto& entry : policies()) {
    INFO("policy " << entry.name);
    world a(std::string(entry.name), 7), b(std::string(entry.name), 7), c(std::string(entry.name), 8);
    for (auto* w : {&a, &b, &c}) w->live(1000);
    CHECK(a.trace() == b.trace());
    CHECK(a.trace() != c.trace());
    CHECK(a.trace().size() > 1000);
  }
}

} // namespace hflex::scheduler_conformance_test
