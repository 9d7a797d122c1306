#include "gpu/cuda/kernels/rows.cuh"
#include "tests/support/cpu_twins.hpp"
#include "tests/unit/cuda/cuda_fixture.cuh"
#include <cstring>

namespace hflex::rows_test {

using namespace hflex::test;

namespace {

constexpr std::size_t norm_shared = cuda::row_threads / 32 * sizeof(float);

} // namespace

TEST_CASE("half precision is rounded as IEEE says, subnormals and overflow included") {
  for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = gpu::f16_to_f32(half);
    if (!std::isnan(value) && gpu::f32_to_f16(value) != half) FAIL("half " << bits << " does not survive");
  }
  CHECK(gpu::f32_to_f16(65519.0F) == 0x7bffU);
  CHECK(gpu::f32_to_f16(65520.0F) == 0x7c00U);
  CHECK(gpu::f32_to_f16(1.0F + 0x1p-11F) == 0x3c00U);     // a tie goes to even
  CHECK(gpu::f32_to_f16(1.0F + 3 * 0x1p-11F) == 0x3c02U); // upwards too
  CHECK(gpu::f32_to_f16(0x1p-25F) == 0);                  // half of the smallest: to even
  CHECK(gpu::f32_to_f16(std::nextafter(0x1p-25F, 1.0F)) == 1);
  CHECK(std::isnan(gpu::f16_to_f32(gpu::f32_to_f16(std::nanf("")))));
}

TEMPLATE_TEST_CASE(
    "the norm of odd widths and of chosen rows agrees with the definition", "", cuda::bf16, cuda::f16, float) {
  for (const std::uint32_t width : {1U, 33U, 192U, 1000U}) {
    const std::uint32_t rows = 5;
    const auto x = random_elements<float>(std::size_t{rows} * width, 1, 3.0F);
    const auto weight = random_elements<float>(width, 2);
    const buffer<std::uint32_t> chosen{4, 0, 2};
    for (const auto order : both_orders) {
      buffer<TestType> out(chosen.size() * width);
      emulate({{3, 1, 1}, cuda::row_threads, norm_shared}, order, cuda::rms_norm<TestType>, x.data(), chosen.data(),
          weight.data(), width, 1e-5F, out.data());
      std::vector<double> expected;
      for (const auto r : chosen) {
        double squares = 0.0;
        for (std::uint32_t i = 0; i < width; ++i) squares += std::pow(static_cast<double>(x[r * width + i]), 2);
        for (std::uint32_t i = 0; i < width; ++i)
          expected.push_back(x[r * width + i] / std::sqrt(squares / width + 1e-5) * weight[i]);
      }
      check_close(out, expected, rounding_error<TestType>, 1e-5);
    }
  }
}

TEMPLATE_TEST_CASE("rotation and KV write put keys and values where the slots say", "", cuda::bf16, cuda::f16, float) {
  const std::uint32_t heads = 6;
  const std::uint32_t kv_heads = 2;
  for (const std::uint32_t dim : {32U, 80U, 256U}) {
    const std::uint32_t width = (heads + 2 * kv_heads) * dim;
    const std::uint32_t kv_width = kv_heads * dim;
    const buffer<std::uint32_t> positions{0, 1, 4095};
    const buffer<std::uint32_t> slots{7, 0, 3};
    buffer<float> inverse(dim / 2);
    for (std::uint32_t i = 0; i < dim / 2; ++i)
      inverse[i] = 1.0F / std::pow(10000.0F, static_cast<float>(2 * i) / static_cast<float>(dim));
    const auto before = random_elements<TestType>(positions.size() * width, 5);
    auto qkv = before;
    buffer<float> cos_sin(positions.size() * dim);
    buffer<TestType> keys(8 * kv_width, cuda::to<TestType>(9.0F));
    auto values = keys;
    emulate({{3, 1, 1}, cuda::row_threads, 0}, thread_order::forward, cuda::rope_table<std::uint32_t>, positions.data(),
        inverse.data(), dim / 2, cos_sin.data());
    emulate({{3, 1, 1}, cuda::row_threads, 0}, thread_order::backward, cuda::rotate_and_store<TestType>, qkv.data(),
        cos_sin.data(), slots.data(), heads, kv_heads, dim, cuda::qkv_finish{}, keys.data(), values.data());
    std::vector<double> rotated;
    buffer<TestType> found;
    for (std::uint32_t r = 0; r < positions.size(); ++r) {
      for (std::uint32_t h = 0; h < heads + kv_heads; ++h) {
        for (std::uint32_t i = 0; i < dim; ++i) {
          const std::size_t head = std::size_t{r} * width + h * dim;
          const double angle = static_cast<float>(positions[r]) * inverse[i % (dim / 2)];
          const double partner = cuda::to_float(before[head + (i + dim / 2) % dim]);
          rotated.push_back(cuda::to_float(before[head + i]) * std::cos(angle) +
                            (i < dim / 2 ? -partner : partner) * std::sin(angle));
          found.push_back(h < heads ? qkv[head + i] : keys[slots[r] * kv_width + (h - heads) * dim + i]);
        }
      }
      const auto* v = before.data() + r * width + (heads + kv_heads) * dim;
      CHECK(std::memcmp(v, values.data() + slots[r] * kv_width, kv_width * sizeof(TestType)) == 0);
    }
    check_close(found, rotated, rounding_error<TestType>, 1e-5);
    CHECK(cuda::to_float(keys[1 * kv_width]) == 9.0F); // slots of nobody stay as they are
  }
}

