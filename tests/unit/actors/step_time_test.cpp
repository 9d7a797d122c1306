#include "actors/common/step_time.hpp"
#include "tests/support/catch.hpp"
#include <cmath>
#include <random>

namespace hflex::step_time_test {

namespace {

const step_time_model h100{.c0_ms = 6.6, .c1_ms = 0.0196, .m0 = 224, .c2_ms = 1.1e-6, .c3_ms = 0.005, .c4_ms = 4.3e-5};

step_shape shape_of(std::uint32_t prefill, std::uint32_t decodes, std::uint32_t context) {
  step_shape s;
  if (prefill > 0) s.add_prefill(prefill, 0);
  for (std::uint32_t i = 0; i < decodes; ++i) s.add_decode(context);
  return s;
}

// Random mixes of prefill and decode, the kind that a busy instance runs.
step_shape random_shape(std::mt19937_64& rng) {
  auto upto = [&](std::uint32_t n) { return static_cast<std::uint32_t>(rng() % (n + 1)); };
  return shape_of(rng() % 2 == 0 ? 0 : 1 + upto(2000), 1 + upto(100), 1 + upto(4000));
}

double mean_error(const step_time_model& model, const step_time_model& truth) {
  std::mt19937_64 rng(99);
  double sum = 0;
  for (int i = 0; i < 200; ++i) {
    auto s = random_shape(rng);
    sum += std::abs(to_ms(model.predict(s)) / to_ms(truth.predict(s)) - 1.0);
  }
  return sum / 200;
}

} // namespace

TEST_CASE("a step's time is the sum of its terms") {
  step_time_model m{.c0_ms = 1, .c1_ms = 0.1, .m0 = 10, .c2_ms = 0.001, .c3_ms = 0.5, .c4_ms = 0.01, .c5_ms = 0.02};
  auto decodes = shape_of(0, 4, 100);
  CHECK(to_ms(m.predict(decodes)) == Approx(1 + 4 * 0.5 + 400 * 0.01));
  auto mixed = shape_of(20, 4, 100);
  CHECK(to_ms(m.predict(mixed)) == Approx(1 + 14 * 0.1 + 200 * 0.001 + 2 + 400 * 0.03));
  m.safety = 1.5;
  CHECK(to_ms(m.plan_ahead(decodes)) == Approx(1.5 * 7));
}

TEST_CASE("the token budget is the largest chunk that ends in time") {
  auto decodes = shape_of(0, 32, 1000);
  for (double tau : {9.0, 10.0, 20.0, 45.0}) {
    const auto n = max_prefill_tokens(h100, from_ms(tau), decodes, 512, 100000);
    REQUIRE(n > 0);
    auto just_fits = decodes, too_much = decodes;
    just_fits.add_prefill(n, 512);
    too_much.add_prefill(n + 1, 512);
    CHECK(h100.plan_ahead(just_fits) <= from_ms(tau));
    CHECK(h100.plan_ahead(too_much) > from_ms(tau));
  }
  CHECK(max_prefill_tokens(h100, from_ms(1.0), decodes, 0, 8192) == 0);
  CHECK(max_prefill_tokens(h100, from_ms(1e6), decodes, 0, 8192) == 8192);
  CHECK(max_prefill_tokens(h100, from_ms(1e6), decodes, 0, 0) == 0);
}

TEST_CASE("the token budget is the last that fits, for random models and shapes") {
  std::mt19937_64 rng(11);
  const auto some = [&](double most) { return most * static_cast<double>(rng() % 1001) / 1000.0; };
  for (int i = 0; i < 3000; ++i) {
    step_time_model m{some(20), some(0.1), static_cast<std::uint32_t>(rng() % 400), some(1e-5), some(0.05), some(1e-3),
        some(1e-4), 1.0 + some(1)};
    if (rng() % 4 == 0) m.c1_ms = 0;
    if (rng() % 4 == 0) m.c2_ms = 0;
    step_shape decodes;
    for (auto n = rng() % 5 == 0 ? 0 : rng() % 300; n > 0; --n)
      decodes.add_decode(static_cast<std::uint32_t>(rng() % 4000));
    const auto tau = from_ms(some(200));
    const auto before = static_cast<std::uint32_t>(rng() % 8000);
    const auto cap = static_cast<std::uint32_t>(rng() % 5000);
    const auto fits = [&](std::uint32_t n) {
      auto shape = decodes;
      shape.add_prefill(n, before);
      return m.plan_ahead(shape) <= tau;
    };
    const auto n = max_prefill_tokens(m, tau, decodes, before, cap);
    REQUIRE(n <= cap);
    REQUIRE((n == 0 || fits(n)));
    REQUIRE((n == cap || !fits(n + 1)));
  }
}

TEST_CASE("a safer model gives a smaller token budget") {
  auto safe = h100;
  safe.safety = 1.3;
  auto decodes = shape_of(0, 32, 1000);
  CHECK(max_prefill_tokens(safe, from_ms(30), decodes, 0, 8192) <
        max_prefill_tokens(h100, from_ms(30), decodes, 0, 8192));
}

TEST_CASE("the corrector learns a device twice as slow from its steps") {
  auto truth = h100;
  for (auto* c : {&truth.c0_ms, &truth.c1_ms, &truth.c2_ms, &truth.c3_ms, &truth.c4_ms}) *c *= 2;
  step_time_corrector corrector(h100);
  std::mt19937_64 rng(7);
  std::normal_distribution<double> jitter(1.0, 0.03);
  REQUIRE(mean_error(corrector.model(), truth) > 0.4);
  for (int i = 0; i < 500; ++i) {
    auto s = random_shape(rng);
    corrector.observe(s, from_ms(to_ms(truth.predict(s)) * jitter(rng)));
  }
  CHECK(mean_error(corrector.model(), truth) < 0.03);
  CHECK(corrector.model().safety < 1.15);
}

TEST_CASE("the corrector follows a device that slows down half way") {
  auto slow = h100;
  slow.c0_ms *= 1.6;
  slow.c1_ms *= 1.6;
  step_time_corrector corrector(h100);
  std::mt19937_64 rng(8);
  for (int i = 0; i < 2000; ++i) {
    auto s = random_shape(rng);
    corrector.observe(s, (i < 1000 ? h100 : slow).predict(s));
  }
  CHECK(mean_error(corrector.model(), slow) < 0.04);
}

TEST_CASE("the safety factor covers its quantile of noisy steps") {
  step_time_corrector corrector(h100);
  std::mt19937_64 rng(9);
  std::lognormal_distribution<double> jitter(0.0, 0.15);
  int late = 0;
  for (int i = 0; i < 6000; ++i) {
    auto s = random_shape(rng);
    auto measured = from_ms(to_ms(h100.predict(s)) * jitter(rng));
    if (i >= 3000 && measured > corrector.model().plan_ahead(s)) ++late;
    corrector.observe(s, measured);
  }
  CHECK(late > 60);  // not padded without need,
  CHECK(late < 270); // about 5 % of 3000 are late
}

TEST_CASE("a freak step neither bends the model nor closes admission") {
  step_time_corrector corrector(h100);
  std::mt19937_64 rng(10);
  for (int i = 0; i < 100; ++i) {
    auto s = random_shape(rng);
    corrector.observe(s, h100.predict(s));
  }
  auto before = corrector.model();
  corrector.observe(shape_of(0, 8, 500), std::chrono::seconds{20});
  CHECK(corrector.model().c0_ms == before.c0_ms);
  CHECK(corrector.model().safety < 1.1);
}

TEST_CASE("hostile measurements leave a finite model of physical signs") {
  step_time_corrector corrector(h100);
  std::mt19937_64 rng(11);
  for (int i = 0; i < 5000; ++i) {
    auto s = random_shape(rng);
    if (i % 7 == 0) s = {}; // nothing in it
    const double ms[] = {0.0, -5.0, 1e-6, 1e7, 3.0, to_ms(h100.predict(s))};
    corrector.observe(s, from_ms(ms[rng() % 6]));
    const auto& m = corrector.model();
    for (double c : {m.c0_ms, m.c1_ms, m.c2_ms, m.c3_ms, m.c4_ms, m.c5_ms}) {
      REQUIRE(std::isfinite(c));
      REQUIRE(c >= 0);
    }
    REQUIRE(m.safety >= 1.0);
    REQUIRE(m.safety <= 3.0 + 1e-9);
  }
}

TEST_CASE("hours of the same decode step do not unlearn prefill") {
  step_time_corrector corrector(h100);
  std::mt19937_64 rng(12);
  for (int i = 0; i < 300; ++i) {
    auto s = random_shape(rng);
    corrector.observe(s, h100.predict(s));
  }
  std::normal_distribution<double> jitter(1.0, 0.05);
  auto same = shape_of(0, 16, 800);
  for (int i = 0; i < 100000; ++i) corrector.observe(same, from_ms(to_ms(h100.predict(same)) * jitter(rng)));
  auto prefill = shape_of(2000, 0, 0);
  CHECK(to_ms(corrector.model().predict(prefill)) == Approx(to_ms(h100.predict(prefill))).epsilon(0.1));
}

TEST_CASE("a long time of steps that are all alike leaves the model where it was") {
  const step_time_model truth{.c0_ms = 8.6, .c1_ms = 0.02, .m0 = 224, .c2_ms = 1.1e-6, .c3_ms = 0.005, .c4_ms = 4.3e-5};
  step_time_corrector corrector(truth);
  std::uint64_t bits = 1;
  const auto noise = [&] { // 3 %, even; a few decodes with a little context, then now and then a prefill
    bits = bits * 6364136223846793005ULL + 1442695040888963407ULL;
    return 0.97 + 0.06 * static_cast<double>(bits >> 40U) / static_cast<double>(1U << 24U);
  };
  for (int i = 0; i < 50'000; ++i) {
    step_shape shape;
    for (int d = 0; d <= i / 1000 % 4; ++d) shape.add_decode(300 + i % 1000);
    if (i % 2'000 == 0) shape.add_prefill(100, 0);
    corrector.observe(shape, from_ms(to_ms(truth.predict(shape)) * noise()));
  }
  step_shape large;
  large.add_prefill(2000, 0);
  for (int d = 0; d < 60; ++d) large.add_decode(1500);
  CHECK(to_ms(corrector.model().predict(large)) == Approx(to_ms(truth.predict(large))).epsilon(0.15));
}

} // namespace hflex::step_time_test
