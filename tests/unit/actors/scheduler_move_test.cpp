// The scheduler's accounts of requests that move while they decode: what a move adds is taken off again by whatever
// ends it.
#include "actors/scheduler/ledger.hpp"
#include "tests/support/catch.hpp"

namespace hflex::scheduler_move_test {

using namespace hflex::scheduler;

namespace {

constexpr time_point start{std::chrono::seconds{100}};

/// Instances 1, 2 and 3; request 1 decodes on 1, and has made four tokens there; request 2 decodes on 2.
struct books {
  explicit books(instance_role first = instance_role::mixed) : ledger_(opts(), *make_policy(opts())) {
    for (std::uint32_t id = 1; id <= 3; ++id)
      ledger_.add_instance(
          {{id}, {1}, id == 1 ? first : instance_role::mixed, 1000, 16, 2048, 64, unmeasured_step_time}, start);
    place(1, 1);
    place(2, 2);
    report(1, 3);
    report(2, 2);
  }
  static options opts() {
    options o;
    o.policy = "round_robin";
    return o;
  }

  void place(std::uint64_t id, std::uint32_t at, bool best_effort = false) {
    request_arrived r;
    r.key = {{id}, 1};
    r.arrival = start;
    r.tokens = r.prompt_tokens = 100;
    r.max_output_tokens = 50;
    r.slo.ttft = std::chrono::seconds{1};
    r.slo.tpot = std::chrono::milliseconds{20};
    ledger_.enqueue(r, start);
    ledger_.place(r.key, {{at}, {at}, 10, best_effort, "test"}, start);
    ledger_.finish_prefill(r.key, std::nullopt, start);
  }
  // So many decode steps, the prefill of earlier ones included.
  void report(std::uint32_t id, std::uint32_t steps) {
    step_shape shape;
    shape.add_decode(100);
    ledger_.report({{id}, shape, std::chrono::milliseconds{10}, 1, 0, 900, steps, 0}, start);
  }

  const instance_load& at(std::uint32_t id) const { return ledger_.state().instances.at({id}); }
  const placed_request& request(std::uint64_t id) const { return ledger_.state().placed.at({{id}, 1}); }
  /// When the next token of a request is due.
  time_point due(std::uint64_t id) const {
    const auto& p = request(id);
    const auto& load = ledger_.state().instances.at(p.decode);
    return p.anchor + p.request.slo.tpot * static_cast<std::int64_t>(load.decode_steps + 1);
  }

