// What the scheduler is for: more requests within their targets. Policies compared in virtual time on the same trace.
#include "tests/support/virtual_fleet.hpp"
#include <cmath>
#include <random>

namespace hflex::scheduler_attainment_test {

using namespace hflex::test;

namespace {

// An 8B model on one data-centre GPU, as public kernel measurements fit it.
const step_time_model gpu{.c0_ms = 6.6, .c1_ms = 0.02, .m0 = 224, .c2_ms = 1.1e-6, .c3_ms = 0.005, .c4_ms = 4.3e-5};

double uniform(std::mt19937_64& rng) { return static_cast<double>(rng() >> 11) * 0x1.0p-53; }
std::uint32_t between(std::mt19937_64& rng, std::uint32_t low, std::uint32_t high) {
  return low + static_cast<std::uint32_t>(uniform(rng) * (high - low));
}

// Interactive chat and long documents, half and half, Poisson arrivals.
std::vector<trace_request> two_classes(std::uint64_t seed, double per_s, int n) {
  std::mt19937_64 rng(seed);
  std::vector<trace_request> trace;
  time_point t{std::chrono::seconds{1}};
  for (int i = 0; i < n; ++i) {
    t += from_s(-std::log(1.0 - uniform(rng)) / per_s);
    const bool chat = uniform(rng) < 0.5;
    scheduler::request_arrived r;
    r.key = {{static_cast<std::uint64_t>(i) + 1}, 1};
    r.arrival = t;
    r.tokens = r.prompt_tokens = chat ? between(rng, 100, 600) : between(rng, 2000, 8000);
    r.max_output_tokens = 1024;
    r.slo = {from_ms(chat ? 300 : 3000), from_ms(chat ? 25 : 80), {}, 1.0, late_action::serve_late};
    r.slo_class = chat ? "chat" : "document";
    trace.push_back({r, chat ? between(rng, 50, 300) : between(rng, 100, 400)});
  }
  return trace;
}

// A model that thinks: answers of thousands of tokens, of which 32,768 are allowed.
std::vector<trace_request> long_answers(std::uint64_t seed, double per_s, int n) {
  std::mt19937_64 rng(seed);
  std::vector<trace_request> trace;
  time_point t{std::chrono::seconds{1}};
  for (int i = 0; i < n; ++i) {
    t += from_s(-std::log(1.0 - uniform(rng)) / per_s);
    scheduler::request_arrived r;
    r.key = {{static_cast<std::uint64_t>(i) + 1}, 1};
    r.arrival = t;
    r.tokens = r.prompt_tokens = between(rng, 50, 1000);
    r.max_output_tokens = 32768;
    r.slo = {from_ms(500), from_ms(40), {}, 1.0, late_action::serve_late};
    r.slo_class = "reasoning";
    trace.push_back({r, between(rng, 2000, 6000)});
  }
  return trace;
}

slo_report serve(const std::string& policy, const std::vector<trace_request>& trace, std::vector<instance_role> roles) {
  scheduler::options opts;
  opts.policy = policy;
  virtual_fleet fleet(opts, gpu);
  std::uint32_t id = 1;
  for (auto role : roles) fleet.add_instance({{id++}, {1}, role, 12000, 16, 2048, 128, gpu});
  return summarize(fleet.run(trace), trace.back().request.arrival.time_since_epoch());
}

const std::vector<instance_role> four_mixed(4, instance_role::mixed);
const std::vector<instance_role> two_and_two{
    instance_role::prefill, instance_role::prefill, instance_role::decode, instance_role::decode};

// Everybody was answered, and hyperflexis attains more than both baselines by the margin.
void compare(const std::vector<trace_request>& trace, const std::vector<instance_role>& roles, double margin) {
  const auto ours = serve("hyperflexis", trace, roles);
  CHECK(ours.overall.unfinished == 0);
  for (const char* baseline : {"round_robin", "least_loaded"}) {
    const auto theirs = serve(baseline, trace, roles);
    INFO(baseline << " attains " << theirs.overall.attainment << ", hyperflexis " << ours.overall.attainment);
    CHECK(theirs.overall.unfinished == 0);
    CHECK(ours.overall.attainment >= theirs.overall.attainment + margin);
    CHECK(*ours.overall.strict_attainment >= *theirs.overall.strict_attainment + margin);
  }
}

} // namespace

TEST_CASE("at a load that the fleet can carry hyperflexis attains every request") {
  const auto trace = two_classes(1, 20, 600);
  for (const auto* roles : {&four_mixed, &two_and_two}) {
    const auto report = serve("hyperflexis", trace, *roles);
    CHECK(report.overall.attainment > 0.995);
    CHECK(report.overall.finished == 600);
  }
}

TEST_CASE("hyperflexis attains more than the baselines on a collocated fleet that is overloaded") {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    INFO("seed " << seed);
    compare(two_classes(seed, 45, 800), four_mixed, 0.2);
  }
}

TEST_CASE("hyperflexis attains more than the baselines on a disaggregated fleet that is overloaded") {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    INFO("seed " << seed);
    compare(two_classes(seed, 40, 800), two_and_two, 0.2);
  }
}

TEST_CASE("in overload a class with loose targets is served too, if late") {
  const auto report = serve("hyperflexis", two_classes(1, 60, 800), four_mixed);
  CHECK(report.overall.finished == 800);
  for (const auto& c : report.classes) CHECK(c.attainment > 0.5);
}

TEST_CASE("the same trace is served the same way") {
  const auto trace = two_classes(5, 40, 300);
  for (const auto& entry : scheduler::policies()) {
    const auto a = serve(std::string(entry.name), trace, four_mixed);
    const auto b = serve(std::string(entry.name), trace, four_mixed);
    CHECK(a.overall.ttft.mean_ms == b.overall.ttft.mean_ms);
    CHECK(a.overall.e2e.mean_ms == b.overall.e2e.mean_ms);
  }
}

TEST_CASE("long answers do not wait for room that is never in use") {
  // Half a minute goes by until it is known how long they are. What they may be would fill a pool of 192,000 tokens
  // with five of them, and three come in two seconds.
  const auto trace = long_answers(1, 1.5, 300);
  for (const auto* roles : {&four_mixed, &two_and_two}) {
    const auto report = serve("hyperflexis", trace, *roles);
    CHECK(report.overall.unfinished == 0);
    CHECK(report.overall.attainment > 0.98);
  }
}

} // namespace hflex::scheduler_attainment_test
