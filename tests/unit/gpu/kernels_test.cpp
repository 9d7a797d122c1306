// Every kernel of every instruction set this CPU has, against naive double-precision references over awkward shapes.
#include "gpu/kernels/bf16.hpp"
#include "gpu/kernels/kernels.hpp"
#include "gpu/kernels/pack.hpp"
#include "tests/support/catch.hpp"
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

namespace hflex::test::kernels_test {
namespace {

using namespace hflex::gpu;

std::vector<kernel_set> all_kernels() {
  std::vector<kernel_set> sets;
  for (const auto isa : available_isas())
    for (const auto compute : {compute_type::f32, compute_type::bf16})
      sets.push_back(select_kernels(isa, compute).value());
  return sets;
}

std::string name_of(const kernel_set& k) {
  return std::string(k.isa) + (k.compute == compute_type::f32 ? "/f32" : "/bf16");
}

std::vector<float> random_values(std::size_t count, std::mt19937& random, float spread = 1.0F) {
  std::normal_distribution<float> normal(0.0F, spread);
  std::vector<float> values(count);
  for (auto& v : values) v = normal(random);
  return values;
}

/// Activation rows as the kernel set stores them.
class activation_rows {
public:
  activation_rows(const kernel_set& k, std::size_t elements) : kernels_(k), bytes_(elements * k.activation_bytes) {}
  activation_rows(const kernel_set& k, const std::vector<float>& values) : activation_rows(k, values.size()) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float rounded = k.compute == compute_type::bf16 ? round_to_bf16(values[i]) : values[i];
      const std::uint16_t half = f32_to_bf16(values[i]);
      if (k.activation_bytes == 2)
        std::memcpy(&bytes_[i * 2], &half, 2);
      else
        std::memcpy(&bytes_[i * 4], &rounded, 4);
    }
  }
  std::byte* data() { return bytes_.data(); }
  std::size_t elements() const { return bytes_.size() / kernels_.activation_bytes; }
  float operator[](std::size_t i) const {
    float wide{};
    std::uint16_t half{};
    if (kernels_.activation_bytes == 4)
      std::memcpy(&wide, &bytes_[i * 4], 4);
    else
      std::memcpy(&half, &bytes_[i * 2], 2);
    return kernels_.activation_bytes == 4 ? wide : bf16_to_f32(half);
  }

private:
  const kernel_set& kernels_;
  std::vector<std::byte> bytes_;
};

/// A packed matrix with its values, already rounded to bf16.
struct test_matrix {
  std::uint32_t n, k;
  std::vector<float> values;
  std::vector<std::uint16_t> panels;
  packed_matrix view() const { return {panels.data(), n, k}; }
};

test_matrix random_matrix(std::uint32_t n, std::uint32_t k, std::mt19937& random) {
  test_matrix m{n, k, random_values(std::size_t{n} * k, random), {}};
  for (auto& v : m.values) v = round_to_bf16(v);
  m.panels.resize(m.view().panels() * m.view().panel_elements());
  for (std::uint32_t p = 0; p < m.view().panels(); ++p) {
    std::array<source_row, panel_columns> rows{};
    for (std::uint32_t i = 0; i < panel_columns && p * panel_columns + i < n; ++i)
      rows[i] = {reinterpret_cast<const std::byte*>(&m.values[std::size_t{p * panel_columns + i} * k]), dtype::f32};
    pack_panel(rows, k, std::span(m.panels).subspan(p * m.view().panel_elements(), m.view().panel_elements()));
  }
  return m;
}

/// Rows of `width` values, each padded with zeros to padded_width(width).
std::vector<float> random_rows(std::size_t rows, std::uint32_t width, std::mt19937& random) {
  std::vector<float> out(rows * padded_width(width));
  for (std::size_t r = 0; r < rows; ++r) {
    const auto values = random_values(width, random);
    std::copy(values.begin(), values.end(), out.begin() + static_cast<std::ptrdiff_t>(r * padded_width(width)));
  }
  return out;
}

void multiply(const kernel_set& k, const matmul_args& args, std::uint32_t begin, std::uint32_t end) {
  for (std::uint32_t p = 0; p < args.w.panels(); ++p) k.matmul(args, p, begin, end);
}

} // namespace