  ledger ledger_;
};

struct account {
  std::uint32_t reserved, outstanding, decoding, promised;
  std::uint64_t tokens, context;
  std::size_t members, anchors;
  friend bool operator==(const account&, const account&) = default;
};
account account_of(const instance_load& at) {
  account a{
      at.reserved_blocks, at.outstanding, at.decoding, at.promised, at.outstanding_tokens, at.decode_context, 0, 0};
  for (const auto& [tpot, tier] : at.tiers) {
    a.members += tier.members;
    a.anchors += tier.anchors.size();
  }
  return a;
}
const account nothing{};

constexpr request_key moving{{1}, 1};

} // namespace

TEST_CASE("a move reserves room at its target and leaves the source as it is") {
  books b;
  const auto before = account_of(b.at(1));
  CHECK(b.ledger_.begin_move(moving, {3}) == instance_id{1});
  CHECK(account_of(b.at(1)) == before);
  CHECK(b.at(3).outstanding == 1);
  CHECK(b.at(3).promised == 1);
  CHECK(b.at(3).decode_context == 103);
  CHECK(b.at(3).reserved_blocks == 10); // 100 + 50 tokens
  CHECK(b.at(3).tiers.begin()->second.members == 1);
  CHECK(b.request(1).moving_to == instance_id{3});
}

TEST_CASE("a move that is done leaves nothing at the source") {
  books b;
  b.ledger_.begin_move(moving, {3});
  b.report(1, 2); // it goes on decoding meanwhile
  b.ledger_.end_move(moving, {3});
  CHECK(account_of(b.at(1)) == nothing);
  CHECK(account_of(b.at(3)) == account{10, 1, 1, 0, 50, 105, 1, 1});
  CHECK(b.request(1).decode == instance_id{3});
  CHECK_FALSE(b.request(1).moving_to);
  b.report(3, 4);
  CHECK(b.at(3).decode_context == 109);
  CHECK(context_of(b.at(3), b.request(1)) == 109);
  b.ledger_.end(moving, 10);
  CHECK(account_of(b.at(3)) == nothing);
}

TEST_CASE("a move that came to nothing leaves nothing at its target") {
  books b;
  const auto before = account_of(b.at(1));
  b.ledger_.begin_move(moving, {3});
  b.ledger_.end_move(moving, {1});
  CHECK(account_of(b.at(1)) == before);
  CHECK(account_of(b.at(3)) == nothing);
  b.ledger_.begin_move(moving, {2}); // and may be tried again
  b.ledger_.end_move(moving, {2});
  CHECK(account_of(b.at(1)) == nothing);
  CHECK(b.at(2).decoding == 2);
}

TEST_CASE("a request that ends while it moves leaves nothing at either end") {
  books b;
  b.ledger_.begin_move(moving, {3});
  b.ledger_.end(moving, 5);
  CHECK(account_of(b.at(1)) == nothing);
  CHECK(account_of(b.at(3)) == nothing);
  b.ledger_.end_move(moving, {3}); // too late, and harmless
  CHECK(account_of(b.at(3)) == nothing);
}

TEST_CASE("when the target of a move dies the request stays where it is") {
  books b;
  const auto before = account_of(b.at(1));
  b.ledger_.begin_move(moving, {3});
  b.ledger_.remove_instance({3});
  CHECK(account_of(b.at(1)) == before);
  CHECK(b.request(1).moving_to == instance_id{3}); // until the source has answered
  b.ledger_.end_move(moving, {1});
  CHECK_FALSE(b.request(1).moving_to);
  CHECK(account_of(b.at(1)) == before);
  b.ledger_.end(moving, 5);
  CHECK(account_of(b.at(1)) == nothing);
}

TEST_CASE("a move that is said to be done after its target died changes no account") {
  books b;
  const auto before = account_of(b.at(1));
  b.ledger_.begin_move(moving, {3});
  b.ledger_.remove_instance({3});
  b.ledger_.end_move(moving, {3});
  CHECK(account_of(b.at(1)) == before);
}

TEST_CASE("when the source of a move dies nothing is left at its target") {
  books b;
  b.ledger_.begin_move(moving, {3});
  b.ledger_.remove_instance({1});
  CHECK(account_of(b.at(3)) == nothing);
  CHECK_FALSE(b.ledger_.state().placed.contains(moving));
  b.ledger_.end_move(moving, {3});
  CHECK(account_of(b.at(3)) == nothing);
}

TEST_CASE("token deadlines stay what they were across a move") {
  books b;
  const auto due = b.due(1);
  CHECK(due == start + std::chrono::milliseconds{20} * 4); // three tokens after the first
  b.ledger_.begin_move(moving, {2});                       // which has made other steps
  b.ledger_.end_move(moving, {2});
  CHECK(b.due(1) == due);
  b.report(2, 1);
  CHECK(b.due(1) == due + std::chrono::milliseconds{20});
  CHECK(b.at(2).slack(8.0) == b.due(2) - start); // 2 is a token behind: it is the one to wait for
  b.ledger_.begin_move(moving, {1});
  b.ledger_.end_move(moving, {1});
  CHECK(b.due(1) == due + std::chrono::milliseconds{20});
}

TEST_CASE("a request that binds nobody binds nobody after a move either") {
  books b;
  b.place(4, 1, true);
  b.ledger_.begin_move({{4}, 1}, {3});
  CHECK(b.at(3).tiers.empty());
  b.ledger_.end_move({{4}, 1}, {3});
  CHECK(b.at(3).tiers.empty());
  CHECK(b.at(3).decoding == 1);
}

} // namespace hflex::scheduler_move_test