TEMPLATE_TEST_CASE(
    "biases and norms of heads are what the definition says, rounded once", "", cuda::bf16, cuda::f16, float) {
  struct shape {
    std::uint32_t heads, kv_heads, dim;
    bool bias, norm;
  };
  for (const shape& s : {shape{3, 1, 16, true, false}, shape{9, 3, 64, true, false}, shape{4, 2, 80, false, true},
           shape{2, 2, 128, true, true}, shape{5, 1, 256, false, true}}) {
    const std::uint32_t width = (s.heads + 2 * s.kv_heads) * s.dim;
    const std::uint32_t kv_width = s.kv_heads * s.dim;
    const auto bias = random_elements<float>(width, 21);
    const auto q_norm = random_elements<float>(s.dim, 22);
    const auto k_norm = random_elements<float>(s.dim, 23);
    const auto cos_sin = random_elements<float>(2 * s.dim, 24); // of two rows; any numbers do
    const buffer<std::uint32_t> slots{5, 1};
    const auto before = random_elements<TestType>(2 * width, 25, 2.0F);
    const cuda::qkv_finish finish{
        s.bias ? bias.data() : nullptr, s.norm ? q_norm.data() : nullptr, s.norm ? k_norm.data() : nullptr, 1e-3F};
    for (const auto order : both_orders) {
      auto qkv = before;
      buffer<TestType> keys(8 * kv_width, cuda::to<TestType>(9.0F));
      auto values = keys;
      emulate({{2, 1, 1}, cuda::row_threads, 0}, order, cuda::rotate_and_store<TestType>, qkv.data(), cos_sin.data(),
          slots.data(), s.heads, s.kv_heads, s.dim, finish, keys.data(), values.data());
      std::vector<double> expected;
      buffer<TestType> found;
      for (std::uint32_t r = 0; r < 2; ++r) {
        for (std::uint32_t h = 0; h < s.heads + 2 * s.kv_heads; ++h) {
          std::vector<double> x(s.dim);
          double squares = 0.0;
          for (std::uint32_t i = 0; i < s.dim; ++i) {
            x[i] = cuda::to_float(before[r * width + h * s.dim + i]) + (s.bias ? bias[h * s.dim + i] : 0.0F);
            squares += x[i] * x[i];
          }
          const bool is_value = h >= s.heads + s.kv_heads;
          if (s.norm && !is_value)
            for (std::uint32_t i = 0; i < s.dim; ++i)
              x[i] *= (h < s.heads ? q_norm : k_norm)[i] / std::sqrt(squares / s.dim + 1e-3);
          const float* table = cos_sin.data() + r * s.dim;
          const std::uint32_t half = s.dim / 2;
          for (std::uint32_t i = 0; i < s.dim; ++i) {
            const double partner = x[(i + half) % s.dim];
            expected.push_back(
                is_value ? x[i] : x[i] * table[i % half] + (i < half ? -partner : partner) * table[half + i % half]);
            found.push_back(h < s.heads ? qkv[r * width + h * s.dim + i]
                            : is_value  ? values[slots[r] * kv_width + (h - s.heads - s.kv_heads) * s.dim + i]
                                        : keys[slots[r] * kv_width + (h - s.heads) * s.dim + i]);
          }
        }
      }
      check_close(found, expected, rounding_error<TestType>, 1e-5);
    }
  }
}

