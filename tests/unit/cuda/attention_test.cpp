#include "gpu/cuda/kernels/prefill_attention.cuh"
#include "tests/unit/cuda/cuda_fixture.cuh"
#include <numeric>

namespace hflex::attention_test {

using namespace hflex::test;

namespace {

struct attention_shape {
  std::uint32_t head_dim{};
  std::uint32_t kv_heads{};
  std::uint32_t group{};
  std::uint32_t block_size{};
};

/// Sequences of given lengths with their KV in a pool whose blocks are handed out in random order; unused rows are NaN.
template <class T>
struct attention_case {
  attention_shape shape;
  std::vector<std::uint32_t> lengths;
  buffer<std::uint32_t> tables;
  std::vector<std::uint32_t> table_of; ///< per sequence
  buffer<T> keys, values, q, out;

  attention_case(const attention_shape& s, std::vector<std::uint32_t> tokens, std::uint32_t rows)
      : shape(s), lengths(std::move(tokens)) {
    std::uint32_t blocks = 0;
    for (const auto length : lengths) {
      table_of.push_back(blocks);
      blocks += (length + s.block_size - 1) / s.block_size;
    }
    tables.resize(blocks);
    std::iota(tables.begin(), tables.end(), 0U);
    std::shuffle(tables.begin(), tables.end(), std::mt19937(7));
    const std::size_t width = std::size_t{s.kv_heads} * s.head_dim;
    const T nothing = cuda::to<T>(std::nanf(""));
    keys.assign(blocks * s.block_size * width, nothing);
    values = keys;
    const auto some_keys = random_elements<T>(keys.size(), 1);
    const auto some_values = random_elements<T>(keys.size(), 2);
    for (std::size_t i = 0; i < lengths.size(); ++i)
      for (std::uint32_t p = 0; p < lengths[i]; ++p)
        for (std::size_t d = 0; d < width; ++d) {
          const std::size_t at = slot(i, p) * width + d;
          keys[at] = some_keys[at];
          values[at] = some_values[at];
        }
    q = random_elements<T>(std::size_t{rows} * heads() * s.head_dim, 3);
    out.assign(q.size(), nothing);
  }

  std::uint32_t heads() const { return shape.kv_heads * shape.group; }
  std::size_t slot(std::size_t sequence, std::uint32_t position) const {
    return std::size_t{tables[table_of[sequence] + position / shape.block_size]} * shape.block_size +
           position % shape.block_size;
  }
  cuda::attention_view<T> view(std::uint32_t splits = 1) {
    const std::uint32_t stride = heads() * shape.head_dim;
    return {q.data(), stride, out.data(), stride, keys.data(), values.data(), tables.data(), shape.block_size,
        shape.kv_heads, shape.head_dim, shape.group, 1.0F / std::sqrt(static_cast<float>(shape.head_dim)), splits};
  }