TEST_CASE("matrix products match a naive reference and do not depend on the rows around") {
  std::mt19937 random(1);
  for (const auto& k : all_kernels()) {
    for (const std::uint32_t n : {1U, 63U, 64U, 65U, 200U}) {
      for (const std::uint32_t depth : {1U, 2U, 7U, 64U, 193U}) {
        const std::uint32_t m = 17;
        INFO(name_of(k) << " n " << n << " k " << depth);
        const auto w = random_matrix(n, depth, random);
        const std::size_t stride = padded_width(depth);
        activation_rows x(k, random_rows(m, depth, random));
        const std::size_t y_stride = padded_width(n);
        std::vector<float> y(m * y_stride, 0.5F);
        const matmul_args args{x.data(), stride, w.view(), y.data(), y_stride, false};
        multiply(k, args, 0, m);
        double worst = 0.0;
        for (std::size_t r = 0; r < m; ++r) {
          for (std::size_t c = 0; c < n; ++c) {
            double sum = 0.0;
            double magnitude = 1e-3;
            for (std::size_t i = 0; i < depth; ++i) {
              const double product =
                  static_cast<double>(x[r * stride + i]) * static_cast<double>(w.values[c * depth + i]);
              sum += product;
              magnitude += std::abs(product);
            }
            worst = std::max(worst, std::abs(sum - static_cast<double>(y[r * y_stride + c])) / magnitude);
          }
          for (std::size_t c = n; c < y_stride; ++c) REQUIRE(y[r * y_stride + c] == 0.0F);
        }
        CHECK(worst < 2e-6);
        // Any cut of the rows gives the same bits.
        for (std::uint32_t height = 1; height <= 8; ++height) {
          std::vector<float> again(y.size(), -1.0F);
          matmul_args cut = args;
          cut.y = again.data();
          for (std::uint32_t r = 0; r < m; r += height) multiply(k, cut, r, std::min(m, r + height));
          REQUIRE(std::memcmp(again.data(), y.data(), y.size() * sizeof(float)) == 0);
        }
      }
    }
  }
}

TEST_CASE("a product can be added to what is there") {
  std::mt19937 random(2);
  for (const auto& k : all_kernels()) {
    const auto w = random_matrix(70, 33, random);
    activation_rows x(k, random_rows(3, 33, random));
    std::vector<float> product(3 * 128);
    std::vector<float> sum(3 * 128, 2.0F);
    multiply(k, {x.data(), 64, w.view(), product.data(), 128, false}, 0, 3);
    multiply(k, {x.data(), 64, w.view(), sum.data(), 128, true}, 0, 3);
    for (std::size_t i = 0; i < sum.size(); ++i) REQUIRE(sum[i] == Approx(2.0F + product[i]).margin(1e-5));
  }
}

TEST_CASE("row kernels match naive references") {
  std::mt19937 random(3);
  for (const auto& k : all_kernels()) {
    const double tolerance = k.compute == compute_type::f32 ? 1e-6 : 0x1p-8;
    for (const std::uint32_t width : {1U, 64U, 100U, 192U, 577U}) {
      INFO(name_of(k) << " width " << width);
      const auto x = random_rows(1, width, random);
      const auto w = random_rows(1, width, random);
      activation_rows out(k, x.size());
      k.rmsnorm(x.data(), w.data(), width, 1e-5F, out.data());
      double squares = 0.0;
      for (const float v : x) squares += static_cast<double>(v) * static_cast<double>(v);
      const double scale = 1.0 / std::sqrt(squares / width + 1e-5);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double expected = static_cast<double>(x[i]) * scale * static_cast<double>(w[i]);
        REQUIRE(std::abs(static_cast<double>(out[i]) - expected) <= tolerance * std::abs(expected));
      }
      auto gate = random_rows(1, width, random);
      gate[0] = 60.0F;
      gate[width - 1] = -100.0F; // silu underflows; it must not become infinite or NaN
      k.swiglu(gate.data(), w.data(), width, out.data());
      for (std::size_t i = 0; i < gate.size(); ++i) {
        const double g = static_cast<double>(gate[i]);
        const double expected = g / (1.0 + std::exp(-g)) * static_cast<double>(w[i]);
        REQUIRE(std::abs(static_cast<double>(out[i]) - expected) <= tolerance * std::abs(expected) + 1e-30);
      }
    }
  }
}