TEMPLATE_TEST_CASE(
    "the activation function agrees with the definition at odd and even widths", "", cuda::bf16, cuda::f16, float) {
  for (const std::uint32_t width : {1U, 37U, 512U, 5000U}) {
    const auto in = random_elements<TestType>(3 * 2 * width, 6, 4.0F);
    buffer<TestType> out(3 * width);
    emulate({{2, 3, 1}, cuda::row_threads, 0}, thread_order::forward, cuda::swiglu<TestType>, in.data(), width, 2U,
        out.data());
    std::vector<double> expected;
    for (std::uint32_t r = 0; r < 3; ++r)
      for (std::uint32_t i = 0; i < width; ++i) {
        const double gate = cuda::to_float(in[r * 2 * width + i]);
        expected.push_back(gate / (1.0 + std::exp(-gate)) * cuda::to_float(in[r * 2 * width + width + i]));
      }
    check_close(out, expected, rounding_error<TestType>, 1e-5);
  }
}

TEST_CASE("packed panels unpack to the very rows they were packed from") {
  for (const auto& [n, k] : {std::pair{64U, 64U}, {130U, 33U}, {1U, 1U}, {200U, 192U}}) {
    const auto w = random_elements<cuda::bf16>(std::size_t{n} * k, 8);
    const auto packed = packed_on_cpu({reinterpret_cast<const std::uint16_t*>(w.data()), w.size()}, n, k);
    const buffer<std::uint16_t> panels(packed.begin(), packed.end());
    const std::uint32_t pairs = (k + 1) / 2;
    const std::uint32_t first = n > 64 ? 64 : 0; // from a later panel on, as the up half of gate_up
    buffer<cuda::bf16> out(std::size_t{n - first} * k);
    emulate({{(n - first + 63) / 64, (pairs + cuda::unpack_pairs - 1) / cuda::unpack_pairs, 1}, cuda::row_threads,
                cuda::unpack_shared_words * sizeof(std::uint32_t)},
        thread_order::backward, cuda::unpack<cuda::bf16>, reinterpret_cast<const std::uint32_t*>(panels.data()), k,
        cuda::unpack_rows{first, n - first}, out.data());
    CHECK(std::memcmp(out.data(), w.data() + std::size_t{first} * k, out.size() * sizeof(cuda::bf16)) == 0);
  }
}

TEST_CASE("embeddings are gathered and converted element by element") {
  const auto table = random_elements<cuda::f16>(10 * 33, 9);
  const buffer<std::int32_t> tokens{9, 0, 9};
  buffer<float> x(3 * 33);
  emulate({{3, 1, 1}, cuda::row_threads, 0}, thread_order::forward, cuda::embed<cuda::f16>, tokens.data(), table.data(),
      33U, x.data());
  for (std::size_t i = 0; i < x.size(); ++i)
    CHECK(x[i] == cuda::to_float(table[static_cast<std::size_t>(tokens[i / 33]) * 33 + i % 33]));
  const auto rows = random_elements<cuda::bf16>(1000, 10);
  buffer<float> wide(rows.size());
  emulate({{2, 1, 1}, cuda::row_threads, 0}, thread_order::forward, cuda::convert<float>, rows.data(),
      std::uint64_t{rows.size()}, 2U, wide.data());
  for (std::size_t i = 0; i < rows.size(); ++i) CHECK(wide[i] == cuda::to_float(rows[i]));
}

TEST_CASE("KV rows taken from one pool and given to another are the same rows") {
  const std::uint32_t row_quads = 5;
  const auto bytes = random_elements<float>(2 * 6 * row_quads * 4, 11);
  buffer<cuda::quad> pool(2 * 6 * row_quads);
  std::memcpy(pool.data(), bytes.data(), pool.size() * sizeof(cuda::quad));
  buffer<cuda::quad> moved(2 * 3 * row_quads);
  buffer<cuda::quad> other(pool.size());
  const buffer<std::uint32_t> from{5, 0, 2};
  const buffer<std::uint32_t> into{1, 4, 3};
  const std::size_t side = 6 * row_quads;
  emulate({{3, 2, 1}, cuda::row_threads, 0}, thread_order::forward, cuda::move_kv<false>, pool.data(),
      pool.data() + side, from.data(), 3U, row_quads, moved.data());
  emulate({{3, 2, 1}, cuda::row_threads, 0}, thread_order::forward, cuda::move_kv<true>, other.data(),
      other.data() + side, into.data(), 3U, row_quads, moved.data());
  for (std::size_t s = 0; s < 2; ++s)
    for (std::size_t i = 0; i < 3; ++i)
      CHECK(std::memcmp(&pool[s * side + from[i] * row_quads], &other[s * side + into[i] * row_quads],
                row_quads * sizeof(cuda::quad)) == 0);
}

} // namespace hflex::rows_test
