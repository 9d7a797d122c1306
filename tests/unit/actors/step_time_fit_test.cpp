#include "actors/common/step_time_fit.hpp"
#include "tests/support/catch.hpp"
#include <cmath>
#include <random>
#include <vector>

namespace hflex::step_time_fit_test {

namespace {

/// Prefills of many lengths, decodes of many widths and contexts, and both in one step.
std::vector<step_shape> grid() {
  std::vector<step_shape> all;
  for (std::uint32_t prefill : {0U, 16U, 128U, 512U, 2048U}) {
    for (std::uint32_t batch : {0U, 1U, 4U, 16U, 64U}) {
      for (std::uint32_t context : {64U, 1024U, 4096U}) {
        if (prefill + batch == 0) continue;
        step_shape s;
        if (prefill > 0) s.add_prefill(prefill, context);
        for (std::uint32_t i = 0; i < batch; ++i) s.add_decode(context);
        all.push_back(s);
      }
    }
  }
  return all;
}

std::vector<measured_step> measured(const step_time_model& truth, double noise) {
  std::mt19937 random{5};
  std::normal_distribution<double> error(0.0, noise);
  std::vector<measured_step> steps;
  for (const auto& s : grid()) steps.push_back({s, from_ms(to_ms(truth.predict(s)) * std::exp(error(random)))});
  return steps;
}

constexpr step_time_model truth{
    .c0_ms = 7.0, .c1_ms = 0.05, .m0 = 64, .c2_ms = 6e-6, .c3_ms = 0.03, .c4_ms = 2e-4, .c5_ms = 1e-5};

} // namespace

TEST_CASE("steps that follow the model exactly give the model back") {
  const auto fit = fit_step_time(measured(truth, 0.0));
  REQUIRE(fit);
  CHECK(fit->model.m0 == truth.m0);
  CHECK(fit->model.c0_ms == Approx(truth.c0_ms).epsilon(0.01));
  CHECK(fit->model.c1_ms == Approx(truth.c1_ms).epsilon(0.01));
  CHECK(fit->model.c2_ms == Approx(truth.c2_ms).epsilon(0.01));
  CHECK(fit->model.c3_ms == Approx(truth.c3_ms).epsilon(0.02));
  CHECK(fit->model.c4_ms == Approx(truth.c4_ms).epsilon(0.02));
  CHECK(fit->model.c5_ms == Approx(truth.c5_ms).epsilon(0.05));
  CHECK(fit->mean_error < 1e-3);
  CHECK(fit->held_out == measured(truth, 0.0).size() / 4);
}

TEST_CASE("noise shows in the held-out error and in the safety factor") {
  const auto fit = fit_step_time(measured(truth, 0.1));
  REQUIRE(fit);
  CHECK(fit->mean_error > 0.03);
  CHECK(fit->mean_error < 0.15);
  CHECK(fit->p95_error >= fit->mean_error);
  CHECK(fit->model.safety > 1.05);
  CHECK(fit->model.safety < 1.3);
}

TEST_CASE("no coefficient is negative, even where the steps would like one") {
  auto steps = measured(truth, 0.0);
  for (auto& s : steps) // a device that gets faster with every sequence it decodes
    if (s.shape.decode_seqs > 0) s.elapsed = from_ms(to_ms(s.elapsed) / (1.0 + 0.02 * s.shape.decode_seqs));
  const auto fit = fit_step_time(steps);
  REQUIRE(fit);
  for (double c :
      {fit->model.c0_ms, fit->model.c1_ms, fit->model.c2_ms, fit->model.c3_ms, fit->model.c4_ms, fit->model.c5_ms})
    CHECK(c >= 0.0);
}

TEST_CASE("steps without work or time are no measurements, and few are no fit") {
  auto steps = measured(truth, 0.0);
  const auto clean = fit_step_time(steps);
  steps.push_back({step_shape{}, from_ms(100)});
  steps.push_back({steps[0].shape, duration::zero()});
  CHECK(fit_step_time(steps)->model == clean->model);
  steps.resize(7);
  CHECK(fit_step_time(steps).error().message == "7 measured steps: a fit needs at least 8");
}

} // namespace hflex::step_time_fit_test