  /// One row of one head in double precision.
  void attend(std::size_t sequence, std::uint32_t position, std::uint32_t row, std::uint32_t head,
      std::vector<double>& expected) const {
    const std::uint32_t dim = shape.head_dim;
    const auto rows_of = [&](const buffer<T>& pool, std::uint32_t p) {
      return pool.data() + (slot(sequence, p) * shape.kv_heads + head / shape.group) * dim;
    };
    const T* query = q.data() + (std::size_t{row} * heads() + head) * dim;
    std::vector<double> scores(position + 1);
    for (std::uint32_t p = 0; p <= position; ++p) {
      for (std::uint32_t d = 0; d < dim; ++d)
        scores[p] += static_cast<double>(cuda::to_float(query[d])) * cuda::to_float(rows_of(keys, p)[d]);
      scores[p] /= std::sqrt(static_cast<double>(dim));
    }
    const double highest = *std::max_element(scores.begin(), scores.end());
    double total = 0.0;
    for (auto& score : scores) total += score = std::exp(score - highest);
    double* to_row = expected.data() + (std::size_t{row} * heads() + head) * dim;
    for (std::uint32_t d = 0; d < dim; ++d) {
      to_row[d] = 0.0;
      for (std::uint32_t p = 0; p <= position; ++p)
        to_row[d] += scores[p] / total * cuda::to_float(rows_of(values, p)[d]);
    }
  }
};

template <class T, int Team, int Heads>
void run_decode(attention_case<T>& c, const buffer<cuda::attend_row>& rows, std::uint32_t splits, thread_order order) {
  const auto& s = c.shape;
  const auto view = c.view(splits);
  const auto count = static_cast<unsigned>(rows.size());
  buffer<float> partial(rows.size() * c.heads() * splits * cuda::partial_floats(s.head_dim), std::nanf(""));
  const cuda::grid_index grid{count, s.kv_heads * ((s.group + Heads - 1) / Heads), splits};
  emulate({grid, cuda::decode_threads, cuda::decode_shared_bytes<Heads>(s.head_dim)}, order,
      cuda::decode_attention<T, Team, Heads>, view, rows.data(), partial.data());
  if (splits > 1)
    emulate({{count, c.heads(), 1}, cuda::decode_threads, 0}, order, cuda::combine_splits<T>, view, rows.data(),
        partial.data());
}

/// Every sequence's last token, as a decode step takes them; threads in both orders, or (large cases) in one.
template <class T, int Team, int Heads>
void check_decode(const attention_shape& s, const std::vector<std::uint32_t>& lengths, std::uint32_t splits,
    const std::vector<thread_order>& orders = {std::begin(both_orders), std::end(both_orders)}) {
  INFO("D " << s.head_dim << ", group " << s.group << ", splits " << splits);
  for (const auto order : orders) {
    attention_case<T> c(s, lengths, static_cast<std::uint32_t>(lengths.size()));
    buffer<cuda::attend_row> rows;
    std::vector<double> expected(c.q.size());
    for (std::uint32_t i = 0; i < lengths.size(); ++i) {
      rows.push_back({i, lengths[i] - 1, c.table_of[i]});
      for (std::uint32_t h = 0; h < c.heads(); ++h) c.attend(i, lengths[i] - 1, i, h, expected);
    }
    run_decode<T, Team, Heads>(c, rows, splits, order);
    check_close(c.out, expected, rounding_error<T>, 2e-5);
  }
}

/// Chunks of sequences: the last `tokens` of each.
template <class T, int Dim, int Tile>
void check_prefill(
    const attention_shape& s, const std::vector<std::uint32_t>& lengths, const std::vector<std::uint32_t>& tokens) {
  INFO("D " << s.head_dim << ", group " << s.group << ", block size " << s.block_size);
  for (const auto order : both_orders) {
    attention_case<T> c(s, lengths, std::accumulate(tokens.begin(), tokens.end(), 0U));
    buffer<cuda::prefill_tile> tiles;
    std::vector<double> expected(c.q.size());
    const std::uint32_t most = cuda::prefill_rows / s.group;
    std::uint32_t row = 0;
    for (std::uint32_t i = 0; i < lengths.size(); ++i) {
      const std::uint32_t begin = lengths[i] - tokens[i];
      for (std::uint32_t t = 0; t < tokens[i]; t += most)
        tiles.push_back({row + t, begin + t, std::min(most, tokens[i] - t), c.table_of[i]});
      for (std::uint32_t t = 0; t < tokens[i]; ++t)
        for (std::uint32_t h = 0; h < c.heads(); ++h) c.attend(i, begin + t, row + t, h, expected);
      row += tokens[i];
    }
    emulate({{static_cast<unsigned>(tiles.size()), s.kv_heads, 1}, cuda::prefill_threads,
                cuda::prefill_shared_bytes(Dim, Tile)},
        order, cuda::prefill_attention<T, Dim, Tile>, c.view(), tiles.data());
    check_close(c.out, expected, 2 * rounding_error<T>, 2 * rounding_error<T>);
  }
}

} // namespace

TEMPLATE_TEST_CASE("decode attention agrees with the definition for every head dimension and odd lengths", "",
    cuda::bf16, cuda::f16, float) {
  const std::vector<std::uint32_t> lengths{1, 17, 130};
  check_decode<TestType, 8, 4>({32, 2, 3, 16}, lengths, 1);
  check_decode<TestType, 8, 4>({64, 2, 4, 16}, lengths, 1);
  check_decode<TestType, 16, 4>({80, 1, 4, 16}, lengths, 2);
  check_decode<TestType, 16, 4>({96, 1, 3, 16}, lengths, 1);
  check_decode<TestType, 16, 4>({128, 2, 4, 16}, lengths, 3);
  check_decode<TestType, 32, 4>({256, 1, 4, 16}, lengths, 2);
}

TEST_CASE("decode attention serves every number of query heads per key head") {
  const std::vector<std::uint32_t> lengths{33, 5};
  check_decode<cuda::bf16, 8, 1>({64, 3, 1, 16}, lengths, 1);
  check_decode<cuda::bf16, 8, 4>({64, 2, 3, 16}, lengths, 2);
  check_decode<cuda::bf16, 8, 8>({64, 2, 8, 16}, lengths, 1);
  check_decode<cuda::bf16, 8, 8>({64, 1, 12, 16}, lengths, 2); // two chunks of heads, one of them partly idle
}

TEST_CASE("a context may be split into more parts than it has tokens") {
  check_decode<float, 8, 4>({64, 1, 4, 16}, {1, 3, 200}, 16);
}

TEST_CASE("decode attention takes block sizes that are no power of two") {
  check_decode<float, 8, 1>({32, 1, 1, 5}, {1, 5, 6, 77}, 2);
}

TEST_CASE("a decode batch of 257 sequences is attended row by row") {
  std::vector<std::uint32_t> lengths(257);
  for (std::uint32_t i = 0; i < lengths.size(); ++i) lengths[i] = 1 + i * 7 % 40;
  check_decode<cuda::bf16, 8, 4>({32, 1, 3, 16}, lengths, 1, {thread_order::backward});
}

TEMPLATE_TEST_CASE("prefill attention agrees with the definition for every head dimension and odd lengths", "",
    cuda::bf16, cuda::f16) {
  check_prefill<TestType, 32, 64>({32, 2, 3, 16}, {67, 1}, {67, 1});
  check_prefill<TestType, 64, 64>({64, 1, 4, 16}, {130, 33}, {35, 33});
  check_prefill<TestType, 96, 64>({80, 1, 1, 16}, {70}, {70});
  check_prefill<TestType, 96, 64>({96, 1, 3, 16}, {65}, {22});
  check_prefill<TestType, 128, 64>({128, 1, 4, 16}, {129}, {17});
  check_prefill<TestType, 256, 32>({256, 1, 8, 16}, {40}, {9});
}

TEST_CASE("a chunk of a prompt attends to what earlier chunks left in the pool") {
  check_prefill<cuda::bf16, 64, 64>({64, 2, 8, 16}, {200, 64, 65}, {3, 64, 1});
}

TEST_CASE("prefill attention takes block sizes that are no power of two") {
  check_prefill<cuda::f16, 32, 64>({32, 1, 1, 7}, {100}, {90});
}

} // namespace hflex::attention_test
