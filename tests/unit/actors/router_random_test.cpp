// Seeded random lives of many requests: whatever clients, scheduler and instances do, and in whatever order, the
// router's promises hold. A failure prints the seed.
#include "actors/router/router.hpp"
#include "tests/unit/actors/effects_of.hpp"
#include <map>
#include <random>
#include <set>

namespace hflex::router_random_test {

using namespace hflex::router;
using namespace std::chrono_literals;

namespace {

options limits() {
  options o;
  o.classes = {{"chat", {200ms, 50ms, {}, 1.0, late_action::serve_late}, "test"}};
  o.default_class = "chat";
  o.max_context = 64;
  o.default_max_output_tokens = 6;
  o.max_in_flight = 40;
  o.max_history = 16;
  o.max_attempts = 4;
  o.request_timeout = 30s;
  o.stage_timeout = 2s;
  o.reorder_timeout = 200ms;
  return o;
}

/// The token that output index i of a request must be: a stream mixed up in any way shows.
token_id expected(request_id id, std::uint32_t index) { return static_cast<token_id>(id.value * 100 + index); }

/// Plays everybody around the router and checks each effect against what may be.
class world {
public:
  explicit world(std::uint32_t seed) : random_(seed) {}

  void run(int steps) {
    for (int i = 0; i < steps; ++i) step();
    now_ += 60s; // past every deadline
    send(tick{});
  }
  void check_end() {
    CHECK(core_.in_flight() == 0);
    CHECK(done_.size() == accepted_.size());
    CHECK(waiting_.empty());
    CHECK(known_to_scheduler_.empty());
    CHECK(attempts_.empty());
    CHECK(retries_ > 0);
    CHECK(finished_ > 0);
  }

private:
  /// An attempt that some instance runs.
  struct attempt {
    std::set<instance_id> all;       ///< that ever had it
    std::set<instance_id> live;      ///< that must be told when it is given up
    std::set<instance_id> cancelled; ///< that were told
    instance_id prefill, decode;
    std::uint32_t next{};
    std::uint32_t limit{};
  };

  std::uint32_t pick(std::uint32_t n) { return static_cast<std::uint32_t>(random_() % n); }

  void step() {
    now_ += std::chrono::milliseconds{pick(20)};
    switch (pick(16)) {
    case 0:
    case 1:
      new_request();
      break;
    case 2:
      send(cancel{{1 + pick(4)}, {1 + pick(static_cast<std::uint32_t>(accepted_.size()) + 2)}});
      break;
    case 3:
      if (pick(20) == 0) send(client_gone{{1 + pick(4)}});
      break;
    case 4:
      if (pick(6) == 0) die();
      break;
    case 5:
      now_ += std::chrono::milliseconds{pick(300)};
      [[fallthrough]];
    case 6:
      send(tick{});
      break;
    case 7:
      send(wait{{1 + pick(4)}, {1 + pick(static_cast<std::uint32_t>(accepted_.size()) + 2)}});
      break;
    case 8:
    case 9:
    case 10:
      schedule();
      break;
    default:
      produce();
      break;
    }
  }

  void new_request() {
    submit s;
    s.client = {1 + pick(4)};
    s.client_ref = ++refs_;
    s.prompt.assign(pick(8), 5); // some are empty
    if (pick(2)) s.max_output_tokens = 1 + pick(8);
    s.detach = detach_ = pick(4) == 0;
    send(s);
  }

  void schedule() {
    if (waiting_.empty()) return;
    auto it = std::next(waiting_.begin(), pick(static_cast<std::uint32_t>(waiting_.size())));
    auto key = *it;
    waiting_.erase(it);
    if (pick(10) == 0) {
      known_to_scheduler_.erase(key);
      send(shed{key, "late"});
    } else {
      instance_id prefill{first_ + pick(4)};
      send(placed{key, prefill, pick(2) ? prefill : instance_id{first_ + pick(4)}});
    }
  }