TEST_CASE("heads are normalised each by itself, and biases added, without rounding") {
  std::mt19937 random(13);
  for (const auto& k : all_kernels()) {
    for (const std::uint32_t dim : {16U, 48U, 128U, 256U}) {
      INFO(name_of(k) << " head_dim " << dim);
      const std::uint32_t heads = 3;
      const auto x = random_rows(1, heads * dim, random); // padded to whole vectors: what follows the heads stays
      const auto w = random_rows(1, dim, random);
      auto normed = x;
      k.norm_heads(normed.data(), w.data(), heads, dim, 1e-5F);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const std::size_t head = i / dim;
        double squares = 0.0;
        for (std::size_t j = head * dim; j < (head + 1) * dim && head < heads; ++j)
          squares += static_cast<double>(x[j]) * static_cast<double>(x[j]);
        const double expected =
            head < heads ? static_cast<double>(x[i]) / std::sqrt(squares / dim + 1e-5) * static_cast<double>(w[i % dim])
                         : static_cast<double>(x[i]);
        REQUIRE(std::abs(static_cast<double>(normed[i]) - expected) <= 1e-6 * std::abs(expected));
      }
      auto sum = x;
      k.add(sum.data(), normed.data(), heads * dim);
      for (std::size_t i = 0; i < x.size(); ++i) REQUIRE(sum[i] == x[i] + normed[i]);
    }
  }
}

TEST_CASE("rotation turns each pair of halves by its angle") {
  std::mt19937 random(4);
  for (const auto& k : all_kernels()) {
    for (const std::uint32_t dim : {16U, 32U, 48U, 64U, 80U, 128U}) {
      INFO(name_of(k) << " head_dim " << dim);
      const std::uint32_t heads = 3;
      auto x = random_values(std::size_t{heads} * dim, random);
      const auto before = x;
      std::vector<float> cos_sin(2 * dim);
      const auto angle = [&](std::uint32_t i) { return 0.3 * (i % (dim / 2)); };
      for (std::uint32_t i = 0; i < dim; ++i) {
        cos_sin[i] = static_cast<float>(std::cos(angle(i)));
        cos_sin[dim + i] = static_cast<float>((i < dim / 2 ? -1 : 1) * std::sin(angle(i)));
      }
      k.rope(x.data(), heads, dim, cos_sin.data());
      for (std::uint32_t h = 0; h < heads; ++h) {
        for (std::uint32_t i = 0; i < dim / 2; ++i) {
          const double a = static_cast<double>(before[h * dim + i]);
          const double b = static_cast<double>(before[h * dim + i + dim / 2]);
          REQUIRE(x[h * dim + i] == Approx(a * std::cos(angle(i)) - b * std::sin(angle(i))).margin(1e-5));
          REQUIRE(x[h * dim + i + dim / 2] == Approx(b * std::cos(angle(i)) + a * std::sin(angle(i))).margin(1e-5));
        }
      }
    }
  }
}

