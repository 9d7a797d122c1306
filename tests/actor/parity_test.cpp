// The simulator against the runtime: the same requests and the same step times through all shells in virtual time, and
// through tools/sim's world, give the same decisions: where and when each request was placed, and when each of its
// tokens came. Messages take no time in either.
#include "actors/scheduler/policy.hpp"
#include "tests/support/small_cluster.hpp"
#include "tools/sim/random.hpp"
#include "tools/sim/world.hpp"

namespace hflex::test::parity_test {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

/// Whole milliseconds for every step, so that virtual time in steps of a tick meets each of its ends.
constexpr step_time_model model{.c0_ms = 4, .c1_ms = 1, .m0 = 8, .c2_ms = 0, .c3_ms = 1, .c4_ms = 0};
constexpr duration tick = microseconds{125};

/// What was decided for a request, and what came of it; times since its arrival.
struct fate {
  duration placed{-1};
  std::uint32_t prefill{};
  std::uint32_t decode{};
  std::vector<duration> tokens;
  friend bool operator==(const fate&, const fate&) = default;
};

std::string shown(const fate& f) {
  auto out = fmt::format("placed at {} us on i{} > i{}, tokens at", f.placed / microseconds{1}, f.prefill, f.decode);
  for (auto t : f.tokens) out += fmt::format(" {}", t / microseconds{1});
  return out;
}

struct client_times {
  std::map<std::uint64_t, std::vector<time_point>> tokens;
  std::size_t ended{0};
};

wire::client_actor::behavior_type timing_shell(
    wire::client_actor::pointer self, const std::shared_ptr<client_times>& log) {
  return {[log, self](const msg<s::TokenChunk>& message) {
            auto in = message.read();
            auto& times = log->tokens[in->getId()];
            times.insert(times.end(), in->getTokens().size(), wire::now(self));
          },
      [log](const msg<s::JobRecord>& message) {
        CHECK(message.read()->getOutcome() == s::Outcome::FINISHED);
        ++log->ended;
      },
      [](const msg<s::Event>&) {}};
}

duration step_time(const gpu::step_plan& plan) {
  step_shape shape;
  for (const auto& item : plan.items) {
    const auto count = static_cast<std::uint32_t>(item.tokens.size());
    if (count == 1 && item.position > 0 && item.sample)
      shape.add_decode(item.position + 1);
    else
      shape.add_prefill(count, item.position);
  }
  return model.predict(shape);
}

struct parity : small_cluster {
  using fleet_of = std::vector<scaler::fleet_line>;
  explicit parity(fleet_of lines = {{instance_role::mixed, 2}}) : small_cluster(lines), fleet(std::move(lines)) {
    for (const auto& line : fleet) instances += line.count;
  }

  void use(const std::string& policy) {
    name = policy;
    settings.router.core.classes = classes;
    settings.router.core.default_class = classes.front().name;
    settings.scheduler.policy = policy;
    settings.scheduler.unmeasured_model = model;
    settings.scheduler.is_measured = true;
    settings.scaler.core.expect_nodes = instances;
    auto& i = settings.scaler.instance;
    i.steps = scheduler::find_policy(policy)->steps;
    i.prefill_weight = scheduler::prefill_weight_of(settings.scheduler);
    i.safety = instance::options{}.safety;
    i.max_batched_tokens = 64;
    i.max_sequences = 8;
    i.step_time = model;
    i.prefix_cache = false;
    clock->step_time = step_time;
  }

  /// Requests whose arrivals share no tick of a millisecond with others': nothing that happens in one instant depends
  /// on an order that neither side promises.
  sim::workload make_load(std::size_t count, double mean_gap_ms, std::uint64_t seed) {
    sim::random_source random(seed);
    sim::workload load;
    load.name = "parity";
    load.classes = classes;
    double at_ms = 0;
    for (std::size_t i = 0; i < count; ++i) {
      at_ms += 1 + std::floor(mean_gap_ms * random.exponential());
      const auto words = 4 + random.below(36);
      std::string text = fmt::format("number {}", i);
      for (std::uint32_t w = 0; w < words; ++w) text += " the";
      sim::request r;
      r.arrival = from_ms(at_ms) + tick * (1 + static_cast<std::int64_t>(i % 7));
      r.prompt_tokens = static_cast<std::uint32_t>(tokenizer()->encode(text).size());
      r.output_tokens = 1 + random.below(30);
      r.slo_class = random.below(static_cast<std::uint32_t>(classes.size()));
      texts.push_back(text);
      load.requests.push_back(r);
    }
    return load;
  }

