#include "actors/scheduler/policies/hyperflexis_division.hpp"
#include "actors/scheduler/standing.hpp"
#include "tests/support/scheduler_desk.hpp"
#include <set>

namespace hflex::scheduler_division_test {

using namespace hflex::test;
using namespace hflex::scheduler;

namespace {

// config/profiles: Llama-3.1-70B on 4 H100 pays 18 ms a step, 8B on one H100 half of that.
constexpr step_time_model h100_70b{
    .c0_ms = 18.1096, .c1_ms = 0.0599674, .m0 = 160, .c2_ms = 1.85306e-06, .c3_ms = 0.00546333, .c4_ms = 2.87889e-05};
constexpr step_time_model h100_8b{
    .c0_ms = 8.61576, .c1_ms = 0.0196364, .m0 = 224, .c2_ms = 1.11349e-06, .c3_ms = 0.00502211, .c4_ms = 4.25322e-05};

instance_ready ready(std::uint32_t id, const step_time_model& model, std::uint32_t kv_blocks = 28000) {
  return {{id}, {1}, instance_role::mixed, kv_blocks, 16, 2048, 256, model};
}

struct kind {
  std::uint32_t prompt{};
  std::uint32_t output{};
  double tpot_ms{};
};
constexpr kind code{2000, 30, 30};
constexpr kind chat{1100, 260, 40};
constexpr kind loose_chat{1100, 260, 200};

// A mix that has been seen for long.
request_mix mix_of(std::initializer_list<kind> kinds) {
  request_mix mix;
  for (int i = 0; i < 3000; ++i)
    for (const auto& k : kinds) {
      auto r = scheduler_desk::request(1, k.prompt, 1000, k.tpot_ms);
      mix.add(r, k.prompt);
      mix.finished(r, k.output);
      mix.made(k.output - 1);
    }
  return mix;
}

instance_load idle(const step_time_model& model) {
  static const options opts;
  return instance_load(ready(1, model), opts, {});
}

instance_load with_decodes(std::uint32_t sequences, std::uint64_t context) {
  auto at = idle(h100_70b);
  at.decoding = sequences;
  at.decode_context = sequences * context;
  at.reserved_blocks = static_cast<std::uint32_t>(at.decode_context / 16);
  for (std::uint32_t i = 0; i < sequences; ++i) at.tiers.join(from_ms(40));
  return at;
}

std::uint32_t needed(const std::vector<instance_load>& fleet) {
  std::vector<const instance_load*> all;
  for (const auto& at : fleet) all.push_back(&at);
  return hosts_needed(all);
}

/// Mixed instances of the large model, and code requests that each prefill and then decode for a while.
struct code_fleet : scheduler_desk {
  code_fleet(std::uint32_t count, options opts, const step_time_model& model = h100_70b) : scheduler_desk(opts) {
    for (std::uint32_t id = 1; id <= count; ++id) on(ready(id, model));
  }
  /// One after the other, prefilled at once, each of them ending when six more have come.
  void serve(std::uint64_t requests, double tpot_ms = 30) {
    for (std::uint64_t i = 0; i < requests; ++i) {
      now += from_ms(40);
      const auto id = ++last;
      arrive(id, 2000, 400, tpot_ms);
      REQUIRE(was_dispatched(id));
      const auto& at = core.state().instances.at({place_of(id)});
      step_shape shape;
      shape.add_prefill(2000, 0);
      step_reported report{at.is.instance, shape, at.model().predict(shape), at.decoding, 0, at.is.kv_blocks, 1, 0};
      report.handover_wait = handover_wait;
      on(report);
      settle(id);
      if (id > 6) end(id - 6, 30);
    }
  }
  /// Of the last `count` dispatches, where those decode, and how many do so where they were prefilled.
  std::set<std::uint32_t> hosts(std::size_t count, std::size_t* together = nullptr) const {
    std::set<std::uint32_t> all;
    for (auto d = dispatches.end() - static_cast<std::ptrdiff_t>(count); d != dispatches.end(); ++d) {
      all.insert(d->decode.value);
      if (together) *together += d->prefill == d->decode ? 1 : 0;
    }
    return all;
  }
  std::uint64_t last{0};
  duration handover_wait{};
};

} // namespace

TEST_CASE("decodes are gathered where a step's fixed cost is large beside the tightest target") {
  const auto large = estimate_division(mix_of({code}), idle(h100_70b), 8);
  CHECK(large.apart > 1.15 * large.together);
  CHECK(large.hosts == 1);
  const auto small = estimate_division(mix_of({chat}), idle(h100_8b), 8);
  CHECK(small.apart < small.together);
}

TEST_CASE("decodes with loose targets leave the others' steps alone: less is gained by gathering all") {
  const auto tight = estimate_division(mix_of({chat}), idle(h100_70b), 8);
  const auto both = estimate_division(mix_of({chat, loose_chat}), idle(h100_70b), 8);
  CHECK(both.apart / both.together < 0.95 * tight.apart / tight.together);
}

TEST_CASE("two instances have too little to divide") {
  const auto y = estimate_division(mix_of({code}), idle(h100_70b), 2);
  CHECK(y.hosts == 1);
  CHECK(y.apart < y.together);
}

TEST_CASE("the expected output of a tier is that of its requests once enough have finished") {
  const auto mix = mix_of({code, chat});
  std::vector<double> outputs;
  mix.each_tier([&](const request_mix::tier& t) { outputs.push_back(mix.output_of(t)); });
  REQUIRE(outputs.size() == 2);
  CHECK(outputs[0] == Approx(30).epsilon(0.3)); // with what is taken for usual still in it
  CHECK(outputs[1] == Approx(260).epsilon(0.05));
}

TEST_CASE("what has not finished yet counts for the expected output") {
  request_mix mix;
  const auto r = scheduler_desk::request(1, 1000, 1000, 40);
  for (int i = 0; i < 100; ++i) mix.add(r, 1000);
  for (int i = 0; i < 20; ++i) mix.finished(r, 50);
  double before = 0, after = 0;
  mix.each_tier([&](const request_mix::tier& t) { before = mix.output_of(t); });
  mix.made(20000); // by eighty that go on
  mix.each_tier([&](const request_mix::tier& t) { after = mix.output_of(t); });
  CHECK(after > 1.5 * before);
}

TEST_CASE("outputs are leant to both sides of what is expected, the further the less is known") {
  const auto spread = [](const request_mix& mix) {
    double all = 0;
    mix.each_tier([&](const request_mix::tier& t) {
      CHECK(mix.output_of(t, -1) * mix.output_of(t, 1) == Approx(mix.output_of(t) * mix.output_of(t)));
      all = mix.output_of(t, 1) / mix.output_of(t, -1);
    });
    return all;
  };
  auto mix = mix_of({code});
  const auto known = spread(mix);
  CHECK(known > 1.2);
  mix.made(100'000); // by many that go on
  CHECK(spread(mix) > 1.5 * known);
}

TEST_CASE("a mix forgets what it has not seen for long") {
  auto mix = mix_of({code});
  const auto r = scheduler_desk::request(1, 500, 1000, 200);
  for (int i = 0; i < 10000; ++i) mix.add(r, 500);
  double code_share = 1;
  mix.each_tier([&](const request_mix::tier& t) {
    if (t.tpot_ms / t.requests < 50) code_share = t.requests / mix.requests();
  });
  CHECK(code_share < 0.01);
}

TEST_CASE("more decodes need more hosts, by their steps, their number and their memory") {
  CHECK(needed({with_decodes(20, 1000), with_decodes(0, 0), with_decodes(0, 0), with_decodes(0, 0)}) == 1);
  CHECK(needed({with_decodes(200, 1000), with_decodes(200, 1000), with_decodes(0, 0), with_decodes(0, 0)}) == 2);
  CHECK(needed({with_decodes(220, 100), with_decodes(30, 100), with_decodes(0, 0)}) == 2);    // 256 is the most of one
  CHECK(needed({with_decodes(25, 10000), with_decodes(25, 10000), with_decodes(0, 0)}) == 2); // blocks
  CHECK(needed({with_decodes(256, 1700), with_decodes(256, 1700), with_decodes(256, 1700)}) == 2); // one prefills
}

TEST_CASE("a mixed fleet of a large model gathers the decodes of code requests and prefills on the others") {
  code_fleet fleet(8, {});
  fleet.serve(100);
  std::size_t together = 0;
  const auto hosts = fleet.hosts(40, &together);
  CHECK(hosts.size() == 1);
  CHECK(together == 0);
  CHECK(fleet.core.mixed_apart());
  for (std::uint32_t id = 1; id <= 8; ++id) // as it was told
    CHECK(fleet.duties.at(id) == (hosts.count(id) > 0 ? instance_role::decode : instance_role::prefill));
}

TEST_CASE("a mixed fleet decodes where it has prefilled when that serves as many") {
  code_fleet small_model(8, {}, h100_8b), loose_targets(8, {}), told_not_to(8, [] {
    options o;
    o.knobs["hyperflexis.divide_gain"] = 1000;
    return o;
  }());
  small_model.serve(100);
  loose_targets.serve(100, 2000);
  told_not_to.serve(100);
  for (auto* fleet : {&small_model, &loose_targets, &told_not_to}) {
    CHECK_FALSE(fleet->core.mixed_apart());
    for (const auto& d : fleet->dispatches) CHECK(d.prefill == d.decode);
  }
}

TEST_CASE("a fleet whose steps were not measured is not divided") {
  scheduler_desk desk;
  for (std::uint32_t id = 1; id <= 4; ++id) {
    auto r = ready(id, h100_70b);
    r.model.reset();
    desk.on(r);
  }
  for (std::uint64_t id = 1; id <= 30; ++id) {
    desk.arrive(id, 100, 60000, 30);
    if (!desk.was_dispatched(id)) continue;
    desk.settle(id);
    desk.end(id, 30);
  }
  REQUIRE(desk.dispatches.size() > 16); // as many as a mix is believed after
  for (const auto& d : desk.dispatches) CHECK(d.prefill == d.decode);
}

TEST_CASE("another instance gathers the decodes when the host drains") {
  code_fleet fleet(8, {});
  fleet.serve(60);
  const auto host = *fleet.hosts(1).begin();
  fleet.on(instance_draining{{host}});
  fleet.now += from_ms(30);
  fleet.serve(40);
  const auto hosts = fleet.hosts(20);
  CHECK(hosts.size() == 1);
  CHECK(hosts.count(host) == 0);
}

TEST_CASE("one more instance gathers decodes when a request finds no room on the host") {
  code_fleet fleet(8, {});
  fleet.serve(60);
  const auto host = *fleet.hosts(1).begin();
  // The host's steps get too long for one whose target is a third of the others'.
  for (std::uint64_t id = 1000; id < 1100; ++id) {
    fleet.now += from_ms(50);
    fleet.arrive(id, 2000, 400, 60);
    if (!fleet.was_dispatched(id)) continue;
    const auto& at = fleet.core.state().instances.at({fleet.place_of(id)});
    step_shape shape;
    shape.add_prefill(2000, 0);
    fleet.on(step_reported{at.is.instance, shape, at.model().predict(shape), at.decoding, 0, at.is.kv_blocks, 1, 0});
    fleet.settle(id);
  }
  REQUIRE(fleet.hosts(80).size() == 1);
  fleet.arrive(2000, 200, 400, 20.5);
  for (int i = 0; i < 4 && !fleet.was_dispatched(2000); ++i) {
    fleet.now += from_ms(10);
    fleet.on(tick{});
  }
  REQUIRE(fleet.was_dispatched(2000));
  CHECK(fleet.dispatches.back().decode.value != host);
}

TEST_CASE("a fleet whose links are too slow to hand over is together again at once, and tries again later") {
  code_fleet fleet(8, {});
  fleet.handover_wait = from_ms(40);
  fleet.serve(60);
  std::size_t together = 0;
  fleet.hosts(20, &together);
  CHECK(together == 0); // a thirtieth of that for each token of an answer
  fleet.handover_wait = from_ms(2000);
  fleet.serve(40);
  fleet.hosts(20, &together);
  CHECK(together == 20);
  fleet.now += std::chrono::minutes{61};
  fleet.handover_wait = from_ms(0);
  fleet.serve(40);
  together = 0;
  fleet.hosts(20, &together);
  CHECK(together == 0);
}

TEST_CASE("people are told why a mixed instance takes no prefill") {
  code_fleet fleet(8, {});
  fleet.serve(60);
  const auto host = *fleet.hosts(1).begin();
  for (std::uint64_t id = 1000; id < 1080; ++id) fleet.arrive(id, 2000, 60000, 30);
  request_id waits{};
  for (const auto& [key, w] : fleet.core.state().waiting) waits = key.id;
  REQUIRE(waits.value > 0);
  const auto standing = fleet.core.explain(waits, fleet.now);
  REQUIRE(standing);
  const auto told = std::find_if(
      standing->obstacles.begin(), standing->obstacles.end(), [&](const auto& o) { return o.instance.value == host; });
  REQUIRE(told != standing->obstacles.end());
  CHECK(told->why.find("decodes for the others") == 0);
}

} // namespace hflex::scheduler_division_test