TEST_CASE("KV elements are stored as the scalar conversion stores them") {
  std::mt19937 random(5);
  auto values = random_values(64, random);
  values[3] = std::numeric_limits<float>::quiet_NaN();
  values[4] = std::numeric_limits<float>::infinity();
  values[5] = 3.4e38F;                           // rounds up to infinity
  values[6] = std::bit_cast<float>(0x3f808000U); // a tie: to even, down
  values[7] = std::bit_cast<float>(0x3f818000U); // a tie: to even, up
  values[8] = std::bit_cast<float>(0xffffffffU); // a NaN whose payload would carry
  for (const auto& k : all_kernels()) {
    INFO(name_of(k));
    // Two heads of 32 elements, the sixth token of the second strip.
    std::vector<std::byte> keys(std::size_t{32} * 64 * k.kv_bytes);
    auto stored = keys;
    k.store_kv({values.data(), values.data(), keys.data(), stored.data(), 22, 32, 2, 32});
    for (std::uint32_t i = 0; i < 64; ++i) {
      if (k.kv_bytes == 4) {
        const kv_layout<float> at{32, 32};
        const std::size_t strip = at.strip(i / 32, 22);
        REQUIRE(std::memcmp(&keys[(strip + at.key(6, i % 32)) * 4], &values[i], 4) == 0);
        REQUIRE(std::memcmp(&stored[(strip + at.value(6, i % 32)) * 4], &values[i], 4) == 0);
      } else {
        const kv_layout<std::uint16_t> at{32, 32};
        const std::size_t strip = at.strip(i / 32, 22);
        const std::uint16_t bits = f32_to_bf16(values[i]);
        REQUIRE(std::memcmp(&keys[(strip + at.key(6, i % 32)) * 2], &bits, 2) == 0);
        REQUIRE(std::memcmp(&stored[(strip + at.value(6, i % 32)) * 2], &bits, 2) == 0);
      }
    }
  }
}

TEST_CASE("every element of a KV block has a place of its own") {
  const kv_layout<std::uint16_t> half{48, 80};
  const kv_layout<float> wide{48, 80};
  std::vector<int> keys(std::size_t{3} * 48 * 80);
  auto values = keys, wide_keys = keys, wide_values = keys;
  for (std::uint32_t head = 0; head < 3; ++head) {
    for (std::uint32_t offset = 0; offset < 48; ++offset) {
      for (std::uint32_t i = 0; i < 80; ++i) {
        ++keys.at(half.strip(head, offset) + half.key(offset % kv_strip, i));
        ++values.at(half.strip(head, offset) + half.value(offset % kv_strip, i));
        ++wide_keys.at(wide.strip(head, offset) + wide.key(offset % kv_strip, i));
        ++wide_values.at(wide.strip(head, offset) + wide.value(offset % kv_strip, i));
      }
    }
  }
  for (const auto* one : {&keys, &values, &wide_keys, &wide_values})
    CHECK(std::count(one->begin(), one->end(), 1) == static_cast<std::ptrdiff_t>(one->size()));
}

TEST_CASE("half precision converts exactly") {
  CHECK(f16_to_f32(0x3c00) == 1.0F);
  CHECK(f16_to_f32(0xc000) == -2.0F);
  CHECK(f16_to_f32(0x7bff) == 65504.0F);
  CHECK(f16_to_f32(0x0001) == 0x1p-24F);
  CHECK(f16_to_f32(0x83ff) == -1023 * 0x1p-24F);
  CHECK(std::signbit(f16_to_f32(0x8000)));
  CHECK(std::isinf(f16_to_f32(0x7c00)));
  CHECK(std::isnan(f16_to_f32(0x7e00)));
}

TEST_CASE("packing reads f16 and bf16 sources like f32 ones") {
  // Values that all three types hold exactly.
  std::vector<float> wide{0.5F, -1.25F, 3.0F};
  std::vector<std::uint16_t> half{0x3800, 0xbd00, 0x4200};
  std::vector<std::uint16_t> brain;
  for (const float v : wide) brain.push_back(f32_to_bf16(v));
  std::array<source_row, panel_columns> rows{};
  rows[0] = {reinterpret_cast<const std::byte*>(wide.data()), dtype::f32};
  rows[1] = {reinterpret_cast<const std::byte*>(half.data()), dtype::f16};
  rows[63] = {reinterpret_cast<const std::byte*>(brain.data()), dtype::bf16};
  std::vector<std::uint16_t> panel(2 * panel_columns * 2, 0xffff);
  pack_panel(rows, 3, panel);
  for (std::size_t column = 0; column < panel_columns; ++column) {
    const bool filled = column == 0 || column == 1 || column == 63;
    for (std::size_t i = 0; i < 4; ++i) {
      const float expected = filled && i < 3 ? wide[i] : 0.0F;
      REQUIRE(bf16_to_f32(panel[(i / 2 * panel_columns + column) * 2 + i % 2]) == expected);
    }
  }
}

} // namespace hflex::test::kernels_test