  void advance_to(time_point end) {
    while (now() < end) {
      scheduler.advance_time(tick);
      clock->complete_until(now());
      scheduler.run();
    }
  }

  std::vector<fate> live(const sim::workload& load) {
    start_head();
    for (std::uint32_t i = 0; i < instances; ++i) start_node(fmt::format("node {}", i));
    until_ready(instances);
    auto log = std::make_shared<client_times>();
    auto client = system.spawn(timing_shell, log);
    const auto start = now() + seconds{1};
    std::vector<std::uint64_t> ids;
    for (std::size_t i = 0; i < load.requests.size(); ++i) {
      const auto& r = load.requests[i];
      advance_to(start + r.arrival);
      REQUIRE(now() == start + r.arrival);
      auto answer = ask<msg<s::SubmitAnswer>>(head.router, msg<s::SubmitJob>::make([&](s::SubmitJob::Builder out) {
        out.setPrompt(texts[i]);
        out.setMaxOutputTokens(r.output_tokens);
        out.setSloClass(classes[r.slo_class].name);
      }),
          client);
      REQUIRE(answer.read()->isAccepted());
      ids.push_back(answer.read()->getAccepted());
    }
    const auto limit = now() + seconds{60};
    while (log->ended < load.requests.size() && now() < limit) advance_to(now() + milliseconds{1});
    REQUIRE(log->ended == load.requests.size());
    std::vector<fate> fates;
    for (std::size_t i = 0; i < ids.size(); ++i)
      fates.push_back(fate_of(ids[i], *log, start + load.requests[i].arrival));
    caf::anon_send_exit(client, caf::exit_reason::kill);
    return fates;
  }

  std::vector<fate> simulated(const sim::workload& load) const {
    sim::cluster hardware;
    hardware.name = "scripted";
    hardware.device.steps = model;
    hardware.device.kv_tokens = std::uint64_t{blocks} * block_size;
    hardware.device.max_batched_tokens = settings.scaler.instance.max_batched_tokens;
    hardware.device.max_sequences = settings.scaler.instance.max_sequences;
    hardware.device.max_context = 512;
    hardware.block_size = block_size;
    hardware.instances_per_node = 1;
    hardware.max_instances = instances;
    hardware.control_latency = duration{0};
    hardware.network = {1e18, duration{0}};
    sim::run_options o;
    o.scheduler = settings.scheduler;
    o.disaggregated = fleet.size() > 1;
    for (const auto& line : fleet) o.fleet.push_back({line.role, line.count});
    o.prefix_cache = false;
    o.exact_answers = true;
    o.noisy = false;
    std::vector<fate> fates(load.requests.size());
    o.on_dispatch = [&](const scheduler::dispatch& d, duration at) {
      auto& f = fates.at(static_cast<std::size_t>(d.key.id.value - 1));
      f.placed = at - load.requests.at(static_cast<std::size_t>(d.key.id.value - 1)).arrival;
      f.prefill = d.prefill.value;
      f.decode = d.decode.value;
    };
    auto r = sim::run(hardware, load, o);
    REQUIRE(r);
    for (std::size_t i = 0; i < fates.size(); ++i)
      for (auto t : r->records[i].token_times) fates[i].tokens.push_back(t - r->records[i].timing.arrival);
    return fates;
  }

  /// What was decided live, which is what was decided simulated.
  std::vector<fate> equal_fates(std::size_t count, double mean_gap_ms, std::uint64_t seed) {
    REQUIRE(!name.empty());
    const auto load = make_load(count, mean_gap_ms, seed);
    const auto there = simulated(load);
    const auto here = live(load);
    CAPTURE(name, seed);
    for (std::size_t i = 0; i < count; ++i) {
      INFO("request " << i + 1 << "\n  live:      " << shown(here[i]) << "\n  simulated: " << shown(there[i]));
      REQUIRE(here[i] == there[i]);
    }
    return here;
  }

