#include "gpu/cuda/kernels/sampling.cuh"
#include "tests/support/cpu_twins.hpp"
#include "tests/unit/cuda/cuda_fixture.cuh"
#include <limits>

namespace hflex::sampling_test {

using namespace hflex::test;

namespace {

std::int32_t sample_on_device(
    const buffer<float>& logits, const draw& p, std::uint32_t index, thread_order order = thread_order::forward) {
  const buffer<cuda::sample_request> request{{p.seed, index, p.top_k, p.temperature, p.top_p}};
  const auto vocab = static_cast<std::uint32_t>(logits.size());
  buffer<std::int32_t> token{-2};
  emulate({{1, 1, 1}, cuda::sample_threads, sizeof(cuda::sample_shared)}, order, cuda::sample<std::int32_t>,
      logits.data(), vocab, vocab, request.data(), token.data());
  return token[0];
}

void check_same(const buffer<float>& logits, const draw& p, std::uint32_t index) {
  const std::int32_t expected = sampled_on_cpu(logits, p, index);
  REQUIRE(expected >= 0);
  INFO("temperature " << p.temperature << ", top_k " << p.top_k << ", top_p " << p.top_p << ", seed " << p.seed);
  CHECK(
      sample_on_device(logits, p, index, index % 2 == 0 ? thread_order::forward : thread_order::backward) == expected);
}

} // namespace

TEST_CASE("the device draws the tokens that the CPU draws from the same logits") {
  std::mt19937 random(3);
  for (const std::uint32_t vocab : {1U, 2U, 100U, 5003U}) {
    const auto logits = random_elements<float>(vocab, vocab, 3.0F);
    for (const float temperature : {0.0F, 0.3F, 1.5F})
      for (const std::uint32_t top_k : {0U, 1U, 2U, 40U, 100000U})
        for (const float top_p : {1.0F, 0.9F, 0.3F, 1e-6F})
          check_same(logits, {temperature, top_p, top_k, random()}, static_cast<std::uint32_t>(random() % 1000));
  }
}

TEST_CASE("equal logits are ordered by token id on the device as on the CPU") {
  buffer<float> logits(300, 1.5F);
  for (std::size_t i = 0; i < logits.size(); i += 3) logits[i] = i % 2 == 0 ? 0.0F : -0.0F;
  for (std::uint32_t i = 0; i < 20; ++i) {
    check_same(logits, {1.0F, 0.5F, 0, i}, i);
    check_same(logits, {1.0F, 1.0F, 250, i}, i);
    check_same(logits, {0.7F, 0.25F, 220, i}, i);
  }
  check_same(logits, {}, 0);
}

TEST_CASE("logits that exclude tokens keep excluding them") {
  auto logits = random_elements<float>(1000, 4, 2.0F);
  for (std::size_t i = 0; i < logits.size(); i += 2) logits[i] = -std::numeric_limits<float>::infinity();
  for (std::uint32_t i = 0; i < 20; ++i) check_same(logits, {1.0F, 0.95F, i % 2 * 700, i}, i);
}

TEST_CASE("logits that are not finite give no token") {
  auto logits = random_elements<float>(1000, 5);
  logits[777] = std::nanf("");
  CHECK(sample_on_device(logits, {}, 0) == -1);
  logits[777] = std::numeric_limits<float>::infinity();
  CHECK(sample_on_device(logits, {1.0F, 1.0F, 0, 1}, 0) == -1);
  CHECK(sample_on_device(buffer<float>(10, -std::numeric_limits<float>::infinity()), {}, 0) == -1);
}

TEST_CASE("a batch of 257 rows is sampled row by row") {
  const std::uint32_t vocab = 70;
  const auto logits = random_elements<float>(257 * vocab, 6, 2.0F);
  buffer<cuda::sample_request> requests;
  for (std::uint32_t i = 0; i < 257; ++i)
    requests.push_back({i, i * 3, i % 4 * 10, i % 3 == 0 ? 0.0F : 0.8F, i % 2 == 0 ? 1.0F : 0.9F});
  buffer<std::int32_t> tokens(257, -2);
  emulate({{257, 1, 1}, cuda::sample_threads, sizeof(cuda::sample_shared)}, thread_order::forward,
      cuda::sample<std::int32_t>, logits.data(), vocab, vocab, requests.data(), tokens.data());
  for (std::uint32_t i = 0; i < 257; ++i) {
    const auto& r = requests[i];
    const std::span row(logits.data() + i * vocab, vocab);
    const std::int32_t expected = sampled_on_cpu(row, {r.temperature, r.top_p, r.top_k, r.seed}, r.output_index);
    CHECK(tokens[i] == expected);
  }
}

} // namespace hflex::sampling_test
