#include "gpu/kernels/sampler.hpp"
#include "tests/support/catch.hpp"
#include <cmath>
#include <limits>
#include <map>
#include <set>

namespace hflex::test::sampler_test {
namespace {

using namespace hflex::gpu;

token_id pick(const std::vector<float>& logits, sampling_params params, std::uint32_t index = 0) {
  sampler_scratch scratch;
  const auto token = sample_token(logits, params, index, scratch);
  REQUIRE(token.has_value());
  return *token;
}

/// How often each token is drawn over `draws` output indices.
std::map<token_id, int> histogram(const std::vector<float>& logits, sampling_params params, std::uint32_t draws) {
  std::map<token_id, int> seen;
  for (std::uint32_t i = 0; i < draws; ++i) ++seen[pick(logits, params, i)];
  return seen;
}

sampling_params with(float temperature, std::uint32_t top_k, float top_p, std::uint64_t seed = 1) {
  sampling_params p;
  p.temperature = temperature;
  p.top_k = top_k;
  p.top_p = top_p;
  p.seed = seed;
  return p;
}

} // namespace

TEST_CASE("greedy picks the largest logit, the lowest id among equals") {
  CHECK(pick({1.0F, 3.0F, 3.0F, 2.0F}, {}) == 1);
  CHECK(pick({-5.0F, -7.0F}, {}) == 0);
  CHECK(pick({1.0F, 2.0F, 9.0F}, with(1.5F, 1, 1.0F)) == 2);
}

TEST_CASE("draws follow the tempered softmax") {
  const std::vector<float> logits{0.0F, 1.0F, 2.0F, -1.0F};
  for (const float temperature : {0.7F, 1.0F, 2.0F}) {
    double total = 0.0;
    for (const float l : logits) total += std::exp(static_cast<double>(l / temperature));
    const auto seen = histogram(logits, with(temperature, 0, 1.0F), 20000);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double p = std::exp(static_cast<double>(logits[i] / temperature)) / total;
      CHECK(seen.at(static_cast<token_id>(i)) / 20000.0 == Approx(p).margin(4 * std::sqrt(p / 20000)));
    }
  }
}

TEST_CASE("top-k keeps the k best, the lowest ids among equals") {
  const auto seen = histogram({1.0F, 2.0F, 1.0F, 1.0F}, with(5.0F, 2, 1.0F), 500);
  CHECK(seen.size() == 2);
  CHECK(seen.count(0) == 1);
  CHECK(seen.count(1) == 1);
}

TEST_CASE("top-p keeps the smallest set that holds its share") {
  // Probabilities 0.5, 0.3, 0.15, 0.05.
  const std::vector<float> logits{std::log(0.15F), std::log(0.5F), std::log(0.05F), std::log(0.3F)};
  CHECK(histogram(logits, with(1.0F, 0, 0.4F), 300).size() == 1);
  const auto two = histogram(logits, with(1.0F, 0, 0.7F), 20000);
  REQUIRE(two.size() == 2);
  CHECK(two.at(1) / 20000.0 == Approx(0.5 / 0.8).margin(0.015));
  CHECK(histogram(logits, with(1.0F, 0, 0.9F), 2000).size() == 3);
  // After top-k the share is of what is left: 0.5 of 0.8 is enough for 0.6.
  CHECK(histogram(logits, with(1.0F, 2, 0.6F), 300).size() == 1);
}

TEST_CASE("top-p over a flat vocabulary sorts as far as it must") {
  std::vector<float> logits(1000, 0.0F);
  const auto seen = histogram(logits, with(1.0F, 0, 0.5F), 5000);
  for (const auto& [token, count] : seen) CHECK(token < 501);
  CHECK(seen.size() > 450);
}

TEST_CASE("a draw depends on seed and output index only") {
  std::vector<float> logits(50, 0.0F);
  std::vector<token_id> first;
  for (std::uint32_t i = 0; i < 40; ++i) first.push_back(pick(logits, with(1.0F, 0, 0.99F, 7), i));
  for (std::uint32_t i = 40; i-- > 0;) CHECK(pick(logits, with(1.0F, 0, 0.99F, 7), i) == first[i]);
  CHECK(std::set<token_id>(first.begin(), first.end()).size() > 15);
  // Neighbouring seeds are not shifted copies of each other.
  int shifted = 0;
  for (std::uint32_t i = 0; i + 1 < 40; ++i)
    shifted += pick(logits, with(1.0F, 0, 0.99F, 8), i) == first[i + 1] ? 1 : 0;
  CHECK(shifted < 8);
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    const double u = uniform_draw(seed, seed);
    CHECK((u >= 0.0 && u < 1.0));
  }
}

TEST_CASE("bad parameters and broken logits are errors") {
  sampler_scratch scratch;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> fine{1.0F, 2.0F};
  for (const auto& p : {with(-1.0F, 0, 1.0F), with(11.0F, 0, 1.0F), with(nan, 0, 1.0F), with(1.0F, 0, 0.0F),
           with(1.0F, 0, 1.1F), with(1.0F, 0, nan)}) {
    CHECK(check_sampling(p).error().code == errc::reject);
    CHECK(sample_token(fine, p, 0, scratch).error().code == errc::reject);
  }
  for (const auto& broken : {std::vector<float>{nan, 1.0F}, {1.0F, nan}, {infinity, 1.0F}, {-infinity, -infinity}})
    for (const auto& p : {with(0.0F, 0, 1.0F), with(1.0F, 0, 0.9F)})
      CHECK(sample_token(broken, p, 0, scratch).error().code == errc::fatal);
  // A masked token (-infinity) is no fault: it is never drawn.
  CHECK(histogram({1.0F, -infinity, 1.0F}, with(1.0F, 0, 0.999F), 300).size() == 2);
}

} // namespace hflex::test::sampler_test