  void produce() {
    if (attempts_.empty()) return;
    auto it = std::next(attempts_.begin(), pick(static_cast<std::uint32_t>(attempts_.size())));
    auto key = it->first;
    auto& a = it->second;
    auto from = a.next == 0 || pick(2) ? a.prefill : a.decode;
    switch (pick(13)) {
    case 12:
      migrate(key, a, {first_ + pick(4)});
      return;
    case 0:
      send(handed_back{key, from, pick(8) ? errc::reroute : errc::reject, "random"});
      return;
    case 1:
      send(progress{key, from});
      return;
    case 2:
      send_tokens(key, a.decode, a.next + 1 + pick(2), 1);
      return; // out of order, or a gap
    case 3:
      send_tokens(key, from, a.next > 0 ? a.next - 1 : 0, 1);
      return;
    case 4:
      send(tokens{{key.id, key.attempt + 1}, from, a.next, {-7}});
      return; // no such attempt
    case 5:
      send_tokens({key.id, key.attempt - 1}, from, a.next, 1, -7);
      return; // one that is over
    default:
      break;
    }
    if (a.next >= a.limit || pick(12) == 0) {
      auto cause = a.next >= a.limit ? stop_cause::max_tokens : stop_cause::eos;
      send(ended{key, a.decode, cause});
      return;
    }
    auto n = 1 + pick(std::min(3U, a.limit - a.next));
    a.next += n;
    send_tokens(key, from, a.next - n, n);
  }

  /// On the scheduler's order, or on nobody's.
  void migrate(request_key key, attempt& a, instance_id to) {
    auto moving = moving_.find(key);
    if (moving == moving_.end()) {
      if (pick(2)) return move(key, a, to);
      CHECK(asked_.insert(key).second);
      send(hflex::router::move{key, a.decode, to});
    } else if (to = moving->second; pick(2)) {
      send(migration_failed{key, to, "random"});
    } else {
      a.decode = to;
      if (pick(2)) send(migrated{key, to}); // or its tokens will tell
    }
  }
  void check(const migrate_at& x) {
    must_live(x.key.id);
    CHECK(dead_.count(x.to) == 0);
    auto& a = attempts_.at(x.key);
    CHECK(x.instance == a.decode);
    a.all.insert(x.to);
    a.live.insert(x.to);
    CHECK(moving_.emplace(x.key, x.to).second);
    ++moves_;
  }
  void check(const to_scheduler_moved& x) {
    must_live(x.key.id);
    CHECK(asked_.erase(x.key) == 1); // one answer to each order
    moving_.erase(x.key);
  }

  void move(request_key key, attempt& a, instance_id to) {
    if (dead_.count(to) == 0 && to != a.decode) {
      a.decode = to;
      a.all.insert(to);
      a.live.insert(to);
    }
    send(migrated{key, to});
  }

  void send_tokens(request_key key, instance_id from, std::uint32_t first, std::uint32_t n, token_id wrong = 0) {
    tokens t{key, from, first, {}};
    for (std::uint32_t i = 0; i < n; ++i) t.ids.push_back(wrong ? wrong : expected(key.id, first + i));
    send(t);
  }

  void die() {
    instance_id dead{first_ + pick(4)};
    dead_.insert(dead);
    for (auto& [key, a] : attempts_) a.live.erase(dead);
    send(instance_gone{dead});
    ++first_; // a fresh one takes its place
  }

  template <class Event>
  void send(const Event& e) {
    std::vector<effect> out;
    core_.on(e, now_, out);
    if constexpr (std::is_same_v<Event, handed_back>) attempts_.at(e.key).live.erase(e.instance);
    for (auto& x : out) std::visit([&](const auto& known) { check(known); }, x);
    for (auto it = attempts_.begin(); it != attempts_.end();) {
      auto now_on = current_.find(it->first.id);
      auto over = now_on == current_.end() || now_on->second != it->first;
      if (over) {
        CHECK(it->second.live.empty());
        asked_.erase(it->first);
        moving_.erase(it->first);
      }
      it = over ? attempts_.erase(it) : std::next(it);
    }
  }

  std::uint32_t produced(request_id id) const {
    return detached_.count(id) ? core_.job(id)->output_tokens() : streamed_.at(id);
  }
  void must_live(request_id id) { CHECK(done_.count(id) == 0); }