  /// `must_wait`: some requests find no place at once, so that their order is the policy's.
  void check_equal(std::size_t count, double mean_gap_ms, std::uint64_t seed, bool must_wait = false) {
    std::size_t delayed = 0;
    std::map<std::uint32_t, std::size_t> decoded; // by instance
    for (const auto& f : equal_fates(count, mean_gap_ms, seed)) {
      delayed += f.placed > duration{0} ? 1 : 0;
      ++decoded[f.decode];
    }
    CHECK(decoded.size() == 2); // both took part, or this proves little
    for (const auto& [instance, requests] : decoded) CHECK(requests > count / 4);
    CHECK((delayed > 0) == must_wait);
  }

  fate fate_of(std::uint64_t id, const client_times& log, time_point arrival) {
    fate f;
    auto answer = ask<msg<s::Explanation>>(
        head.scheduler, msg<s::ExplainRequest>::make([&](s::ExplainRequest::Builder out) { out.setId(id); }));
    auto in = answer.read();
    REQUIRE(in->isStory());
    for (auto h : in->getStory().getHappenings())
      if (wire::read(h.getWhat()) == "dispatched") {
        f.placed = std::chrono::duration_cast<duration>(microseconds{std::llround(h.getAfterMs() * 1000)});
        f.prefill = h.getPrefillInstance();
        f.decode = h.getDecodeInstance();
      }
    for (auto t : log.tokens.at(id)) f.tokens.push_back(t - arrival);
    return f;
  }

  fleet_of fleet;
  std::uint32_t instances{};
  std::string name;
  std::vector<std::string> texts;
  std::vector<slo_class> classes{{"tight", {milliseconds{150}, milliseconds{20}, {}, 1.0, late_action::serve_late}, ""},
      {"loose", {seconds{2}, milliseconds{60}, {}, 1.0, late_action::serve_late}, ""}};
};

struct parity_pd : parity {
  parity_pd() : parity({{instance_role::prefill, 1}, {instance_role::decode, 2}}) {}
};

/// Gathers decodes on some of its mixed instances, as larger models make it worth while.
struct parity_divided : parity {
  parity_divided() : parity({{instance_role::mixed, 3}}) { settings.scheduler.knobs["hyperflexis.divide_gain"] = 0.5; }
};

} // namespace

TEST_CASE_METHOD(parity, "round_robin places the same and gives the same token times live and simulated") {
  use("round_robin");
  check_equal(80, 60, 1);
}

TEST_CASE_METHOD(parity, "least_loaded places the same and gives the same token times live and simulated") {
  use("least_loaded");
  check_equal(80, 60, 2);
}

TEST_CASE_METHOD(parity, "hyperflexis places the same and gives the same token times live and simulated") {
  use("hyperflexis");
  check_equal(80, 60, 3);
}

TEST_CASE_METHOD(parity, "hyperflexis, with more to do than there is time, decides the same live and simulated") {
  use("hyperflexis");
  check_equal(80, 35, 4, true);
}

TEST_CASE_METHOD(
    parity_pd, "with P/D, least_loaded places the same and gives the same token times live and simulated") {
  use("least_loaded");
  check_equal(80, 70, 5);
}

TEST_CASE_METHOD(parity_pd, "with P/D, hyperflexis places the same and gives the same token times live and simulated") {
  use("hyperflexis");
  check_equal(80, 70, 6);
}

TEST_CASE_METHOD(parity_pd, "with P/D and more to do than there is time, hyperflexis decides the same") {
  use("hyperflexis");
  check_equal(80, 40, 7, true);
}

TEST_CASE_METHOD(parity_divided, "mixed instances of which some gather the decodes do the same live and simulated") {
  use("hyperflexis");
  const auto fates = equal_fates(80, 45, 8);
  const auto handed_over =
      std::count_if(fates.begin(), fates.end(), [](const fate& f) { return f.prefill != f.decode; });
  CHECK(handed_over > 40);
  CHECK(handed_over < 80); // the first ones came before anything was known of them
  // People see who does what: those that only prefill hand over to the one that the last request decodes on.
  for (const auto& a : topology().actors)
    if (a.kind == "instance") CHECK((a.duty == "prefill") == (a.id != fmt::format("i{}", fates.back().decode)));
}

} // namespace hflex::test::parity_test
