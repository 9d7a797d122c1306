// Attention of every instruction set against a naive double-precision softmax over a scattered block table.
#include "gpu/kernels/bf16.hpp"
#include "gpu/kernels/kernels.hpp"
#include "tests/support/catch.hpp"
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

namespace hflex::test::attention_test {
namespace {

using namespace hflex::gpu;

struct shape {
  std::uint32_t group, kv_heads, head_dim, block_size, length;
};

/// One sequence's queries, keys and values, and a pool where the keys and values lie in shuffled blocks. What no token
/// of the sequence owns is NaN: reading it as a value must show.
struct problem {
  shape s;
  std::vector<float> q, k, v; // [length][heads or kv_heads][D]
  std::vector<block_index> table;
  std::vector<std::byte> keys, values;

  problem(const kernel_set& kernels, shape of, std::mt19937& random) : s(of) {
    std::normal_distribution<float> normal(0.0F, 1.0F);
    const auto fill = [&](std::vector<float>& to, std::uint32_t heads) {
      to.resize(std::size_t{s.length} * heads * s.head_dim);
      for (auto& x : to) x = kernels.compute == compute_type::bf16 ? round_to_bf16(normal(random)) : normal(random);
    };
    fill(q, s.group * s.kv_heads);
    fill(k, s.kv_heads);
    fill(v, s.kv_heads);
    const std::uint32_t blocks = (s.length + s.block_size - 1) / s.block_size;
    table.resize(blocks);
    std::iota(table.begin(), table.end(), 1);
    std::shuffle(table.begin(), table.end(), random);
    const std::size_t bytes = std::size_t{blocks + 2} * s.block_size * s.kv_heads * s.head_dim * kernels.kv_bytes;
    keys.assign(bytes, std::byte{0xff}); // NaN in either type
    values.assign(bytes, std::byte{0xff});
    store(kernels, *this);
  }

  /// Puts the keys and values of `from` into this problem's blocks.
  void store(const kernel_set& kernels, const problem& from) {
    const std::size_t row = std::size_t{s.kv_heads} * s.head_dim;
    for (std::uint32_t p = 0; p < s.length; ++p) {
      const std::size_t block = table[p / s.block_size] * row * s.block_size * kernels.kv_bytes;
      kernels.store_kv({from.k.data() + p * row, from.v.data() + p * row, keys.data() + block, values.data() + block,
          p % s.block_size, s.block_size, s.kv_heads, s.head_dim});
    }
  }

  std::vector<double> expected(std::uint32_t position, std::uint32_t head) const {
    const std::size_t row = std::size_t{s.kv_heads} * s.head_dim;
    const std::size_t kv = std::size_t{head / s.group} * s.head_dim;
    const float* query = q.data() + (std::size_t{position} * s.group * s.kv_heads + head) * s.head_dim;
    std::vector<double> score(position + 1);
    for (std::uint32_t p = 0; p <= position; ++p)
      for (std::uint32_t i = 0; i < s.head_dim; ++i)
        score[p] += static_cast<double>(query[i]) * static_cast<double>(k[p * row + kv + i]) / std::sqrt(s.head_dim);
    const double top = *std::max_element(score.begin(), score.end());
    double total = 0.0;
    std::vector<double> out(s.head_dim);
    for (std::uint32_t p = 0; p <= position; ++p) {
      const double weight = std::exp(score[p] - top);
      total += weight;
      for (std::uint32_t i = 0; i < s.head_dim; ++i) out[i] += weight * static_cast<double>(v[p * row + kv + i]);
    }
    for (auto& x : out) x /= total;
    return out;
  }
};

/// All tokens' outputs as activation bytes, computed in pieces of at most `most` tokens.
std::vector<std::byte> attend(const kernel_set& kernels, const problem& p, std::uint32_t most) {
  const std::size_t width = std::size_t{p.s.group} * p.s.kv_heads * p.s.head_dim;
  std::vector<std::byte> out(p.s.length * width * kernels.activation_bytes);
  const std::size_t bytes = attention_scratch_bytes(p.s.group, p.s.head_dim);
  std::vector<std::byte> scratch(bytes + 64);
  void* aligned = scratch.data();
  std::size_t room = scratch.size();
  REQUIRE(std::align(64, bytes, aligned, room) != nullptr);
  for (std::uint32_t t = 0; t < p.s.length; t += most) {
    for (std::uint32_t head = 0; head < p.s.kv_heads; ++head) {
      const attention_args args{p.q.data() + t * width, width, out.data() + t * width * kernels.activation_bytes, width,
          p.keys.data(), p.values.data(), p.table.data(), p.s.block_size, p.s.kv_heads, p.s.head_dim, p.s.group,
          1.0F / std::sqrt(static_cast<float>(p.s.head_dim))};
      kernels.attention(args, head, t, std::min(most, p.s.length - t), static_cast<std::byte*>(aligned));
    }
  }
  return out;
}

double value_at(const kernel_set& kernels, const std::vector<std::byte>& rows, std::size_t i) {
  float wide{};
  std::uint16_t half{};
  if (kernels.activation_bytes == 4)
    std::memcpy(&wide, &rows[i * 4], 4);
  else
    std::memcpy(&half, &rows[i * 2], 2);
  return static_cast<double>(kernels.activation_bytes == 4 ? wide : bf16_to_f32(half));
}

} // namespace

TEST_CASE("attention matches a naive softmax, whatever the chunks and blocks", "[numbers]") {
  std::mt19937 random(7);
  const std::vector<shape> shapes{{1, 1, 16, 16, 5}, {3, 2, 32, 16, 130}, {1, 3, 64, 48, 65}, {4, 2, 80, 16, 64},
      {8, 1, 128, 32, 70}, {2, 1, 256, 16, 33}, {40, 1, 48, 64, 9}};
  for (const auto isa : available_isas()) {
    for (const auto compute : {compute_type::f32, compute_type::bf16}) {
      const auto kernels = select_kernels(isa, compute).value();
      for (const auto& s : shapes) {
        INFO(isa << " bf16 " << (compute == compute_type::bf16) << " group " << s.group << " D " << s.head_dim);
        const problem p(kernels, s, random);
        const std::uint32_t most = attention_tokens(s.group);
        const auto whole = attend(kernels, p, most);
        const std::uint32_t heads = s.group * s.kv_heads;
        double worst = 0.0;
        for (std::uint32_t t = 0; t < s.length; ++t) {
          for (std::uint32_t h = 0; h < heads; ++h) {
            const auto expected = p.expected(t, h);
            for (std::uint32_t i = 0; i < s.head_dim; ++i) {
              const double found = value_at(kernels, whole, (std::size_t{t} * heads + h) * s.head_dim + i);
              REQUIRE(std::isfinite(found));
              worst = std::max(worst, std::abs(found - expected[i]));
            }
          }
        }
        CHECK(worst < (compute == compute_type::f32 ? 3e-6 : 0.02));
        for (std::uint32_t cut = 1; cut < most; cut += 2) REQUIRE(attend(kernels, p, cut) == whole);
        shape wider = s; // the same rows behind another block size
        wider.block_size = s.block_size * 3 + 32;
        std::mt19937 other(8);
        problem rebuilt(kernels, wider, other);
        rebuilt.store(kernels, p);
        rebuilt.q = p.q;
        REQUIRE(attend(kernels, rebuilt, most) == whole);
      }
    }
  }
}

} // namespace hflex::test::attention_test