  void check(const accepted& x) {
    CHECK(accepted_.insert(x.id).second);
    if (detach_) detached_.insert(x.id);
    streamed_[x.id] = 0;
    CHECK(x.client_ref == refs_);
  }
  void check(const refused& x) { CHECK_FALSE(x.reason.empty()); }
  void check(const to_scheduler_arrived& x) {
    must_live(x.key.id);
    CHECK(x.produced == produced(x.key.id));
    CHECK(known_to_scheduler_.insert(x.key).second);
    waiting_.insert(x.key);
    current_[x.key.id] = x.key;
    if (x.key.attempt > 1) ++retries_;
  }
  void check(const to_scheduler_prefill_finished& x) { must_live(x.key.id); }
  void check(const to_scheduler_ended& x) {
    CHECK(known_to_scheduler_.erase(x.key) == 1);
    waiting_.erase(x.key);
  }
  void check(const start& x) {
    must_live(x.spec.key.id);
    CHECK(dead_.count(x.prefill) + dead_.count(x.decode) == 0);
    CHECK(x.spec.produced() == produced(x.spec.key.id));
    for (std::uint32_t i = 0; i < x.spec.produced(); ++i)
      CHECK(x.spec.tokens[x.spec.prompt_tokens + i] == expected(x.spec.key.id, i));
    attempts_[x.spec.key] = {{x.prefill, x.decode}, {x.prefill, x.decode}, {}, x.prefill, x.decode, x.spec.produced(),
        x.spec.max_output_tokens};
  }
  void check(const cancel_at& x) {
    must_live(x.key.id);
    auto it = attempts_.find(x.key);
    REQUIRE(it != attempts_.end());
    CHECK(it->second.all.count(x.instance) == 1);
    CHECK(it->second.cancelled.insert(x.instance).second);
    it->second.live.erase(x.instance);
  }
  void check(const cancel_result&) {}
  void check(const client_tokens& x) {
    must_live(x.id);
    CHECK(detached_.count(x.id) == 0);
    CHECK(x.first_index == streamed_[x.id]);
    for (std::size_t i = 0; i < x.ids.size(); ++i)
      CHECK(x.ids[i] == expected(x.id, x.first_index + static_cast<std::uint32_t>(i)));
    streamed_[x.id] += static_cast<std::uint32_t>(x.ids.size());
  }
  void check(const client_done& x) {
    CHECK(done_.insert(x.id).second);
    REQUIRE(x.record.outcome);
    if (*x.record.outcome == outcome::finished) {
      ++finished_;
      attempts_.at(current_.at(x.id)).live.clear(); // its instances ended it themselves
    }
    if (detached_.count(x.id) == 0) CHECK(x.record.output_tokens() == streamed_[x.id]);
    for (std::uint32_t i = 0; i < x.record.output_tokens(); ++i) CHECK(x.record.token_ids[i] == expected(x.id, i));
    current_.erase(x.id);
  }
  void check(const wait_done& x) { CHECK((x.record || !x.reason.empty())); }
  void check(const wake_at&) {}

  std::mt19937 random_;
  time_point now_{1s};
  core core_{limits()};
  std::uint64_t refs_{0};
  bool detach_{false};     ///< of the latest submit
  std::uint32_t first_{1}; ///< instances first_ .. first_ + 3 are placed on
  std::set<instance_id> dead_;
  std::set<request_id> accepted_, detached_, done_;
  std::set<request_key> waiting_, known_to_scheduler_;
  std::map<request_id, request_key> current_;
  std::map<request_id, std::uint32_t> streamed_;
  std::map<request_key, attempt> attempts_;
  std::set<request_key> asked_; ///< moves that the scheduler waits for
  std::map<request_key, instance_id> moving_;
  int moves_{0};
  int retries_{0};
  int finished_{0};
};

} // namespace

TEST_CASE("whatever happens, each accepted request ends once and each token comes once") {
  for (std::uint32_t seed = 1; seed <= 40; ++seed) {
    INFO("seed " << seed);
    world w{seed};
    w.run(3000);
    w.check_end();
  }
}

} // namespace hflex::router_random_test
